"""Some rows of an array, picked when they are read: parts of a data set that share its images.

    train = np.load("images.npy", mmap_mode="r")     # stays on disk
    forget = pick(train, [3, 17, 42])                # nothing is read
    forget[:2]                                       # two images are

The same holds for an array on the device: many forget sets of one training set are so many lists of numbers.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Picked:
    """Some rows of an array, without a copy of them.

    To read is to index, which copies: `picked[2:5]`, or all of it, `picked[:]`. What is read of a NumPy array is a
    NumPy array, and of a JAX array a JAX array. As a pytree it has two leaves; who maps over rows takes it for one
    leaf, with `is_leaf=is_picked`.

    Attributes:
      array: `[M, ...]`.
      rows: numbers of its rows, `[N]` integer, in any order; the same one may come again.
    """

    array: Any
    rows: Any

    @property
    def shape(self) -> tuple[int, ...]:
        """`(N, ...)`."""
        return (*self.rows.shape, *self.array.shape[1:])

    @property
    def ndim(self) -> int:
        """As the array's."""
        return len(self.shape)

    @property
    def dtype(self) -> Any:
        """As the array's."""
        return self.array.dtype

    def __len__(self) -> int:
        return int(self.rows.shape[0])

    def __getitem__(self, rows: Any) -> Any:
        """Reads some rows: a slice, a boolean mask, or row numbers, of the N."""
        return self.array[self.rows[rows]]

    def __iter__(self) -> Iterator[Any]:
        return (self[i] for i in range(len(self)))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("copy is False; allowed: True or None, as picked rows are copied when they are read")
        return np.asarray(self[:], dtype)

    def __jax_array__(self) -> jax.Array:
        return jnp.asarray(self[:])


def is_picked(array: Any) -> bool:
    """Whether rows are picked when they are read."""
    return isinstance(array, Picked)


def pick(array: Any, rows: Any) -> Picked:
    """`array[rows]`, picked when it is read.

    Args:
      array: `[M, ...]`, a NumPy or a JAX array; of a `Picked` the rows are picked from its own array.
      rows: row numbers, a boolean mask or a slice; traced ones for an array on the device only.

    Returns:
      `[N, ...]`.
    """
    if isinstance(array, Picked):
        return Picked(array.array, array.rows[rows])
    numbers = np.arange(len(array)) if isinstance(array, np.ndarray) else jnp.arange(len(array))
    return Picked(array, numbers[rows])


def concatenate(parts: Sequence[Any]) -> Any:
    """Arrays one behind the other, `[N_i, ...]` -> `[sum of N_i, ...]`; where they share an array, it is not read.

    In host memory where all of them are.
    """
    numpy = np if all(map(in_host_memory, parts)) else jnp
    if all(isinstance(part, Picked) and part.array is parts[0].array for part in parts):
        return Picked(parts[0].array, numpy.concatenate([part.rows for part in parts]))
    return numpy.concatenate([part[:] for part in parts])


def in_host_memory(array: Any) -> bool:
    """Whether rows have to be sent to the device: whether they are those of a NumPy array."""
    return isinstance(array.array if isinstance(array, Picked) else array, np.ndarray)


def is_mapped(array: Any) -> bool:
    """Whether an array lies in a file, memory-mapped; a view of such an array does."""
    while isinstance(array, np.ndarray) and not isinstance(array, np.memmap):
        array = array.base
    return isinstance(array, np.memmap)
