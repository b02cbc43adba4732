"""The paper's two models, and the convolution they are made of."""

from camu_jax.models.cnn import CNN, cnn
from camu_jax.models.convolution import convolve, missing
from camu_jax.models.resnet import ResNet18, resnet18

__all__ = ("CNN", "ResNet18", "cnn", "convolve", "missing", "resnet18")
