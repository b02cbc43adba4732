"""SCRUB and its rewinding."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from camu_jax import Pipeline, Predictor, loop
from camu_jax.methods import scrub
from camu_jax.optimizers import sgd_l2
from camu_jax.training import TrainState, train_step
from tests.baselines.support import (
    BN,
    KEY,
    LINEAR,
    QUICK,
    accuracy,
    close,
    jitted,
    listen,
    same,
    student,
    unlearn,
    whole,
)


def test_scrub_starts_at_a_stationary_point(linear):
    state = scrub.ScrubState(student(LINEAR, linear.original), linear.original, jnp.ones(()), scrub.Scrub())
    state, metrics = jitted(scrub.max_step)(state, (linear.forget, None), key=KEY)
    assert abs(float(metrics["divergence"])) < 1e-6
    close(state.student.variables, linear.original, atol=1e-6)


def test_scrub_warms_up_so_that_the_first_max_pass_moves(linear):
    """In the official order the first max pass of plain SGD does nothing at all."""
    first = {}
    for warmup in (0, 1):
        settings = dict(epochs=1, warmup=warmup, optimizer="sgd", l2=0.0, learning_rate=1e-2)
        _, heard = listen(lambda told, s=settings: unlearn("scrub", linear, progress=told, **s))
        divergences = [float(p.metrics["divergence"]) for p in heard if "ce" not in p.metrics]
        assert len(divergences) == 2  # one max pass of two batches
        first[warmup] = max(divergences)
    assert first[0] < 1e-6 < 1e-3 < first[1]


def test_scrub_alternates_and_ends_with_min_passes(problem):
    _, heard = listen(lambda told: unlearn("scrub", problem, progress=told))
    kinds = ["min" if "ce" in p.metrics else "max" for p in heard]
    assert kinds == ["min"] * 9 + ["max"] * 2 + ["min"] * 9 * 2  # warmup, the only max pass, and two epochs


def test_scrub_decays_the_learning_rate_after_the_named_epochs(linear, monkeypatch):
    heard = []
    monkeypatch.setattr(loop, "run", lambda step, state, *_, **__: heard.append((step, float(state.decay))) or state)
    unlearn("scrub", linear, epochs=4, msteps=2, decay_epochs=(1, 3))
    decay = {step: [d for s, d in heard if s is step] for step in (scrub.max_step, scrub.min_step)}
    assert decay[scrub.max_step] == pytest.approx([1, 0.1])
    assert decay[scrub.min_step] == pytest.approx([1, 1, 0.1, 0.1, 0.01])  # warmup, then four epochs


def test_scrub_without_a_teacher_is_fine_tuning(linear):
    settings = dict(msteps=0, alpha=0.0, gamma=1.0, warmup=0, epochs=1, optimizer="sgd", l2=0.0)
    predictor = unlearn("scrub", linear, learning_rate=0.05, **settings)
    state = TrainState.create(LINEAR, linear.original, Pipeline(), sgd_l2(0.05, 0.9))
    tuned = loop.run(train_step, state, whole(linear.retain), key=jax.random.split(KEY)[1], epochs=1)
    close(predictor.variables, tuned.variables)


def test_scrub_rewinds_to_the_epoch_that_looks_unseen(problem):
    settings = scrub.Scrub(**QUICK["scrub:rewind"])
    rows_key, loop_key = jax.random.split(KEY)
    retain, unseen = scrub.hold_out(rows_key, problem, settings)
    possible = int(np.isin(problem.retain.y, problem.forget.y).sum())
    assert len(unseen) == round(possible / 9) and len(retain) + len(unseen) == 288
    assert np.isin(unseen.y, problem.forget.y).all()
    held = {bytes(np.asarray(x)) for x in unseen.x}
    assert held.isdisjoint(bytes(np.asarray(x)) for x in retain.x)
    assert held <= {bytes(np.asarray(x)) for x in problem.retain.x}

    def error(variables, examples):
        return 100 - accuracy(Predictor((variables,), BN), examples)

    candidates = list(scrub.students(loop_key, dataclasses.replace(problem, retain=retain), settings))
    target = error(candidates[-1], unseen)
    best = int(np.argmin([abs(error(variables, problem.forget) - target) for variables in candidates]))
    predictor = unlearn("scrub:rewind", problem)
    assert len(candidates) == 4 and float(predictor.info["epoch"]) == best + 1
    assert same(predictor.variables, candidates[best]) and same(
        predictor.members, unlearn("scrub:rewind", problem).members
    )


@pytest.mark.parametrize(("share", "left", "held"), [(0.1, 4, 1), (0.9, 4, 3), (0.5, 4, 2), (0.9, 2, 1)])
def test_scrub_rewinds_where_few_retain_examples_are_of_the_classes(problem, share, left, held):
    """One is held out at the least, and one stays to be trained on."""
    few = dataclasses.replace(problem, retain=problem.forget[:left])
    retain, unseen = scrub.hold_out(KEY, few, scrub.Scrub(rewind=True, validation_share=share))
    assert len(unseen) == held and len(retain) == left - held
    assert (
        scrub.hold_out(KEY, dataclasses.replace(problem, retain=problem.forget[:1]), scrub.Scrub(rewind=True))[1]
        is None
    )
    with pytest.raises(ValueError, match="validation_share is 0"):
        scrub.Scrub(rewind=True, validation_share=0)


def test_scrub_has_nothing_to_rewind_to_after_class_removal(class_problem):
    retain, unseen = scrub.hold_out(KEY, class_problem, scrub.Scrub(rewind=True))
    assert unseen is None and retain is class_problem.retain
    retain, unseen = scrub.hold_out(KEY, class_problem, scrub.Scrub(rewind=False))
    assert unseen is None and retain is class_problem.retain
