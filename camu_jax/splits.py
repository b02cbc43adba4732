"""Cutting a set of examples in two, what shall be forgotten or held out and the rest, and joining sets."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from camu_jax import _validate
from camu_jax.rows import Picked, concatenate, is_mapped
from camu_jax.types import Examples

Rows = Sequence[int] | np.ndarray | jax.Array
"""Row numbers, `[K]` integer, or a boolean mask, `[N]`."""


def split(examples: Examples, rows: Rows) -> tuple[Examples, Examples]:
    """Splits examples into some of them and the others.

    Args:
      examples: `N` of them.
      rows: numbers of the rows to take, each once and in any order, or a boolean mask.

    Returns:
      The chosen examples and the others, both in the order of `examples`. Parts of images that are memory-mapped, or
      picked already, share them and are read when they are used.

    Raises:
      TypeError: `rows` is neither.
      ValueError: a row is out of range or named twice, a mask has another length, or one of the parts would be empty.
    """
    chosen = mask(np.asarray(rows), len(examples))
    if chosen.all() or not chosen.any():
        raise ValueError(f"rows chooses {int(chosen.sum())} of {len(chosen)} examples; allowed: 1 to {len(chosen) - 1}")
    take = examples.pick if isinstance(examples.x, Picked) or is_mapped(examples.x) else examples.__getitem__
    return take(jnp.flatnonzero(chosen)), take(jnp.flatnonzero(~chosen))


def join(*parts: Examples) -> Examples:
    """Sets of examples one behind the other; images that they share are not copied."""
    x, y = concatenate([part.x for part in parts]), concatenate([part.y for part in parts])
    return Examples(x, y, parts[0].num_classes)


def mask(rows: np.ndarray, total: int) -> np.ndarray:
    """Which of `total` rows are named.

    Args:
      rows: row numbers, each once, or a mask `[total]`, which is returned.
      total: how many rows there are.

    Raises:
      TypeError: neither numbers nor booleans.
      ValueError: another shape, a row that does not exist, or one named twice.
    """
    if rows.dtype == bool:
        if rows.shape != (total,):
            raise ValueError(f"rows is a mask of shape {rows.shape}; allowed: [{total}]")
        return rows
    if not np.issubdtype(rows.dtype, np.integer) and rows.size:
        raise TypeError(f"rows has dtype {rows.dtype}; allowed: row numbers, or a boolean mask")
    if rows.ndim != 1:
        raise ValueError(f"rows has shape {rows.shape}; allowed: one list of row numbers, or a boolean mask")
    outside = rows[(rows < 0) | (rows >= total)]
    if outside.size:
        raise ValueError(f"rows holds {outside[0]}; allowed: 0 to {total - 1}")
    numbers, counts = np.unique(rows, return_counts=True)
    if (counts > 1).any():
        raise ValueError(f"rows holds {numbers[counts > 1][0]} twice; allowed: each row once")
    chosen = np.zeros(total, bool)
    chosen[numbers.astype(np.int64)] = True
    return chosen


def random_rows(key: jax.Array, total: int, count: int) -> np.ndarray:
    """Draws `count` of `total` row numbers at random, without replacement.

    Args:
      key: a `jax.random` key; consumed.
      total: how many rows there are.
      count: how many to draw, 1 to `total` - 1, so that `split` leaves no part empty.

    Returns:
      `[count]` row numbers.

    Raises:
      ValueError: `count` is out of range.
    """
    _validate.between(1, total - 1, count=count)
    return np.asarray(jax.random.permutation(key, total)[:count])
