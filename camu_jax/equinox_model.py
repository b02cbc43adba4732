"""The adapter for Equinox modules, which work on one example at a time and carry their state in and out."""

import inspect
from collections.abc import Callable
from typing import Any

import jax

from camu_jax import weights
from camu_jax.model import NO_KEY, Model, Variables, as_outputs, same_dtypes
from camu_jax.types import Outputs


def from_equinox(make: Callable[[jax.Array], Any], module: Any | None = None) -> tuple[Model, Variables]:
    """A `Model` of an Equinox module, and the module's variables.

    The parameters go back, in the order of `weights.flat(params)` for `params, rest = equinox.partition(module,
    equinox.is_inexact_array)`, by `jax.tree.unflatten` and `equinox.combine(..., rest)`.

    Args:
      make: builds a fresh module from a key, or with `equinox.nn.make_with_state` the pair of module and state; used
        for `Model.init`.
      module: the trained module, or the pair; None takes a fresh one of `make(jax.random.key(0))`. Its `__call__(x)`
        takes one example, an image as `[H, W, channels]`, and returns `(logits, embedding)`, `Outputs`, or logits
        alone. It may also take `key`, for layers that draw, and with a state it takes `state` and returns the new one
        as the second of a pair. BatchNorm's `axis_name` is `batch`. `equinox.nn.inference_mode` tells training from
        evaluation.

    Returns:
      The model, and its variables: `params`, the floating arrays by name, and as `batch_stats` the state and whatever
      other arrays the module holds.

    Raises:
      ImportError: Equinox is not installed.
      TypeError: `make` returns something else.
    """
    try:
        import equinox as eqx
    except ImportError:
        raise ImportError("equinox is not installed; allowed: pip install 'camu_jax[equinox]'") from None

    def taken_apart(made: Any) -> tuple[Any, Any, Any, Any]:
        """Parameters, other arrays, state (None where there is none), and the rest of the module."""
        found, state = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
        if not isinstance(found, eqx.Module) or not (state is None or isinstance(state, eqx.nn.State)):
            raise TypeError(f"make returned a {type(found).__name__}; allowed: an Equinox module, or (module, State)")
        params, rest = eqx.partition(found, eqx.is_inexact_array)
        others, static = eqx.partition(rest, eqx.is_array)
        return params, others, state, static

    def named(made: Any) -> list[dict[str, Any]]:
        """Parameters, other arrays and state by name."""
        params, others, state, _ = taken_apart(made)
        by_number = {f"state/{i}": leaf for i, leaf in enumerate(jax.tree.leaves(state))}
        return [weights.flat(params), weights.flat(others), by_number]

    def variables_of(made: Any) -> Variables:
        params, others, state = named(made)
        return {"params": params, "batch_stats": {**others, **state}}

    like = make(jax.random.key(0)) if module is None else module
    *parts, static = taken_apart(like)
    trees = [jax.tree.structure(part) for part in parts]
    names = [list(arrays) for arrays in named(like)]
    stateful = parts[2] is not None
    draws = "key" in inspect.signature(type(like[0] if stateful else like).__call__).parameters

    def apply(variables: Variables, x: jax.Array, *, train: bool, key: jax.Array | None = None) -> tuple[Outputs, Any]:
        arrays = {**variables["batch_stats"], **variables["params"]}
        params, others, state = (
            jax.tree.unflatten(tree, [arrays[name] for name in of]) for tree, of in zip(trees, names, strict=True)
        )
        built = eqx.nn.inference_mode(eqx.combine(params, others, static), value=not train)
        keys = jax.random.split(key, len(x)) if draws and train and key is not None else None

        def one(x: jax.Array, state: Any, key: Any) -> Any:
            drawn = {} if key is None else {"key": key}
            return built(x, state, **drawn) if stateful else (built(x, **drawn), None)

        try:
            axes = (0, None, None if keys is None else 0)
            result, after = jax.vmap(one, axes, (0, None), axis_name="batch")(x, state, keys)
        except RuntimeError as error:  # Equinox's own where a layer wants a key
            if train and key is None:
                raise ValueError(NO_KEY) from error
            raise
        new = dict(zip(names[2], jax.tree.leaves(after), strict=True)) if train else {}
        stats = {**variables["batch_stats"], **new}
        return as_outputs(result), same_dtypes(stats, variables["batch_stats"])

    return Model(init=lambda key: variables_of(make(key)), apply=apply), variables_of(like)
