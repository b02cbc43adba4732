"""Relearning: what comes back, and how fast, when an unlearned model is trained on."""

import dataclasses
from collections.abc import Callable
from typing import TypeVar

import jax

from camu_jax import _validate, evaluate, loop
from camu_jax.problem import Predictor
from camu_jax.training import TrainSettings, TrainState, train_step
from camu_jax.types import Examples

Measured = TypeVar("Measured")


def curve(
    key: jax.Array,
    predictor: Predictor,
    examples: Examples,
    settings: TrainSettings,
    measure: Callable[[Predictor], Measured],
    *,
    progress: loop.Listener | None = None,
) -> list[Measured]:
    """Trains a predictor on and measures it after every epoch (section 4.4, Figures 4 and 5: on the retain set).

    Args:
      key: a `jax.random` key; consumed.
      predictor: the unlearned model; every member of an ensemble learns. It stays as it is.
      examples: what to learn from.
      settings: how.
      measure: what to record of the predictor.
      progress: is called after every step.

    Returns:
      What was measured before the first epoch and after each: `epochs + 1` values.

    Raises:
      ValueError: there is no example.
    """
    _validate.at_least(1, **{"number of examples": len(examples)})
    stream = loop.Stream(examples, settings.batch_size)
    states = _states(predictor, settings, settings.epochs * stream.batches)
    total = settings.epochs * len(states) * stream.batches
    history, done = [measure(predictor)], 0
    for epoch in range(settings.epochs):
        for i, state in enumerate(states):
            states[i] = loop.run(
                train_step,
                state,
                stream,
                key=jax.random.fold_in(key, i),
                epochs=1,
                first_epoch=epoch,
                progress=loop.part(progress, done, total),
            )
            done += stream.batches
        history.append(measure(_with_members(predictor, states)))
    return history


def _states(predictor: Predictor, settings: TrainSettings, steps: int) -> list[TrainState]:
    optimizer = settings.optimizer(steps)
    return [TrainState.create(predictor.model, v, predictor.pipeline, optimizer) for v in predictor.members]


def _with_members(predictor: Predictor, states: list[TrainState]) -> Predictor:
    return dataclasses.replace(predictor, members=tuple(state.variables for state in states))


def relearn_steps(
    key: jax.Array,
    predictor: Predictor,
    forget: Examples,
    target: float,
    settings: TrainSettings,
    *,
    every: int = 10,
    progress: loop.Listener | None = None,
) -> int | None:
    """Trains on the forget set until its accuracy is back.

    Divided by the steps that a retrained model needs, this is the anamnesis index (Chundawat et al., 2023): near 1 is
    good, near 0 says that the model had only hidden what it knew.

    Args:
      key: a `jax.random` key; consumed.
      predictor: the unlearned model; every member of an ensemble relearns. It stays as it is.
      forget: the forget set.
      target: accuracy to reach, in percent: the original model's on the forget set less 5 or 10 percent of it, say.
      settings: `epochs` is the most passes over the forget set.
      every: how many steps lie between two measurements.
      progress: is called after every step.

    Returns:
      The steps when the target was first seen reached, 0 to all; None where it was not reached.

    Raises:
      ValueError: the forget set is empty, or `every` is not positive.
    """
    _validate.at_least(1, every=every, **{"number of forget examples": len(forget)})
    stream = loop.Stream(forget, settings.batch_size)
    done, most = 0, settings.epochs * stream.batches
    states = _states(predictor, settings, most)
    while True:
        predictor = _with_members(predictor, states)
        if evaluate.accuracy(evaluate.outputs(predictor, forget.x).logits, forget.y) >= target:
            return done
        if done >= most:
            return None
        steps = min(every, most - done)
        states = [
            loop.run(
                train_step,
                state,
                stream,
                key=jax.random.fold_in(key, i),
                epochs=1 + steps // stream.batches,
                first_epoch=done,
                max_steps=steps,
                progress=progress,
            )
            for i, state in enumerate(states)
        ]
        done += steps
