"""Models side by side: several in one program, by `jax.vmap`, for a GPU that one small model does not fill."""

import dataclasses
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp

import camu_jax
from experiments import clock
from experiments.cells import Cell


def at_once(cell: Cell) -> int:
    """How many models of the cell's method are made in one program."""
    method, settings = cell.entry
    return 1 if method.one_by_one(settings) else int(cell.session.config.side_by_side)


def groups(cells: Sequence[Cell]) -> Iterator[list[Cell]]:
    """Puts seeds of one method together, as many as are made at once; without `side_by_side` nothing changes place."""
    if not cells or cells[0].session.config.side_by_side == 1:
        yield from ([cell] for cell in cells)
        return
    for method in dict.fromkeys(cell.method for cell in cells):
        same = [cell for cell in cells if cell.method == method]
        count = at_once(same[0])
        yield from (same[k : k + count] for k in range(0, len(same), count))


def run(cells: Sequence[Cell], original: camu_jax.Variables) -> None:
    """As `Cell.run` for several seeds of one method; each takes an equal share of the time."""
    method, settings = cells[0].entry
    problems = [cell.problem(original) for cell in cells]

    def unlearn(key: jax.Array, sets: tuple[camu_jax.Examples, camu_jax.Examples]) -> camu_jax.Predictor:
        return method.unlearn(key, dataclasses.replace(problems[0], forget=sets[0], retain=sets[1]), settings)

    with clock.measure() as span:
        predictors = predict(unlearn, [cell.keys[1] for cell in cells], [(p.forget, p.retain) for p in problems])
        jax.block_until_ready(predictors)
    share = clock.Span(span.seconds / len(cells), span.compile_seconds / len(cells))
    for cell, predictor in zip(cells, predictors, strict=True):
        cell.finish(predictor, share, side_by_side=len(cells))


def predict(unlearn: Callable[..., camu_jax.Predictor], *arguments: list[Any]) -> list[camu_jax.Predictor]:
    """Calls `unlearn` on the k-th of all arguments, for every k; more than one in one program."""
    count = len(arguments[0])
    if count == 1:
        return [unlearn(*(a[0] for a in arguments))]
    stacked = [jax.tree.map(lambda *leaves: jnp.stack(leaves), *a) for a in arguments]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Some donated buffers were not usable")  # what all models share
        together = jax.vmap(unlearn)(*stacked)
    return [jax.tree.map(lambda leaf, k=k: leaf[k], together) for k in range(count)]
