"""Many models for the audits: margins of unlearned, retrained and shadow models, kept in the cache model by model."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import camu_jax
from camu_jax import checkpoint, evaluate
from camu_jax.attacks import lira, signals
from camu_jax.methods import METHODS
from camu_jax.types import Examples
from experiments import console, together
from experiments.cells import Cell
from experiments.session import Session, provide_original

_KLOM_SEED, _LIRA_SEED = 1_000, 2_000  # original models of populations; the runner's own have small seeds


def margins(predictor: camu_jax.Predictor, examples: Examples) -> np.ndarray:
    """Margins of one model, `[N]` float32: evaluation mode, no augmentation; of an ensemble's mean probabilities."""
    predictor = dataclasses.replace(predictor, aggregate="mean")
    return np.asarray(signals.margin(evaluate.outputs(predictor, examples.x).logits, examples.y))


def unlearned(cell: Cell, count: int) -> np.ndarray:
    """Margins of models that unlearned the cell's forget set, each from an original model of its own.

    Args:
      cell: method and split.
      count: models, K.

    Returns:
      `[K, training + test examples]`, the forget set first, then the retain set, then the test set.
    """
    method, settings = cell.entry
    forget, retain = cell.split()

    problem = cell.problem({})

    def many(numbers: Sequence[int]) -> list[camu_jax.Predictor]:
        sessions = [_numbered(cell.session, _KLOM_SEED + i) for i in numbers]
        originals = [provide_original(s) if method.uses_original else {} for s in sessions]
        keys = [jax.random.fold_in(cell.keys[1], 1 + i) for i in numbers]
        return together.predict(
            lambda key, original: method.unlearn(key, dataclasses.replace(problem, original=original), settings),
            keys,
            originals,
        )

    what = {**cell.settings(), "population": _KLOM_SEED}
    return _cached(cell, what, f"{cell.method} models", count, many, _all(cell, forget, retain))


def oracles(cell: Cell, count: int) -> np.ndarray:
    """Margins of models retrained without the cell's forget set; as `unlearned`."""
    cell = dataclasses.replace(cell, method="retrain")
    settings = cell.entry[1]
    forget, retain = cell.split()

    def many(numbers: Sequence[int]) -> list[camu_jax.Predictor]:
        keys = [jax.random.fold_in(cell.keys[1], 1 + i) for i in numbers]
        problem = cell.problem({})
        return together.predict(lambda key: METHODS["retrain"].unlearn(key, problem, settings), keys)

    what = {**cell.settings(), "population": "oracles"}
    return _cached(cell, what, "retrained models", count, many, _all(cell, forget, retain))


def shadows(cell: Cell, halves: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """U-LiRA's shadow models: each random half of the training set is cut into forget sets, a model for each.

    So an example is forgotten once by each half that holds it (but for the rest of the cutting).

    Args:
      cell: method and task; the forget sets are as large a part of a half as the task's is of the training set.
      halves: how many.

    Returns:
      Margins and states (of `lira`), both `[K, training examples]`, and the half of each model, `[K]`.
    """
    margins, states = zip(*[_half(cell, h, halves) for h in range(halves)])
    clusters = np.repeat(np.arange(halves), [len(m) for m in margins])
    return np.concatenate(margins), np.concatenate(states), clusters


def _half(cell: Cell, number: int, halves: int) -> tuple[np.ndarray, np.ndarray]:
    """The shadow models of one half: margins and states, `[models, training examples]`."""
    session, n = cell.session, len(cell.session.train)
    method, settings = cell.entry
    half_key, method_key = jax.random.split(jax.random.key(_LIRA_SEED + number))
    half = np.asarray(jax.random.permutation(half_key, n))[: n // 2]
    shadow = dataclasses.replace(
        _numbered(session, _LIRA_SEED + number), train=session.train[jnp.asarray(np.sort(half))]
    )
    share = len(cell.split()[0]) / n
    count = max(1, round(share * len(half)))
    orders = [np.roll(half, -start) for start in range(0, len(half) - count + 1, count)]

    def many(numbers: Sequence[int]) -> list[camu_jax.Predictor]:
        original = provide_original(shadow) if method.uses_original else {}

        def unlearn(key: jax.Array, order: jax.Array) -> camu_jax.Predictor:
            forget, retain = session.train[order[:count]], session.train[order[count:]]
            problem = dataclasses.replace(cell.problem(original), forget=forget, retain=retain)
            return method.unlearn(key, problem, settings)

        keys = [jax.random.fold_in(method_key, i) for i in numbers]
        return together.predict(unlearn, keys, [jnp.asarray(orders[i]) for i in numbers])

    what = {**Cell(shadow, cell.method, 0).settings(), "population": _LIRA_SEED + number, "share": share}
    label = f"{cell.method} shadows {number + 1} of {halves}"
    found = _cached(cell, what, label, len(orders), many, session.train)
    state = np.full((len(orders), n), lira.NEVER)
    state[:, half] = lira.RETAINED
    for i, order in enumerate(orders):
        state[i, order[:count]] = lira.FORGOTTEN
    return found, state


def _all(cell: Cell, forget: Examples, retain: Examples) -> Examples:
    test = cell.session.test
    x, y = (jnp.concatenate([getattr(e, f) for e in (forget, retain, test)]) for f in ("x", "y"))
    return Examples(x, y, test.num_classes)


def _numbered(session: Session, seed: int) -> Session:
    """The session with another original model."""
    return dataclasses.replace(session, config=dataclasses.replace(session.config, original_seed=seed))


def _cached(
    cell: Cell,
    what: dict[str, Any],
    label: str,
    count: int,
    make: Callable[[Sequence[int]], list[camu_jax.Predictor]],
    examples: Examples,
) -> np.ndarray:
    """Margins `[count, N]`: of each model from its file in the cache, or of the models that `make` makes of numbers."""
    digest = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]
    folder = Path(cell.session.config.cache_dir, "margins", digest)
    files = [folder / f"{i}.npy" for i in range(count)]
    missing = [i for i, file in enumerate(files) if _read(file, len(examples)) is None]
    at_once = together.at_once(cell)
    for first in range(0, len(missing), at_once):
        numbers = missing[first : first + at_once]
        console.say(f"{label}: {numbers[-1] + 1} of {count}")
        for i, predictor in zip(numbers, make(numbers)):
            folder.mkdir(parents=True, exist_ok=True)
            partial = folder / f".{i}.{os.getpid()}.partial.npy"
            np.save(partial, margins(predictor, examples))
            os.replace(partial, files[i])
    found = [_read(file, len(examples)) for file in files]
    return np.stack([f for f in found if f is not None])


def _read(file: Path, n: int) -> np.ndarray | None:
    try:
        found = np.load(file, allow_pickle=False)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, EOFError):
        console.warn(f"{file} is damaged; it is set aside as {checkpoint.set_aside(file).name} and made anew")
        return None
    return np.asarray(found) if found.shape == (n,) else None
