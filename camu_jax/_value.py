"""Functions that compare by what they are made of, so that equal ones compile a jitted step once.

JAX takes a static argument for another one unless it compares equal, and two closures never do: a fresh
`optax.adam(1e-3)` would compile everything again. `by_value` compares code, defaults, and what closures and the globals
that are named hold.
"""

import collections
import dataclasses
import functools
import types
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import optax

_LARGE = 2**16
"""Arrays of more bytes count by identity: to compare them would cost more than it saves."""


class _ByValue:
    """A callable with a value, taken when it is made: what it is made of must not change afterwards."""

    def __init__(self, function: Callable[..., Any]) -> None:
        functools.update_wrapper(self, function)  # name and signature, which `jax.jit` looks at
        self._function = function
        self._value = _value(function)
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

    Two results are equal where the functions have the same code and module, and equal defaults, contents of their
    closures and globals that they name, all the way down; what has no value of its own, and functions and classes among
    the globals, count by identity. The value is taken now: what changes afterwards still counts as what it was.
    """
    return function if isinstance(function, _ByValue) else _ByValue(function)


def by_value_transformation(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """An Optax transformation whose two functions compare by value; of the same type."""
    return type(optimizer)(by_value(optimizer.init), by_value(optimizer.update))


def _value(function: Callable[..., Any]) -> Hashable:
    """All that a function is made of, as one flat tuple that can be hashed.

    What has parts stands there once, as its label and the number of its parts, which follow; where it comes again, in
    a closure that refers to itself or in two of them, it is its number.
    """
    value: list[Hashable] = []
    seen: dict[int, tuple[int, object]] = {}  # the objects are kept, so that no `id` is used twice

    def visit(thing: Any) -> None:
        if id(thing) in seen:
            value.append(("again", seen[id(thing)][0]))
            return
        label, parts = _taken_apart(thing)
        if parts is None:
            value.append(label)
            return
        seen[id(thing)] = (len(seen), thing)
        value.append((label, len(parts)))
        for part in parts:
            visit(part)

    visit(function)
    return tuple(value)


def _taken_apart(thing: Any) -> tuple[Any, Sequence[Any] | None]:
    """What a thing is, and its parts; parts None where the label says it all."""
    kind = type(thing)
    if kind is types.FunctionType:
        cells = [_contents(cell) for cell in thing.__closure__ or ()]
        parts = (thing.__defaults__, thing.__kwdefaults__, *cells, *_globals(thing))
        return (kind, thing.__code__, _Same(thing.__globals__)), parts
    if kind is types.MethodType:
        return kind, (thing.__func__, thing.__self__)
    if kind is functools.partial:
        return kind, (thing.func, thing.args, thing.keywords)
    if kind in (tuple, list) or (isinstance(thing, tuple) and hasattr(kind, "_fields")):
        return kind, thing
    if kind in (dict, collections.OrderedDict, types.MappingProxyType) or _hashable_kind(thing, Mapping):
        return kind, [part for item in thing.items() for part in item]
    if dataclasses.is_dataclass(thing) and "__dataclass_fields__" in vars(kind) and kind.__hash__ is not None:
        # Flax modules, NNX's graphs, settings. Field by field, so that functions among them count by value.
        return kind, [getattr(thing, field.name, None) for field in dataclasses.fields(thing)]
    if kind is slice:
        return kind, (thing.start, thing.stop, thing.step)
    if kind.__module__.startswith("optax.") and kind.__hash__ is object.__hash__ and hasattr(thing, "__dict__"):
        return kind, (vars(thing),)  # `MultiSteps` and its like, which are written once as closures are
    if kind in (set, frozenset):
        return (kind, frozenset((type(element), element) for element in thing)), None
    if kind in (float, complex):
        return (kind, repr(thing)), None  # -0.0 is not 0.0, and NaN is NaN
    if isinstance(thing, jax.Array | np.ndarray | np.generic):
        return _of_array(thing), None
    try:
        hash(thing)
    except TypeError:
        return _Same(thing), None
    return (kind, thing), None  # 1 and True, and 1 and 1.0, are not the same constant


def _globals(function: types.FunctionType) -> list[Any]:
    """The globals that a function names, in the order in which it does; other code counts by identity."""
    found = []
    for name in _names(function.__code__):
        if name in function.__globals__:
            value = function.__globals__[name]
            code = isinstance(value, types.FunctionType | types.ModuleType | type)
            found.append(_Same(value) if code else value)
    return found


def _names(code: types.CodeType) -> list[str]:
    inner = [name for constant in code.co_consts if isinstance(constant, types.CodeType) for name in _names(constant)]
    return [*code.co_names, *inner]


def _contents(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return types.CellType  # for one that is not filled


def _hashable_kind(thing: Any, kind: type) -> bool:
    return isinstance(thing, kind) and type(thing).__hash__ is not None


def _of_array(array: Any) -> Hashable:
    if isinstance(array, jax.Array):
        if isinstance(array, jax.core.Tracer) or array.is_deleted() or not array.is_fully_addressable:
            return _Same(array)
        if jax.dtypes.issubdtype(array.dtype, jax.dtypes.prng_key):
            with jax.ensure_compile_time_eval():  # a number also while something is being traced
                return (array.dtype, _of_array(jax.random.key_data(array)))
    if array.nbytes > _LARGE or array.dtype.hasobject:
        return _Same(array)
    weak = getattr(array, "weak_type", False)
    return (type(array), array.dtype, weak, array.shape, np.asarray(array).tobytes())
