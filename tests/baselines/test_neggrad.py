"""NegGrad: descent on the retain set, bounded ascent on the forget set."""

import math

import numpy as np

from camu_jax import loop
from camu_jax.methods import neggrad
from camu_jax.training import train_step
from tests.baselines.support import (
    BN,
    CLASSES,
    KEY,
    LINEAR,
    accuracy,
    close,
    differ,
    jitted,
    listen,
    student,
    unlearn,
    whole,
)


def test_neggrad_without_ascent_is_fine_tuning(linear):
    predictor = unlearn("neggrad", linear, alpha=1.0, learning_rate=0.05)
    tuned = loop.run(train_step, student(LINEAR, linear.original, 0.05), whole(linear.retain), key=KEY, epochs=1)
    assert differ(tuned.variables, linear.original) > 1e-3
    close(predictor.variables, tuned.variables, atol=1e-5)


def test_neggrad_stops_where_it_would_explode(linear):
    """The official loss has no lower bound; the guarded one does, and keeps the model."""
    changes = dict(epochs=6, alpha=0.5, learning_rate=0.3)
    guarded, heard = listen(lambda told: unlearn("neggrad", linear, progress=told, **changes))
    wild, heard_wild = listen(lambda told: unlearn("neggrad", linear, progress=told, forget_ceiling=None, **changes))
    assert min(float(p.metrics["loss"]) for p in heard_wild) < -20
    assert min(float(p.metrics["loss"]) for p in heard) >= -0.5 * math.log(CLASSES) - 1e-6
    assert accuracy(guarded, linear.retain) > 60 > 30 > accuracy(wild, linear.retain)


def test_neggrad_keeps_the_batches_of_batchnorm_apart(problem):
    state = neggrad.NegGradState(student(BN, problem.original), neggrad.NegGrad())
    retain, forget = problem.retain[:16], problem.forget[:12]
    state, _ = jitted(neggrad.step)(state, retain, forget, key=KEY)
    stats = problem.original["batch_stats"]
    for batch in (retain, forget):
        h = (np.asarray(batch.x, np.float64) / 255).reshape(len(batch), -1) @ problem.original["params"]["first"]
        stats = {k: 0.9 * stats[k] + 0.1 * v for k, v in (("mean", h.mean(0)), ("var", h.var(0)))}
    close(state.student.variables["batch_stats"], stats, atol=1e-5)
