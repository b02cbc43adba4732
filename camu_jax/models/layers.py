"""Layers written so that XLA runs them fast on every backend, with PyTorch's default initialisation."""

import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


def _uniform(fan_in: int) -> nn.initializers.Initializer:
    """U(-1/sqrt(fan_in), 1/sqrt(fan_in)): PyTorch's default for weights and biases of linear and convolution layers."""
    bound = 1 / math.sqrt(fan_in)

    def init(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32, out_sharding: Any = None) -> jax.Array:
        del out_sharding
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


class Linear(nn.Module):
    """An affine layer, `[..., I]` -> `[..., features]`."""

    features: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        init = _uniform(x.shape[-1])
        return nn.Dense(self.features, kernel_init=init, bias_init=init)(x)


class Conv(nn.Module):
    """A stride-1 convolution with bias that keeps the size, `[B, H, W, I]` -> `[B, H, W, features]`.

    Attributes:
      features: output channels.
      size: side of the kernel.
      patches: write it as patches times a matrix, the same sums in another order. On the CPU that is faster than
        XLA's convolution for one input channel, and slower for many.
    """

    features: int
    size: int = 5
    patches: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        k, (_, h, w, channels) = self.size, x.shape
        init = _uniform(k * k * channels)
        kernel = self.param("kernel", init, (k, k, channels, self.features))
        bias = self.param("bias", init, (self.features,))
        if self.patches:
            x = jnp.pad(x, ((0, 0), (k // 2, k // 2), (k // 2, k // 2), (0, 0)))
            x = jnp.concatenate([x[:, i : i + h, j : j + w] for i in range(k) for j in range(k)], axis=-1)
            y = x @ kernel.reshape(-1, self.features)
        else:
            y = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return y + bias.reshape(1, 1, 1, -1)


def max_pool(x: jax.Array) -> jax.Array:
    """Max over non-overlapping 2x2 windows, `[B, H, W, C]` -> `[B, H/2, W/2, C]`; its gradient needs no scatter."""
    b, h, w, c = x.shape
    return x[:, : h // 2 * 2, : w // 2 * 2].reshape(b, h // 2, 2, w // 2, 2, c).max(axis=(2, 4))
