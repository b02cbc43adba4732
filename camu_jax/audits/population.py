"""Many models: making them, one by one or several in one program, and their margins, model by model.

Every audit of populations is a pure function of a table of margins, `[models, examples]`. Two models that answer every
image with the logits (b, 0), b = 1 and b = 2, and three examples of the classes 0, 1 and 1:

    def make_one(b):
        return Predictor(({"params": b, "batch_stats": {}},), model)

    population.margins(make_one, lambda k: (jnp.float32(k + 1),), 2, examples)
    # [[1, -1, -1],
    #  [2, -2, -2]]

With two classes the margin is the logit of the label less the other: b for the class 0, and -b for the class 1. In
earnest `make_one(key, original)` unlearns, and what all models share (the data, the settings) is in its closure.
"""

import dataclasses
import warnings
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from camu_jax import _validate, evaluate
from camu_jax.audits import signals
from camu_jax.problem import Predictor
from camu_jax.types import Examples

Make = Callable[..., Predictor]
"""Makes one model of its arguments."""


def make(make_one: Make, arguments: Sequence[tuple[Any, ...]], *, at_once: int = 1) -> Iterator[Predictor]:
    """Makes a model of each of many arguments.

    Args:
      make_one: makes one model. It is traced by `jax.vmap` where several are made at once, and must not decide
        anything outside of JAX then.
      arguments: of each model, a tuple of pytrees; those of models made at once have the same shapes, and are stacked:
        what all models share is better left to the closure of `make_one`, where it is there once. So are the images of
        different parts of one training set: give the row numbers, and let `make_one` take `train.pick(rows)`.
      at_once: how many models are made in one program. Models made at once are those made one by one but for rounding.

    Yields:
      The models, in the order of their arguments.

    Raises:
      ValueError: `at_once` is not positive.
    """
    _validate.at_least(1, at_once=at_once)
    for first in range(0, len(arguments), at_once):
        group = arguments[first : first + at_once]
        if len(group) == 1:
            yield make_one(*group[0])
            continue
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *group)
        with warnings.catch_warnings():
            # The loop donates its state; what all models share cannot be given away, and JAX says so.
            warnings.filterwarnings("ignore", "Some donated buffers were not usable")
            together = jax.vmap(make_one)(*stacked)
        for k in range(len(group)):
            yield jax.tree.map(lambda leaf, k=k: leaf[k], together)


def margins_of(predictor: Predictor, examples: Examples) -> np.ndarray:
    """Margins of one model, `[N]` float32: evaluation mode, no augmentation; of an ensemble's mean probabilities."""
    predictor = dataclasses.replace(predictor, aggregate="mean")  # votes have too few levels
    return np.asarray(signals.margin(evaluate.outputs(predictor, examples.x).logits, examples.y))


def margins(
    make_one: Make,
    arguments_of: Callable[[int], tuple[Any, ...]],
    count: int,
    examples: Examples,
    *,
    cache: MutableMapping[int, np.ndarray] | None = None,
    at_once: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Margins of a population of models; those that are in the cache are not made again.

    Args:
      make_one: as for `make`.
      arguments_of: the arguments of model number k; is called when its turn comes.
      count: models, K.
      examples: `N` of them.
      cache: margins `[N]` by the number of the model. Each model's are put there as soon as they are known, so that
        work that was interrupted loses the models that were being made at once, and no others. None keeps nothing.
      at_once: as for `make`.
      progress: is called with the number of models that are there, and K, whenever one has been made.

    Returns:
      `[K, N]` float32.

    Raises:
      ValueError: `count` or `at_once` is not positive.
    """
    _validate.at_least(1, count=count, at_once=at_once)
    kept: MutableMapping[int, np.ndarray] = {} if cache is None else cache
    missing = [k for k in range(count) if k not in kept]
    done = count - len(missing)
    for first in range(0, len(missing), at_once):
        # Arguments are asked for group by group: an original model each, which would not fit into memory all at once.
        numbers = missing[first : first + at_once]
        made = make(make_one, [arguments_of(k) for k in numbers], at_once=at_once)
        for k, predictor in zip(numbers, made, strict=True):
            kept[k] = margins_of(predictor, examples)
            done += 1
            if progress is not None:
                progress(done, count)
    return np.stack([kept[k] for k in range(count)])
