"""Relearn time: how fast an unlearned model learns the forget set again."""

import dataclasses

import jax

from camu_jax import _validate, evaluate, loop
from camu_jax.optimizers import adam_l2
from camu_jax.problem import Predictor
from camu_jax.training import TrainSettings, TrainState, train_step
from camu_jax.types import Examples


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
      progress: hears of every step.

    Returns:
      The steps when the target was first seen reached, 0 to all; None where it was not reached.

    Raises:
      ValueError: the forget set is empty, or `every` is not positive.
    """
    _validate.at_least(1, every=every, **{"number of forget examples": len(forget)})
    optimizer = adam_l2(settings.learning_rate, settings.l2)
    states = [TrainState.create(predictor.model, v, predictor.pipeline, optimizer) for v in predictor.members]
    stream = loop.Stream(forget, settings.batch_size)
    done, most = 0, settings.epochs * stream.batches
    while True:
        predictor = dataclasses.replace(predictor, members=tuple(s.variables for s in states))
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
