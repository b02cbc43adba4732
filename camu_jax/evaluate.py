"""Outputs of a predictor over a whole data set, and the accuracies of the paper (section 4.1.3)."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from camu_jax import _validate, loop, parallel
from camu_jax.problem import Predictor
from camu_jax.types import Examples, Outputs


@jax.jit
def _call(predictor: Predictor, x: jax.Array) -> Outputs:
    return parallel.replicate(predictor(parallel.split(x)))


@jax.jit
def _call_augmented(predictor: Predictor, x: jax.Array, key: jax.Array) -> Outputs:
    return parallel.replicate(predictor(predictor.pipeline.training(key, parallel.split(x))))


def outputs(
    predictor: Predictor, x: jax.Array, *, batch_size: int | None = None, augment_key: jax.Array | None = None
) -> Outputs:
    """Outputs in evaluation mode, minibatch by minibatch.

    Args:
      predictor: any predictor.
      x: stored images, `[N, h, w, c]`, or other inputs, N at least 1; may be `Picked`.
      batch_size: images in a forward pass; changes memory, not the result beyond rounding. None is `usual_batch_size`.
      augment_key: None for clean images; a key for one random augmentation of each (as the paper measured R_tr and
        F_tr on the CIFAR data sets).

    Returns:
      `Outputs` with leading length N.

    Raises:
      ValueError: `x` is empty or `batch_size` is not positive.
    """
    batch_size = usual_batch_size() if batch_size is None else batch_size
    _validate.at_least(1, batch_size=batch_size, **{"number of images": len(x)})
    predictor = dataclasses.replace(predictor, info={})  # one compiled program, whatever the method reported
    parts = []
    for i, start in enumerate(range(0, len(x), batch_size)):
        batch = x[start : start + batch_size]
        if augment_key is None:
            parts.append(parallel.in_turn(_call(predictor, batch)))
        else:
            parts.append(parallel.in_turn(_call_augmented(predictor, batch, jax.random.fold_in(augment_key, i))))
    return jax.tree.map(lambda *a: jnp.concatenate(a), *parts)


def usual_batch_size() -> int:
    """500, and 100 on the CPU, where more costs memory and saves little time or none (bench/NOTES.md)."""
    return 100 if loop.on_cpu() else 500


def accuracy(logits: jax.Array, y: jax.Array) -> float:
    """Share of correct predictions in percent: `[N, C]`, `[N]` -> 0 to 100.

    Ties go to the lowest class; logits with a NaN among them predict nothing.
    """
    predicted = jnp.argmax(logits, axis=-1)
    correct = (predicted == jnp.asarray(y, predicted.dtype)) & ~jnp.isnan(logits).any(axis=-1)
    return 100 * float(jnp.mean(correct))


def accuracies(
    predictor: Predictor,
    forget: Examples,
    retain: Examples,
    test: Examples,
    *,
    forget_classes: Sequence[int] = (),
    augment_key: jax.Array | None = None,
    batch_size: int | None = None,
) -> dict[str, float]:
    """The accuracies of section 4.1.3, in percent.

    Args:
      predictor: the model to judge.
      forget: F.
      retain: R.
      test: the test set.
      forget_classes: the removed classes of a class task; empty for other tasks.
      augment_key: as in `outputs`; applies to F and R only.
      batch_size: as in `outputs`.

    Returns:
      `R_tr`, `F_tr`, `T_s`; with `forget_classes` also `R_ts` and `F_ts`, the test accuracy on the other and on the
      removed classes (left out where the test set holds no such example).
    """
    result = {}
    for name, part in (("R_tr", retain), ("F_tr", forget)):
        logits = outputs(predictor, part.x, batch_size=batch_size, augment_key=augment_key).logits
        result[name] = accuracy(logits, part.y)
    logits = outputs(predictor, test.x, batch_size=batch_size).logits
    result["T_s"] = accuracy(logits, test.y)
    if len(forget_classes):
        removed = np.isin(np.asarray(test.y), list(forget_classes))
        for name, rows in (("R_ts", ~removed), ("F_ts", removed)):
            if rows.any():
                result[name] = accuracy(logits[rows], test.y[rows])
    return result


def failure(predictor: Predictor, retain: Examples, retain_accuracy: float) -> str | None:
    """Why a model is of no use, so that nobody takes it for a model that has forgotten well.

    Args:
      predictor: the model to judge.
      retain: R.
      retain_accuracy: its accuracy on R, in percent.

    Returns:
      The reason in words: parameters that are not finite, or an accuracy that guessing reaches, one standard
      deviation above the share of the largest class. None where there is neither.
    """
    finite = [jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(predictor.members)]
    if not all(map(bool, finite)):
        return "its parameters are not finite"
    share = int(jnp.bincount(jnp.asarray(retain.y)).max()) / len(retain)
    chance = 100 * (share + (share * (1 - share) / len(retain)) ** 0.5)
    if retain_accuracy <= chance:
        return f"its accuracy on the retain set is {retain_accuracy:.2f}%, which guessing reaches ({100 * share:.2f}%)"
    return None
