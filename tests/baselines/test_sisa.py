"""SISA forgets exactly, and retrains what was touched only."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from camu_jax import Predictor, TrainSettings, evaluate, loop, train
from camu_jax.methods import sisa
from tests.baselines.support import BN, CLASSES, KEY, LINEAR, QUICK, np_softmax, same, unlearn

SISA = sisa.Sisa(**QUICK["sisa"])  # 2 shards of 2 slices, 2 epochs a slice
FIT = 2 * 2 * (3 + 5)  # steps: slices of 80 examples and then of 160


@pytest.fixture(scope="module")
def ensemble(digits):
    """Trained on the retain set, then the forget set, of `problem`."""
    return sisa.fit(KEY, BN, digits[jnp.roll(jnp.arange(320), -32)], SISA)


def test_sisa_of_one_shard_is_retraining(problem):
    predictor = unlearn("sisa", problem, shards=1, slices=1)
    _, train_key = jax.random.split(KEY)
    retrained = train(jax.random.fold_in(train_key, 0), BN, problem.retain, TrainSettings(epochs=3))
    assert same(predictor.variables, retrained)


def test_sisa_deals_every_example_once(digits):
    state = sisa.assign(KEY, LINEAR, digits, sisa.Sisa(shards=3, slices=3))
    assert sorted(np.bincount(state.shard)) == [106, 107, 107]
    for s in range(3):
        assert set(np.bincount(state.slice[state.shard == s])) <= {35, 36}
        assert len(np.unique(np.asarray(digits.y)[state.shard == s])) == CLASSES  # at random, not by class


@pytest.mark.parametrize("slices", [1, 2, 5])
def test_sisa_slices_share_the_epochs(slices):
    settings = sisa.Sisa(epochs=15, slices=slices)
    until = [settings.epochs_until(k) for k in range(slices + 1)]
    assert until == [math.floor(k * 30 / (slices + 1)) for k in range(slices + 1)]
    assert sum((until[k] - until[k - 1]) * k / slices for k in range(1, slices + 1)) == pytest.approx(15)


def test_sisa_of_one_slice_takes_a_cycle(problem, digits):
    """Exact with it as well; of several slices the later ones would decide how the first are learnt."""
    settings = dataclasses.replace(SISA, slices=1, schedule="one_cycle")
    whole = sisa.fit(KEY, BN, digits[jnp.roll(jnp.arange(320), -32)], settings)
    after, _ = sisa.forget(whole, np.arange(288, 320))
    never = sisa.unlearn(KEY, problem, settings)
    assert same(after.predictor.members, never.members)
    with pytest.raises(ValueError, match="schedule is one_cycle; allowed with 2 slices: constant"):
        dataclasses.replace(SISA, schedule="one_cycle")


def test_sisa_forgets_exactly(problem, ensemble):
    """What is left is, bit for bit, the ensemble that never saw the forget set."""
    after, _ = sisa.forget(ensemble, np.arange(288, 320))
    assert len(after.examples) == 288 and after.rows.max() == 287
    never = unlearn("sisa", problem)
    assert same(after.predictor.members, never.members)
    assert not same(ensemble.predictor.members, never.members)
    blank = dataclasses.replace(problem.forget, x=jnp.zeros_like(problem.forget.x))
    assert same(unlearn("sisa", dataclasses.replace(problem, forget=blank)).members, never.members)
    assert float(never.info["touched"]) == 1.0


def test_sisa_retrains_a_touched_shard_from_its_last_clean_slice(ensemble):
    rows = np.flatnonzero((ensemble.shard == 1) & (ensemble.slice == 1))[:16]
    heard = []
    after, steps = sisa.forget(ensemble, rows, progress=heard.append)
    assert steps == 2 * 5 == len(heard) < FIT / 3  # the 144 examples that are left are 5 batches
    assert [(p.step, p.steps) for p in heard] == [(k, 10) for k in range(1, 11)]
    assert after.checkpoints[0] == ensemble.checkpoints[0]  # the very same objects
    assert after.checkpoints[1][0] is ensemble.checkpoints[1][0]
    assert not same(after.checkpoints[1][1].variables, ensemble.checkpoints[1][1].variables)
    assert not np.isin(rows, after.rows).any()
    assert sisa.forget(ensemble, np.array([], int))[1] == 0


def test_sisa_saves_where_few_shards_and_late_slices_are_touched(ensemble, monkeypatch):
    """Steps are counted, not made."""
    monkeypatch.setattr(loop, "run", lambda step, state, *_, **__: state)

    def steps(chosen):
        return sisa.forget(ensemble, np.flatnonzero(chosen & (np.arange(320) % 10 == 0)))[1]

    one_shard = ensemble.shard == 0
    assert steps(one_shard & (ensemble.slice == 1)) == 2 * 5
    assert steps(one_shard) == FIT / 2
    assert steps(ensemble.slice == 1) == 2 * 2 * 5
    assert steps(ensemble.slice == 0) == FIT  # random removal touches every shard's first slice: nothing is saved


def test_sisa_goes_on_without_a_shard_whose_examples_are_all_gone(ensemble):
    after, steps = sisa.forget(ensemble, np.flatnonzero(ensemble.shard == 0))
    assert steps == 0 and len(after.predictor.members) == 1
    assert same(after.predictor.members, ensemble.predictor.members[1:])


def test_sisa_refuses_to_forget_what_it_does_not_hold(digits):
    state = sisa.assign(KEY, LINEAR, digits, SISA)
    with pytest.raises(ValueError, match="rows holds 320"):
        sisa.forget(state, np.array([4, 320]))
    with pytest.raises(ValueError, match="at least one example must stay"):
        sisa.forget(state, np.arange(320))
    with pytest.raises(ValueError, match="number of examples is 3; allowed: a finite number >= 4"):
        sisa.assign(KEY, LINEAR, digits[:3], SISA)


def test_sisa_takes_no_mask_for_numbers(ensemble):
    with pytest.raises(TypeError, match="rows has dtype bool; allowed: row numbers"):
        sisa.forget(ensemble, np.arange(len(ensemble.rows)) == 5)


def test_sisa_votes_or_averages(problem):
    votes = unlearn("sisa", problem)
    means = dataclasses.replace(votes, aggregate="mean")
    assert len(votes.members) == 2 and votes.aggregate == "vote"
    assert unlearn("sisa", problem, aggregate="mean").aggregate == "mean"
    single = [evaluate.outputs(Predictor((m,), BN), problem.forget.x).logits for m in votes.members]
    counts = sum(np.eye(CLASSES)[np.asarray(z).argmax(1)] for z in single)
    np.testing.assert_array_equal(evaluate.outputs(votes, problem.forget.x).logits.argmax(1), counts.argmax(1))
    average = np.mean([np_softmax(np.asarray(z, np.float64)) for z in single], axis=0)
    np.testing.assert_allclose(np.exp(evaluate.outputs(means, problem.forget.x).logits), average, rtol=1e-4)
