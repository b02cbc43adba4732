"""Functions that compare by what they are made of, so that equal ones compile a jitted step once.

JAX takes a static argument for another one unless it compares equal, and two closures never do: a fresh
`optax.adam(1e-3)` would compile everything again. `by_value` compares code, defaults and the contents of closures.
"""

import functools
import types
from collections.abc import Callable, Hashable
from typing import Any

import jax
import numpy as np
import optax


class _ByValue:
    """A callable with a value; the value is taken when it is made, so its closure must not change afterwards."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._value = _value(function, ())
        self._hash = hash(self._value)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._function(*args, **kwargs)

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return isinstance(other, _ByValue) and self._hash == other._hash and self._value == other._value

    def __hash__(self) -> int:
        return self._hash

    def __repr__(self) -> str:
        return repr(self._function)


class _Same:
    """Compares by identity, and keeps what it stands for, so that its `id` is not used again."""

    def __init__(self, thing: object) -> None:
        self._thing = thing

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self._thing is other._thing

    def __hash__(self) -> int:
        return id(self._thing)


def by_value(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, comparing and hashing by what it is made of.

    Two results are equal where the functions have the same code, globals, defaults and equal contents of their
    closures, all the way down; what has no value of its own counts by identity. The value is taken now.
    """
    return function if isinstance(function, _ByValue) else _ByValue(function)


def by_value_transformation(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """An Optax transformation whose two functions compare by value; of the same type."""
    return type(optimizer)(by_value(optimizer.init), by_value(optimizer.update))


def _value(thing: Any, above: tuple[int, ...]) -> Hashable:
    """A hashable stand-in for a function or for what it holds. `above` has the ids of what contains it."""
    if id(thing) in above:
        return ("itself", above.index(id(thing)))
    inner = (*above, id(thing))
    if isinstance(thing, _ByValue):
        return thing._value
    if isinstance(thing, types.FunctionType):
        cells = [_cell(cell, inner) for cell in thing.__closure__ or ()]
        defaults = _value((thing.__defaults__, thing.__kwdefaults__), inner)
        return ("function", thing.__code__, _Same(thing.__globals__), defaults, tuple(cells))
    if isinstance(thing, types.MethodType):
        return ("method", _value(thing.__func__, inner), _value(thing.__self__, inner))
    if isinstance(thing, functools.partial):
        return ("partial", _value((thing.func, thing.args, thing.keywords), inner))
    if isinstance(thing, tuple | list):
        return (type(thing), tuple(_value(part, inner) for part in thing))
    if isinstance(thing, dict):
        return (dict, tuple((key, _value(part, inner)) for key, part in thing.items()))
    if isinstance(thing, np.ndarray) or (isinstance(thing, jax.Array) and not isinstance(thing, jax.core.Tracer)):
        return _of_array(thing)
    if isinstance(thing, int | float | str | bytes | bool | complex | None):
        return (type(thing), thing)  # 1 and True, and 1 and 1.0, are not the same constant
    return _hashable(thing)


def _cell(cell: types.CellType, above: tuple[int, ...]) -> Hashable:
    try:
        return _value(cell.cell_contents, above)
    except ValueError:  # not filled yet
        return _Same(cell)


def _of_array(array: Any) -> Hashable:
    if isinstance(array, jax.Array) and jax.dtypes.issubdtype(array.dtype, jax.dtypes.prng_key):
        return ("key", str(array.dtype), _of_array(jax.random.key_data(array)))
    if array.nbytes > 2**16:
        return _Same(array)
    host = np.asarray(array)
    return ("array", host.dtype.str, host.shape, host.tobytes())


def _hashable(thing: Any) -> Hashable:
    """The thing itself where it has a hash (which is then a value, or at least an identity)."""
    try:
        hash(thing)
    except TypeError:
        return _Same(thing)
    return (type(thing), thing)
