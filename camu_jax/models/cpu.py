"""Convolutions in pieces and as matrix products, for the CPU.

Plain operations whose transposes are as fast as they are themselves: every JAX transformation works.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (2016), F(2x2, 3x3): 16 products for 36.
# Y = A^T [(G g G^T) * (B^T d B)] A for a 2x2 tile Y of the output, a 3x3 kernel g and the 4x4 tile d of the input.
_INPUT = np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]])  # B^T
_KERNEL = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])  # G
_OUTPUT = np.array([[1, 1, 1, 0], [0, 1, -1, -1]])  # A^T


def in_pieces(function: Callable[..., jax.Array], x: jax.Array, *args: Any) -> jax.Array:
    """`function(x, *args)` of pieces of the batch x, `[B, ...]`, joined."""
    return jnp.concatenate([function(piece, *args) for piece in pieces(x)])


def pieces(x: jax.Array) -> list[jax.Array]:
    """The batch in pieces that one CPU device works on side by side: `[B, ...]` -> arrays of 8 rows and more.

    XLA runs a small convolution on one core, and those of the pieces at the same time; what a piece leaves stays in the
    cache. Where the active mesh has several devices, the batch is split over them already and stays whole.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if not mesh.empty and mesh.size > 1:
        return [x]
    rows = max(min(max(len(x) // 8, 8), 32), -(-len(x) // 16))  # 8 to 32; more where that makes over 16 pieces
    return jnp.split(x, list(range(rows, len(x), rows)))


def conv3x3(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """A convolution of stride 1 that keeps the size, by Winograd's algorithm.

    In float32 it differs from the direct sum by rounding, about 1e-6 of the largest value.

    Args:
      x: `[B, H, W, I]`, H and W even.
      kernel: `[3, 3, I, O]`.

    Returns:
      `[B, H, W, O]`.
    """
    b, h, w, i = x.shape
    o = kernel.shape[-1]
    rows = _times(_INPUT, jnp.stack(_neighbours(x, 1))).reshape(4 * b, h // 2, w, i)
    tiles = _times(_INPUT, jnp.stack(_neighbours(rows, 2))).reshape(16, -1, i)  # a tile's column, then its row
    weights = _times(np.kron(_KERNEL, _KERNEL), kernel.swapaxes(0, 1).reshape(9, i, o))
    y = _times(np.kron(_OUTPUT, _OUTPUT), tiles @ weights).reshape(2, 2, b, h // 2, w // 2, o)
    return y.transpose(2, 3, 1, 4, 0, 5).reshape(b, h, w, o)


def conv3x3_stride2(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """A convolution of stride 2 with one row and column of zeros on each side.

    Args:
      x: `[B, H, W, I]`, H and W even.
      kernel: `[3, 3, I, O]`.

    Returns:
      `[B, H/2, W/2, O]`.
    """
    places = [place for row in _neighbours(x, 1)[:3] for place in _neighbours(row, 2)[:3]]
    return jnp.concatenate(places, axis=-1) @ kernel.reshape(-1, kernel.shape[-1])


def conv1x1_stride2(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """A convolution of stride 2 with a kernel of one pixel: `[B, H, W, I]`, `[1, 1, I, O]` -> `[B, H/2, W/2, O]`."""
    return x[:, ::2, ::2] @ kernel[0, 0]


def pool_windows(x: jax.Array, size: int = 5) -> jax.Array:
    """What each 2x2 window of a pooling sees through a kernel: `[B, H, W, I]` -> `[B, H/2, W/2, (size + 1)^2 I]`."""
    b, h, w, channels = x.shape
    edge = (size // 2, size // 2, 0)
    x = jax.lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), edge, edge, (0, 0, 0)])
    seen = []
    for i in range(size + 1):
        for j in range(size + 1):
            seen.append(jax.lax.slice(x, (0, i, j, 0), (b, i + h - 1, j + w - 1, channels), (1, 2, 2, 1)))
    return jnp.concatenate(seen, axis=-1)


def window_weights(kernel: jax.Array) -> jax.Array:
    """A kernel at its four places in a window of `pool_windows`: `[k, k, I, O]` -> `[(k + 1)^2 I, 4 O]`."""
    zero = jnp.zeros((), kernel.dtype)
    places = []
    for i in (0, 1):
        for j in (0, 1):
            places.append(jax.lax.pad(kernel, zero, [(i, 1 - i, 0), (j, 1 - j, 0), (0, 0, 0), (0, 0, 0)]))
    return jnp.concatenate(places, axis=-1).reshape(-1, 4 * kernel.shape[-1])


def pool_products(windows: jax.Array, weights: jax.Array) -> jax.Array:
    """A convolution and its pooling as one matrix product: the largest of four columns.

    Args:
      windows: `pool_windows` of the images, `[B, H/2, W/2, (k + 1)^2 I]`.
      weights: `window_weights` of the kernel, `[(k + 1)^2 I, 4 O]`.

    Returns:
      `[B, H/2, W/2, O]`.
    """
    a, b, c, d = jnp.split(windows.reshape(-1, windows.shape[-1]) @ weights, 4, axis=-1)
    return jnp.maximum(jnp.maximum(a, b), jnp.maximum(c, d)).reshape(*windows.shape[:-1], -1)


def _neighbours(x: jax.Array, axis: int) -> list[jax.Array]:
    """The values at 2i - 1 to 2i + 2 along an axis of length 2n, for each i: four arrays of length n."""
    pairs = x.reshape(*x.shape[:axis], x.shape[axis] // 2, 2, *x.shape[axis + 1 :])
    even, odd = (a.squeeze(axis + 1) for a in jnp.split(pairs, 2, axis + 1))
    return [_shift(odd, axis, 1), even, odd, _shift(even, axis, -1)]


def _shift(x: jax.Array, axis: int, by: int) -> jax.Array:
    """Moves x along an axis; zeros come in."""
    edges = [(by, -by, 0) if i == axis else (0, 0, 0) for i in range(x.ndim)]
    return jax.lax.pad(x, jnp.zeros((), x.dtype), edges)


def _times(matrix: np.ndarray, arrays: jax.Array) -> jax.Array:
    """Sums of arrays weighted by a matrix's rows: `[M, N]`, `[N, ...]` -> `[M, ...]`."""
    total = jnp.asarray(matrix, arrays.dtype) @ arrays.reshape(len(arrays), -1)
    return total.reshape(-1, *arrays.shape[1:])
