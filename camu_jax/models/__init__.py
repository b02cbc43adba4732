"""The paper's two models."""

from camu_jax.models.cnn import CNN, cnn
from camu_jax.models.resnet import ResNet18, resnet18

__all__ = ("CNN", "ResNet18", "cnn", "resnet18")
