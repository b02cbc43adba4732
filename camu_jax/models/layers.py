"""Layers written so that XLA runs them fast on every backend, with PyTorch's default initialisation."""

import functools
import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from camu_jax.models.convolution import conv3x3, conv3x3_stride2


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


class ConvPool(nn.Module):
    """A stride-1 convolution with bias that keeps the size, then `max_pool`.

    Attributes:
      features: output channels.
      size: side of the kernel, odd.
      windows: take `pool_windows(x, size)` for x and compute the same by one matrix product. For one input channel that
        is faster on the CPU than XLA's convolution (bench/NOTES.md).
    """

    features: int
    size: int = 5
    windows: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`[B, H, W, I]`, or its windows -> `[B, H/2, W/2, features]`."""
        k, channels = self.size, x.shape[-1]
        if self.windows:
            channels //= (k + 1) ** 2
        init = _uniform(k * k * channels)
        kernel = self.param("kernel", init, (k, k, channels, self.features))
        bias = self.param("bias", init, (self.features,))
        if self.windows:
            # The four places of the kernel in a window; the pooling then takes the largest of four columns.
            places = [jnp.pad(kernel, ((i, 1 - i), (j, 1 - j), (0, 0), (0, 0))) for i in (0, 1) for j in (0, 1)]
            y = x.reshape(-1, x.shape[-1]) @ jnp.concatenate(places, axis=-1).reshape(x.shape[-1], -1)
            a, b, c, d = (y[:, i * self.features : (i + 1) * self.features] for i in range(4))
            y = jnp.maximum(jnp.maximum(a, b), jnp.maximum(c, d)).reshape(*x.shape[:-1], self.features)
        else:
            y = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
            y = max_pool(y)
        return y + bias.reshape(1, 1, 1, -1)


def convolve(x: jax.Array, kernel: jax.Array, strides: Any, padding: Any, **options: Any) -> jax.Array:
    """`jax.lax.conv_general_dilated`, on the CPU in pieces or as products where that is faster (bench/NOTES.md).

    For `flax.linen.Conv(conv_general_dilated=convolve)` without groups and dilation.
    """
    side, stride, channels = kernel.shape[0], tuple(strides), min(kernel.shape[2:])
    even = x.shape[1] % 2 == x.shape[2] % 2 == 0
    same = kernel.shape[1] == side and list(padding) == [(side // 2, side // 2)] * 2
    if jax.default_backend() == "cpu" and x.dtype in (jnp.float32, jnp.float64) and even and same:
        if (side, *stride) == (3, 1, 1):
            if channels >= 128:
                return conv3x3(x, kernel)
            plain = functools.partial(jax.lax.conv_general_dilated, rhs=kernel, window_strides=strides, padding=padding)
            return jnp.concatenate([plain(piece, **options) for piece in pieces(x)])
        if (side, *stride) == (3, 2, 2) and channels >= 32:
            return conv3x3_stride2(x, kernel)
        if (side, *stride) == (1, 2, 2) and channels >= 32:
            return x[:, ::2, ::2] @ kernel[0, 0]
    return jax.lax.conv_general_dilated(x, kernel, strides, padding, **options)


def pool_windows(x: jax.Array, size: int = 5) -> jax.Array:
    """What each 2x2 window of a pooling sees through a kernel: `[B, H, W, I]` -> `[B, H/2, W/2, (size + 1)^2 I]`."""
    _, h, w, _ = x.shape
    x = jnp.pad(x, ((0, 0), (size // 2, size // 2), (size // 2, size // 2), (0, 0)))
    at = [(i, j) for i in range(size + 1) for j in range(size + 1)]
    return jnp.concatenate([x[:, i : i + h - 1 : 2, j : j + w - 1 : 2] for i, j in at], axis=-1)


def max_pool(x: jax.Array) -> jax.Array:
    """Max over non-overlapping 2x2 windows, `[B, H, W, C]` -> `[B, H/2, W/2, C]`.

    Its gradient needs no scatter; where values tie, each pair of them halves it.
    """
    b, h, w, c = x.shape
    x = x[:, : h // 2 * 2, : w // 2 * 2].reshape(b, h // 2, 2, w // 2, 2, c)
    upper, lower = (jnp.maximum(x[:, :, i, :, 0], x[:, :, i, :, 1]) for i in (0, 1))
    return jnp.maximum(upper, lower)


def pieces(x: jax.Array) -> list[jax.Array]:
    """The batch in pieces that one CPU device works on side by side: `[B, ...]` -> arrays of 8 rows and more.

    XLA runs a small convolution on one core, and those of the pieces at the same time; what a piece leaves stays in the
    cache. On other backends, and where the CPU is several devices, the batch stays whole.
    """
    if jax.default_backend() != "cpu" or jax.local_device_count() > 1:
        return [x]
    rows = max(min(max(len(x) // 8, 8), 32), -(-len(x) // 16))  # 8 to 32; more where that makes over 16 pieces
    return [x[i : i + rows] for i in range(0, len(x), rows)]
