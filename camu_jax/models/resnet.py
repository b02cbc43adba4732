"""ResNet-18 for the CIFAR data sets (He et al., 2016; the paper's A.2.1)."""

import functools
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from camu_jax.model import Model, from_linen
from camu_jax.models.convolution import convolve
from camu_jax.models.layers import Linear
from camu_jax.types import Outputs

Stem = Literal["3x3", "imagenet"]
_he_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
_Conv = functools.partial(nn.Conv, use_bias=False, kernel_init=_he_fan_out, conv_general_dilated=convolve)


class BatchNorm(nn.BatchNorm):
    """Flax's BatchNorm with PyTorch's settings; it records the unbiased variance of a batch, n / (n - 1) of its own."""

    momentum: float = 0.9  # the weight of the old average; PyTorch's 0.1 is that of the new batch
    epsilon: float = 1e-5

    def __call__(self, x: Any, use_running_average: bool | None = None, *, mask: jax.Array | None = None) -> Any:
        """Normalises `[B, ..., C]`; arguments as of `flax.linen.BatchNorm`."""
        before: jax.Array = self.get_variable("batch_stats", "var")
        y = super().__call__(x, use_running_average, mask=mask)
        recorded: jax.Array = self.get_variable("batch_stats", "var")
        if recorded is not before and not self.is_initializing():  # in training
            share = 1.0 if mask is None else jnp.mean(jnp.broadcast_to(mask, x.shape))
            n = jnp.maximum(share * (x.size // x.shape[-1]), 2.0)
            old = self.momentum * before
            self.put_variable("batch_stats", "var", old + (recorded - old) * (n / (n - 1)))
        return y


class ResNet18(nn.Module):
    """Eight basic blocks with BatchNorm; the embedding is the average-pooled last stage.

    At width 64 and 10 classes: 11 173 962 parameters with the 3x3 stem, 11 181 642 with the ImageNet stem.

    Attributes:
      num_classes: C.
      width: channels of the first stage; the others have 2, 4 and 8 times as many.
      stem: `3x3` keeps 32x32 images at full size; `imagenet` is the 7x7 convolution of stride 2 and a max pool.
    """

    num_classes: int
    width: int = 64
    stem: Stem = "3x3"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> Outputs:
        norm = functools.partial(BatchNorm, use_running_average=not train)
        if self.stem == "3x3":
            x = nn.relu(norm()(_Conv(self.width, (3, 3), padding=1)(x)))
        else:
            x = nn.relu(norm()(_Conv(self.width, (7, 7), strides=2, padding=3)(x)))
            x = nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
        for stage in range(4):
            for block in range(2):
                stride = 2 if stage and not block else 1
                x = _Block(self.width * 2**stage, stride)(x, train)
        embedding = jnp.mean(x, axis=(1, 2))
        return Outputs(Linear(self.num_classes)(embedding), embedding)


class _Block(nn.Module):
    features: int
    stride: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        norm = functools.partial(BatchNorm, use_running_average=not train)
        y = nn.relu(norm()(_Conv(self.features, (3, 3), strides=self.stride, padding=1)(x)))
        y = norm()(_Conv(self.features, (3, 3), padding=1)(y))
        if self.stride != 1 or x.shape[-1] != self.features:
            x = norm()(_Conv(self.features, (1, 1), strides=self.stride, padding=0)(x))
        return nn.relu(x + y)


def resnet18(
    num_classes: int, image_shape: tuple[int, ...] = (32, 32, 3), *, width: int = 64, stem: Stem = "3x3"
) -> Model:
    """ResNet-18 as a `Model`."""
    return from_linen(ResNet18(num_classes, width, stem), image_shape)
