"""Layers with PyTorch's default initialisation, and a pooling."""

import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


def uniform(fan_in: int) -> nn.initializers.Initializer:
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
        init = uniform(x.shape[-1])
        return nn.Dense(self.features, kernel_init=init, bias_init=init)(x)


def max_pool(x: jax.Array) -> jax.Array:
    """Max over non-overlapping 2x2 windows, `[B, H, W, C]` -> `[B, H/2, W/2, C]`.

    Its gradient needs no scatter; where values tie, each pair of them halves it.
    """
    b, h, w, c = x.shape
    x = x[:, : h // 2 * 2, : w // 2 * 2].reshape(b, h // 2, 2, w // 2, 2, c)
    upper, lower = (jnp.maximum(x[:, :, i, :, 0], x[:, :, i, :, 1]) for i in (0, 1))
    return jnp.maximum(upper, lower)
