"""Convolutions whose form is chosen when they are lowered: XLA's own everywhere but on the CPU, faster ones there.

The forms for the CPU are plain operations too (`camu_jax.models.cpu`), so every JAX transformation works on all of it.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from camu_jax.models import cpu
from camu_jax.models.layers import max_pool

Weights = tuple[jax.Array, jax.Array]  # kernel [k, k, I, O] and bias [O]


def _by_platform(*args: Any, default: Callable[..., jax.Array], fast: Callable[..., jax.Array]) -> jax.Array:
    """`fast(*args)` in programs for the CPU, `default(*args)` in others; both compute the same. Within `jax.jit`."""
    if jax.sharding.get_abstract_mesh().explicit_axes:
        return default(*args)  # the fast forms do not tell how their reshaped arrays are sharded
    # Differentiated as it is, the choice would be made in the forward pass alone. The backward pass of a jitted
    # function would then hold a conditional, in which XLA runs convolutions on the CPU twenty times slower, and the
    # forward pass would return what both forms keep for it. Behind `checkpoint` each pass starts from the arguments
    # and chooses anew; what they compute twice within one program, XLA computes once.
    choice = functools.partial(jax.lax.platform_dependent, default=default, cpu=fast)
    return jax.checkpoint(choice, prevent_cse=False)(*args)


def convolve(x: jax.Array, kernel: jax.Array, strides: Any, padding: Any, **options: Any) -> jax.Array:
    """`jax.lax.conv_general_dilated`, on the CPU in pieces or as products where that is faster (bench/NOTES.md).

    For `flax.linen.Conv(conv_general_dilated=convolve)` without groups and dilation.
    """
    if not isinstance(padding, str):
        padding = tuple(map(tuple, padding))
    return _convolve(x, kernel, tuple(strides), padding, tuple(options.items()))


@functools.partial(jax.jit, static_argnums=(2, 3, 4))  # so that calls outside of a jitted function are fast as well
def _convolve(
    x: jax.Array, kernel: jax.Array, strides: tuple[int, ...], padding: Any, options: tuple[Any, ...]
) -> jax.Array:
    def default(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return jax.lax.conv_general_dilated(x, kernel, strides, padding, **dict(options))

    fast = _fast(x, kernel, strides, padding, default)
    return default(x, kernel) if fast is None else _by_platform(x, kernel, default=default, fast=fast)


def _fast(
    x: jax.Array, kernel: jax.Array, strides: tuple[int, ...], padding: Any, default: Callable[..., Any]
) -> Callable[..., jax.Array] | None:
    """The fastest form on the CPU, of those that were measured; None is the convolution itself."""
    side, channels = kernel.shape[0], min(kernel.shape[2:])
    even = x.shape[1] % 2 == x.shape[2] % 2 == 0
    same = kernel.shape[1] == side and padding == ((side // 2, side // 2),) * 2
    if x.dtype not in (jnp.float32, jnp.float64) or not even or not same:
        return None
    if (side, strides) == (3, (1, 1)):
        return cpu.conv3x3 if channels >= 128 else functools.partial(cpu.in_pieces, default)
    if (side, strides) == (3, (2, 2)) and channels >= 32:
        return cpu.conv3x3_stride2
    if (side, strides) == (1, (2, 2)) and channels >= 32:
        return cpu.conv1x1_stride2
    return None


@functools.partial(jax.jit, inline=True)  # as a call of its own within a step XLA orders it worse: 14 ms for 11
def conv_pool_twice(x: jax.Array, first: Weights, second: Weights) -> jax.Array:
    """Two times a convolution that keeps the size, 2x2 max pooling, bias and ReLU.

    On the CPU piece by piece through both layers (bench/NOTES.md).

    Args:
      x: `[B, H, W, I]`.
      first: kernel `[k, k, I, M]`, k odd, and bias `[M]`.
      second: kernel `[k, k, M, O]` and bias `[O]`.

    Returns:
      `[B, H/4, W/4, O]`.
    """
    return _by_platform(x, first, second, default=_conv_pool_twice, fast=_conv_pool_twice_in_pieces)


def _conv_pool_twice(x: jax.Array, first: Weights, second: Weights) -> jax.Array:
    for kernel, bias in (first, second):
        x = max_pool(_same_size(x, kernel))
        x = nn.relu(x + bias.reshape(1, 1, 1, -1))
    return x


def _same_size(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _conv_pool_twice_in_pieces(x: jax.Array, first: Weights, second: Weights) -> jax.Array:
    """The same; the first convolution and its pooling are one product."""
    (kernel, bias), (second_kernel, second_bias) = first, second
    weights = cpu.window_weights(kernel)

    def of_windows(windows: jax.Array) -> jax.Array:
        y = nn.relu(cpu.pool_products(windows, weights) + bias.reshape(1, 1, 1, -1))
        return nn.relu(max_pool(_same_size(y, second_kernel)) + second_bias.reshape(1, 1, 1, -1))

    return cpu.in_pieces(of_windows, cpu.pool_windows(x, kernel.shape[0]))
