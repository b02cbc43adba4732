"""Checks of what callers pass in. Each message names the argument, its value and what is allowed."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from camu_jax.rows import Picked

_PIECE = 2**24  # numbers that are looked at together: what lies on disk would not fit into memory all at once


def is_concrete(array: Any) -> bool:
    """Whether an array's contents can be looked at: whether none of it is being traced."""
    return not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(array))


def at_least(minimum: float, /, **values: float) -> None:
    """Raises ValueError unless every value is a finite number >= `minimum`."""
    for name, value in values.items():
        if not minimum <= value < float("inf"):
            raise ValueError(f"{name} is {value}; allowed: a finite number >= {minimum}")


def above(minimum: float, /, **values: float) -> None:
    """Raises ValueError unless every value is a finite number > `minimum`."""
    for name, value in values.items():
        if not minimum < value < float("inf"):
            raise ValueError(f"{name} is {value}; allowed: a finite number > {minimum}")


def between(low: float, high: float, /, **values: float) -> None:
    """Raises ValueError unless every value lies in [low, high]."""
    for name, value in values.items():
        if not low <= value <= high:
            raise ValueError(f"{name} is {value}; allowed: {low} to {high}")


def one_of(allowed: tuple[str, ...], /, **values: str) -> None:
    """Raises ValueError unless every value is one of `allowed`."""
    for name, value in values.items():
        if value not in allowed:
            raise ValueError(f"{name} is {value!r}; allowed: {', '.join(allowed)}")


def examples(name: str, x: Any, y: Any, num_classes: int) -> None:
    """Raises TypeError or ValueError unless `x`, `y`, `num_classes` make usable labelled inputs."""
    for part, array in (("x", x.array if isinstance(x, Picked) else x), ("y", y)):
        if not isinstance(array, jax.Array | np.ndarray):
            raise TypeError(f"{name}.{part} is a {type(array).__name__}; allowed: a JAX or NumPy array")
    if isinstance(num_classes, bool) or not isinstance(num_classes, int):
        raise TypeError(f"{name}.num_classes is {num_classes!r}; allowed: a Python int")
    if num_classes < 2:
        raise ValueError(f"{name}.num_classes is {num_classes}; allowed: 2 or more")
    if not (jnp.issubdtype(x.dtype, jnp.floating) or jnp.issubdtype(x.dtype, jnp.integer)):
        raise TypeError(
            f"{name}.x has dtype {x.dtype}; allowed: uint8 (stored images), a floating type, or another integer type "
            "(tokens)"
        )
    if not jnp.issubdtype(y.dtype, jnp.integer):
        raise TypeError(f"{name}.y has dtype {y.dtype}; allowed: an integer type")
    if num_classes - 1 > jnp.iinfo(y.dtype).max:
        raise ValueError(f"{name}.num_classes is {num_classes}; allowed: what labels of dtype {y.dtype} can hold")
    if x.ndim < 2:
        raise ValueError(f"{name}.x has shape {x.shape}; allowed: [N, *image]")
    if x.dtype == jnp.uint8 and x.ndim != 4:
        raise ValueError(
            f"{name}.x is uint8 of shape {x.shape}; allowed: stored images [N, H, W, channels] (give images of one "
            "channel an axis for it, and tables as floats)"
        )
    if 0 in x.shape[1:]:
        raise ValueError(f"{name}.x has shape {x.shape}; allowed: no axis of length 0")
    if y.ndim != 1:
        raise ValueError(f"{name}.y has shape {y.shape}; allowed: [N]")
    if x.shape[0] != y.shape[0]:
        raise ValueError(f"{name}.x holds {x.shape[0]} examples and {name}.y {y.shape[0]} labels; allowed: as many")
    if x.shape[0] == 0:
        raise ValueError(f"{name} is empty; allowed: at least one example")
    _contents(name, x, y, num_classes)


def _contents(name: str, x: Any, y: Any, num_classes: int) -> None:
    """The part of `examples` that looks at values; it is left out for arrays that are being traced."""
    # Within somebody's jit or scan even the minimum of a concrete array would be traced, but for this context.
    with jax.ensure_compile_time_eval():
        if is_concrete(y):
            low, high = int(y.min()), int(y.max())
            if low < 0 or high >= num_classes:
                bad = low if low < 0 else high
                raise ValueError(f"{name}.y holds the label {bad}; allowed: 0 to {num_classes - 1}")
        if not (jnp.issubdtype(x.dtype, jnp.floating) and is_concrete(x)):
            return
        rows = max(1, _PIECE // math.prod(x.shape[1:]))
        for start in range(0, x.shape[0], rows):
            finite = jnp.isfinite(x[start : start + rows])
            if not bool(finite.all()):
                row = start + int(jnp.argmin(finite.reshape(finite.shape[0], -1).all(axis=1)))
                raise ValueError(f"{name}.x holds NaN or infinity (first in example {row}); allowed: finite numbers")


def with_arithmetic(name: str, dtype: Any, method: str, why: str) -> None:
    """Raises TypeError unless a method that computes with its inputs themselves can do so."""
    if not (dtype == jnp.uint8 or jnp.issubdtype(dtype, jnp.floating)):
        raise TypeError(
            f"{name}.x has dtype {dtype}; allowed with {method}: uint8 (stored images) or a floating type, as {why}"
        )
