"""Attacks: closed forms, the defects of other code bases, and models that surely memorised or surely did not."""

import dataclasses
import math
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score
from threadpoolctl import threadpool_info, threadpool_limits

from camu_jax import Examples, Model, Outputs, Predictor, Problem, TrainSettings, audit, evaluate, loop, train
from camu_jax.audits import attack, divergence, estimates, lira, membership, population, relearning, signals
from camu_jax.optimizers import adam_l2
from camu_jax.training import TrainState, train_step
from tests.helpers import np_cross_entropy, np_log_softmax

RNG = np.random.default_rng(0)


def logits_and_labels(n=200, classes=10, scale=3.0):
    return RNG.normal(0, scale, (n, classes)).astype(np.float32), RNG.integers(0, classes, n, np.int32)


# --- signals --------------------------------------------------------------------------------------------------------


def test_signals_against_float64():
    z, y = logits_and_labels()
    log_p = np_log_softmax(z)
    p, own = np.exp(log_p), np.eye(10, dtype=bool)[y]
    np.testing.assert_allclose(
        signals.margin(jnp.asarray(z), jnp.asarray(y)), log_p[own] - np.log1p(-p[own]), rtol=1e-4, atol=1e-4
    )
    np.testing.assert_allclose(signals.loss(z, jnp.asarray(y)), np_cross_entropy(z, y), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(signals.entropy(z), -(p * log_p).sum(-1), rtol=1e-4, atol=1e-5)


def test_modified_entropy_is_song_and_mittals():
    """A rival overwrites whole columns (indexing by the label vector) and writes log p for log(1 - p)."""
    z, y = logits_and_labels()
    p = np.exp(np_log_softmax(z))
    expected = np.zeros(len(y))
    for i, label in enumerate(y):
        for c in range(10):
            expected[i] -= (1 - p[i, c]) * np.log(p[i, c]) if c == label else p[i, c] * np.log1p(-p[i, c])
    actual = signals.modified_entropy(jnp.asarray(z), jnp.asarray(y))
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)
    rival = -((1 - p) * np.log(p)).sum(-1)
    assert np.corrcoef(actual, rival)[0, 1] < 0.9


def test_signals_stay_finite_where_the_model_is_sure():
    z, y = jnp.asarray([[200.0, -200.0, 0.0]]), jnp.asarray([0])
    for signal in (signals.margin, signals.loss, signals.modified_entropy):
        assert np.isfinite(signal(z, y)).all() and np.isfinite(signal(-z, y)).all()
    assert float(signals.modified_entropy(z, y)[0]) == 0 and float(signals.modified_entropy(-z, y)[0]) > 100


# --- estimates ------------------------------------------------------------------------------------------------------


def test_auc_is_that_of_scikit_learn_and_its_interval_covers():
    covered = 0
    for _ in range(200):
        a, b = RNG.normal(0.5, 1, 60).round(1), RNG.normal(0, 1, 80).round(1)
        estimate = estimates.auc(a, b)
        assert estimate.value == pytest.approx(roc_auc_score(np.repeat([1, 0], [60, 80]), np.concatenate([a, b])))
        covered += estimate.low <= scipy.stats.norm.cdf(0.5 / math.sqrt(2)) <= estimate.high
    assert 180 <= covered <= 200


def test_rates_at_a_threshold():
    members, others = np.array([1.0, 2.0, 3.0, -1.0]), np.array([-1.0, -2.0, 0.0, 1.0])
    assert estimates.balanced_accuracy(members, others).value == pytest.approx((3 / 4 + 3 / 4) / 2)
    assert estimates.tpr_at_fpr(members, others, 0.01).value == pytest.approx(2 / 4)  # none may pass: above 1.0
    assert estimates.tpr_at_fpr(members, others, 0.25).value == pytest.approx(3 / 4)
    assert estimates.tpr_at_fpr(members, others, 1.0).value == 1
    low, high = estimates.proportion(0, 20)[1:3]
    assert low == 0 and high == pytest.approx(1 - 0.025 ** (1 / 20))


@given(st.integers(0, 2**31), st.sampled_from([0.01, 0.05, 0.3]))
def test_no_more_others_pass_than_allowed(seed, rate):
    rng = np.random.default_rng(seed)
    members, others = rng.integers(0, 9, 50).astype(float), rng.integers(0, 9, 70).astype(float)
    value = estimates.tpr_at_fpr(members, others, rate).value
    allowed = [t for t in (*others, -1.0) if (others > t).mean() <= rate]
    assert value == max((members > t).mean() for t in allowed)


# --- one attacker for all examples ----------------------------------------------------------------------------------


def test_paper_rows_are_those_of_the_authors_code():
    rows = membership.paper_rows(jax.random.key(0), 6000, 54000, 10000)
    assert len(rows.member) == len(rows.nonmember) == 4000 and (rows.nonmember == np.arange(4000)).all()
    assert (rows.unseen == np.arange(4000, 10000)).all()
    share = {n: len(membership.paper_rows(jax.random.key(0), n, 50000, 10000).unseen) for n in (500, 5000, 6742)}
    assert len(membership.paper_rows(jax.random.key(0), 500, 49500, 10000).member) == 4000  # a class of C100
    assert share == {500: 512, 5000: 5024, 6742: 6000}  # 50.59, 50.12 and 47.09 percent non-members: Tables 4 and 12
    small = membership.paper_rows(jax.random.key(0), 144, 1293, 360)
    assert len(small.member) == len(small.nonmember) == 144 and small.unseen[0] == 144
    with pytest.raises(ValueError, match="test is 4"):
        membership.paper_rows(jax.random.key(0), 10, 10, 4)


def test_of_a_test_set_that_is_sorted_the_attacker_learns_every_class():
    sorted_y = np.repeat(np.arange(10), 30)
    rows = attack.chosen(jax.random.key(0), 50, 500, sorted_y)
    assert (np.bincount(sorted_y[rows.nonmember]) == 12).all() and not set(rows.nonmember) & set(rows.unseen)
    assert len(set(sorted_y[rows.unseen])) == 10
    for k in range(10):
        assert len(attack.comparable(sorted_y, (k,))) == 18
    mixed = np.random.default_rng(1).permutation(sorted_y)  # any other order is left as it is
    assert (attack.chosen(jax.random.key(0), 50, 500, mixed).nonmember == np.arange(120)).all()
    assert (attack.comparable(mixed) == np.arange(120, 300)).all()


def test_paper_attack_wins_where_members_are_sure_and_is_at_chance_where_they_are_not():
    sure, unsure = (RNG.normal(0, scale, (400, 10)) for scale in (8.0, 1.0))
    key = jax.random.key(0)
    won = membership.paper(key, member=sure[:200], nonmember=unsure[:200], forget=sure[200:], unseen=unsure[200:])
    assert won["M"].value > 0.95 and won["auc"].low > 0.9 and won["tpr_at_1_fpr"].low > 0.5
    lost = membership.paper(key, member=sure[:200], nonmember=unsure[:200], forget=unsure[:200], unseen=unsure[200:])
    assert lost["forget_as_member"].value < 0.1
    chance = RNG.normal(0, 1, (800, 10))
    at_chance = membership.paper(
        key, member=chance[:200], nonmember=chance[200:400], forget=chance[400:600], unseen=chance[600:]
    )
    assert at_chance["auc"].low <= 0.5 <= at_chance["auc"].high
    assert at_chance["balanced_accuracy"].low <= 0.5 <= at_chance["balanced_accuracy"].high


def test_the_papers_attack_keeps_to_one_thread(key, monkeypatch):
    """On cores that other work has, scikit-learn's threads wait for one another: minutes for a second's work."""
    threads, fit = [], HistGradientBoostingClassifier.fit

    def spy(self, *data):
        threads.extend(pool["num_threads"] for pool in threadpool_info())
        return fit(self, *data)

    monkeypatch.setattr(HistGradientBoostingClassifier, "fit", spy)
    with threadpool_limits(2):
        assert 2 in [pool["num_threads"] for pool in threadpool_info()]
        sets = {name: logits_and_labels(20)[0] for name in ("member", "nonmember", "forget", "unseen")}
        membership.paper(key, **sets)
    assert threads and set(threads) == {1}


@pytest.fixture(scope="module")
def overfitted(cnn, tiny):
    """The CNN, by heart on 100 digits with wrong labels half of the time; those, and as many that it never saw."""
    seen, unseen = tiny[0][:100], tiny[0][100:200]
    noise = jnp.asarray(RNG.integers(0, 10, 100), seen.y.dtype)
    seen, unseen = (type(seen)(e.x, jnp.where(jnp.arange(100) % 2, e.y, noise), 10) for e in (seen, unseen))
    variables = train(jax.random.key(0), cnn, seen, TrainSettings(epochs=30))
    return Predictor((variables,), cnn), seen, unseen


def test_loss_attack_on_a_model_that_memorised_and_on_examples_that_it_never_saw(overfitted):
    predictor, seen, unseen = overfitted
    losses = [np.asarray(signals.loss(evaluate.outputs(predictor, e.x).logits, e.y)) for e in (seen, unseen)]
    won = membership.loss_attack(jax.random.key(0), *losses)
    assert won.low > 0.6
    never = membership.loss_attack(jax.random.key(0), losses[1][:50], losses[1][50:])
    assert never.low <= 0.5 <= never.high
    with pytest.raises(ValueError, match="number of examples is 5"):
        membership.loss_attack(jax.random.key(0), losses[0][:5], losses[1])


def test_relearning_counts_the_steps(overfitted):
    predictor, seen, unseen = overfitted
    settings, key = TrainSettings(epochs=10), jax.random.key(1)
    known = evaluate.accuracy(evaluate.outputs(predictor, seen.x).logits, seen.y)
    assert relearning.relearn_steps(key, predictor, seen, known, settings) == 0  # it never forgot
    steps = relearning.relearn_steps(key, predictor, unseen, 80.0, settings)
    assert steps is None or steps > 0
    assert relearning.relearn_steps(key, predictor, unseen, 101.0, TrainSettings(epochs=1), every=3) is None


def test_a_curve_of_relearning_has_a_point_before_and_one_after_each_epoch(overfitted):
    predictor, seen, _ = overfitted
    fresh = [predictor.model.init(jax.random.key(k)) for k in (5, 6)]
    ensemble = Predictor(tuple(fresh), predictor.model)
    told, settings = [], TrainSettings(epochs=2)
    steps = 2 * 2 * -(-len(seen) // settings.batch_size)

    def loss_of_members(p):
        each = [dataclasses.replace(p, members=(member,)) for member in p.members]
        return [float(signals.loss(evaluate.outputs(e, seen.x).logits, seen.y).mean()) for e in each]

    points = relearning.curve(jax.random.key(0), ensemble, seen, settings, loss_of_members, progress=told.append)
    assert len(points) == 3 and points[0] == loss_of_members(ensemble)  # it stays as it is
    assert all(after < before for before, after in zip(points[0], points[2], strict=True))  # every member learns
    assert [p.step for p in told] == list(range(1, steps + 1)) and {p.steps for p in told} == {steps}
    assert points == relearning.curve(jax.random.key(0), ensemble, seen, settings, loss_of_members)
    # every epoch has an order of its own: two of them are a run of two
    optimizer = adam_l2(settings.learning_rate, settings.l2)
    state = TrainState.create(ensemble.model, fresh[0], ensemble.pipeline, optimizer)
    stream, run_key = loop.Stream(seen, settings.batch_size), jax.random.fold_in(jax.random.key(0), 0)
    whole = loop.run(train_step, state, stream, key=run_key, epochs=2).variables
    assert points[2][0] == pytest.approx(loss_of_members(dataclasses.replace(ensemble, members=(whole,)))[0], rel=1e-5)
    with pytest.raises(ValueError, match="number of examples is 0"):
        relearning.curve(jax.random.key(0), ensemble, seen[:0], settings, loss_of_members)


# --- U-LiRA ---------------------------------------------------------------------------------------------------------


def synthetic(models=24, examples=60, gap=0.0, spread=1.0):
    """Margins of models; those of forgotten examples lie `gap` higher."""
    state = RNG.choice([lira.RETAINED, lira.FORGOTTEN, lira.NEVER], (models, examples), p=[0.2, 0.4, 0.4])
    level = RNG.normal(0, 5, examples)  # examples differ much more than models do: only an attack of their own sees it
    return level + RNG.normal(0, spread, state.shape) + gap * (state == lira.FORGOTTEN), state


def test_lira_wins_where_each_example_is_remembered_and_is_at_chance_where_none_is():
    margins, state = synthetic(gap=3.0)
    won = lira.audit(margins, state)
    assert won.auc.low > 0.9 and won.balanced_accuracy.low > 0.85 and np.nanmean(won.by_example) > 0.85
    null = lira.audit(margins, lira.null_state(jax.random.key(1), state))
    for figure in (null.auc, null.balanced_accuracy):
        assert figure.low <= 0.5 <= figure.high
    margins, state = synthetic(gap=0.0)
    lost = lira.audit(margins, state)
    assert lost.auc.low <= 0.5 <= lost.auc.high


def test_lira_judges_no_model_by_itself():
    """In-sample likelihood ratios, a rival's defect, would call an outlier's own Gaussian the likelier one."""
    margins, state = synthetic(models=8, examples=400)
    out_of_sample = lira.audit(margins, state)
    assert out_of_sample.auc.low <= 0.5 <= out_of_sample.auc.high


@pytest.mark.parametrize("order", [1, -1])
def test_lira_is_at_chance_where_all_models_say_the_same(order):
    """Whatever the order of the models is."""
    state = np.repeat([lira.FORGOTTEN, lira.NEVER], 4)[::order][:, None].repeat(20, 1)
    same = lira.audit(np.ones(state.shape), state)
    assert same.auc.value == same.balanced_accuracy.value == 0.5
    assert same.tpr_at_1_fpr.value == same.tpr_at_01_fpr.value == 0


def test_lira_score_by_hand():
    margins, state = synthetic(models=10, examples=50)
    ratio = lira.scores(margins, state)
    pooled = {}
    for group in (lira.FORGOTTEN, lira.NEVER):
        columns = [margins[state[:, i] == group, i] for i in range(50)]
        degrees = sum(max(0, len(c) - 1) for c in columns)
        pooled[group] = sum(((c - c.mean()) ** 2).sum() for c in columns if len(c)) / degrees
    for k, i in np.argwhere(np.isfinite(ratio)):
        likelihood = []
        for group in (lira.FORGOTTEN, lira.NEVER):
            models = np.flatnonzero(state[:, i] == group)
            left_out = k if state[k, i] == group else models[-1]
            others = margins[models[models != left_out], i]
            variance = (((others - others.mean()) ** 2).sum() + 2 * pooled[group]) / (len(others) - 1 + 2)
            likelihood.append(scipy.stats.norm.logpdf(margins[k, i], others.mean(), math.sqrt(variance)))
        assert ratio[k, i] == pytest.approx(likelihood[0] - likelihood[1], rel=1e-6, abs=1e-9)


def test_lira_models_of_one_original_do_not_judge_each_other():
    """Margins that are common to a cluster would give it away."""
    clusters, examples = np.repeat(np.arange(12), 4), 100
    common = RNG.normal(0, 1, (12, examples))[clusters]
    margins = common + RNG.normal(0, 0.1, common.shape)
    state = RNG.choice([lira.FORGOTTEN, lira.NEVER], (12, examples))[clusters]
    fair = lira.audit(margins, state, clusters=clusters)
    assert fair.auc.low <= 0.5 <= fair.auc.high
    assert lira.audit(margins, state).auc.low > 0.6
    null = lira.null_state(jax.random.key(0), state, clusters)
    assert all(len(np.unique(null[clusters == c][:, null[clusters == c][0] != lira.RETAINED])) <= 1 for c in range(12))


@pytest.mark.parametrize("models", [6, 9, 30])
def test_lira_null_level_has_no_sign(models):
    """Leaving out only the judged model would leave fewer models on its own side, and an area below 1/2."""
    margins = RNG.normal(0, 1, (models, 3000))
    state = RNG.choice([lira.FORGOTTEN, lira.NEVER], margins.shape)
    assert lira.audit(margins, state).auc.value == pytest.approx(0.5, abs=0.02)


def test_lira_scores_what_can_be_scored_and_is_never_nan_there():
    margins, state = synthetic(models=12, examples=30)
    margins[:, 0] = 7.0  # no spread at all
    ratio = lira.scores(margins, state)
    assert np.isnan(ratio[state == lira.RETAINED]).all()
    enough = ((state == lira.FORGOTTEN).sum(0) >= 3) & ((state == lira.NEVER).sum(0) >= 3)
    assert np.isfinite(ratio[:, enough][(state != lira.RETAINED)[:, enough]]).all()
    retained = lira.scores(margins, state, seen=lira.RETAINED)
    assert np.isnan(retained[state == lira.FORGOTTEN]).all()
    with pytest.raises(ValueError, match="share no original"):
        lira.audit(margins[:2], state[:2])
    with pytest.raises(ValueError, match=r"\[models, examples\]"):
        lira.audit(margins, state[:2])


# --- distance to retraining -----------------------------------------------------------------------------------------


def test_jensen_shannon_is_symmetric_bounded_and_right():
    """A rival reports KL(m || p) divided by the number of classes, which exceeds log 2 before the division."""
    a, b = (RNG.normal(0, 4, (500, 10)) for _ in range(2))
    actual = divergence.jensen_shannon(a, b)
    p, q = np.exp(np_log_softmax(a)), np.exp(np_log_softmax(b))
    expected = scipy.spatial.distance.jensenshannon(p, q, axis=-1) ** 2
    np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(actual, divergence.jensen_shannon(b, a))
    assert (actual <= math.log(2) + 1e-12).all() and (divergence.jensen_shannon(a, a) == 0).all()
    one_hot = np.array([[1e4, 0.0], [0.0, 1e4]])
    assert divergence.jensen_shannon(one_hot[:1], one_hot[1:])[0] == pytest.approx(math.log(2))


def test_klom_by_hand_and_with_the_top_margin():
    """A rival drops the largest margin of every example, because the last bin was open."""
    unlearned, oracles = np.array([[0.0], [1.0], [1.0], [1.0]]), np.array([[0.0], [0.0], [0.0], [1.0]])
    expected = 0.25 * math.log(0.25 / 0.75) + 0.75 * math.log(0.75 / 0.25)
    assert divergence.klom(unlearned, oracles)[0] == pytest.approx(expected)
    apart = divergence.klom(np.zeros((10, 1)), np.ones((10, 1)))[0]
    assert apart == pytest.approx(math.log(1 / 1e-5))
    assert divergence.klom(np.full((5, 3), 1e9), np.full((5, 3), 200.0)).tolist() == [0, 0, 0]  # both clipped
    with pytest.raises(ValueError, match="the same examples"):
        divergence.klom(unlearned, np.zeros((4, 2)))


@pytest.mark.parametrize(("models", "level"), [(16, 3.87), (50, 0.89), (100, 0.35)])
def test_klom_of_two_halves_of_one_population_is_not_zero(models, level):
    a, b = (RNG.normal(0, 1, (models, 2000)) for _ in range(2))
    assert divergence.klom(a, b).mean() == pytest.approx(level, rel=0.1)


def test_forgetting_epsilon_and_quality():
    same = divergence.forgetting_epsilon(*(RNG.normal(0, 1, (64, 300)) for _ in range(2)))
    apart = divergence.forgetting_epsilon(RNG.normal(0, 1, (64, 50)), RNG.normal(20, 1, (64, 50)))
    assert (apart == 50).all() and divergence.forgetting_quality(apart, 64) == 0
    assert 0.7 < np.median(same) < 2.2 and 0.1 < divergence.forgetting_quality(same, 64) < 0.45
    near = divergence.forgetting_epsilon(RNG.normal(0, 1, (64, 300)), RNG.normal(1, 1, (64, 300)))
    assert divergence.forgetting_quality(near, 64) < divergence.forgetting_quality(same, 64)
    stuck = divergence.forgetting_epsilon(np.zeros((64, 1)), RNG.normal(0, 1, (64, 1)))
    assert stuck[0] == 50  # a deterministic method has no spread
    assert divergence.forgetting_quality(np.array([0.0, 0.6, 1.2, 9.0]), 512) == pytest.approx((1 + 0.5 + 0.25 + 0) / 4)


def test_forgetting_epsilon_of_one_threshold_by_hand():
    """Positive is the population with the larger median; a threshold that errs on one side only does not count."""
    unlearned = np.array([[2.0], [3.0], [0.5], [4.0]])
    oracles = np.array([[0.0], [1.0], [2.5], [-1.0]])
    expected = max(math.log((1 - 1e-5 - 0.25) / 0.25), math.log((1 - 1e-5 - 0.25) / 0.25))
    assert divergence._threshold_epsilon(unlearned, oracles, 1e-5)[0] == pytest.approx(expected)


def test_forgetting_epsilon_where_only_some_intervals_are_allowed():
    """Those as long as the narrower range, give or take 2: any pair of margins would give log 6."""
    a, b = np.arange(8.0), np.array([-0.1, 3.1, 3.2, 3.3, 3.4, 3.5, 3.6, 7.1])
    epsilon = divergence.forgetting_epsilon(a[:, None], b[:, None])[0]
    assert epsilon == pytest.approx(math.log(4), abs=1e-4)


@pytest.mark.parametrize("spread", [1.0, 2.5])
def test_forgetting_epsilon_is_the_challenges(spread):
    """Against a grid as fine as that of its code, which cannot part margins that are nearer; ours can."""
    rng = np.random.default_rng(0)
    a, b = (np.round(rng.normal(0, spread, (32, 12)), 1) + offset for offset in (0.0, 0.05))
    expected = [_epsilon_on_a_grid(a[:, i], b[:, i]) for i in range(12)]
    np.testing.assert_allclose(divergence.forgetting_epsilon(a, b), expected, atol=1e-9)


def _epsilon_on_a_grid(a, b, delta=1e-5):
    narrow, wide = (b, a) if np.ptp(b) <= np.ptp(a) else (a, b)
    upper, lower = (b, a) if np.median(b) > np.median(a) else (a, b)
    width = np.ptp(narrow)
    thresholds = np.arange(min(a.min(), b.min()), max(a.max(), b.max()) + 0.01, 0.01)[:, None]
    errors = [((lower >= thresholds).mean(1), (upper < thresholds).mean(1))]
    for right in np.arange(narrow.max() - 2, narrow.max() + 2.005, 0.01):
        left = (right - width + np.arange(-2, 2.005, 0.01))[:, None]
        inside, outside = (((left <= x) & (x <= right)).mean(1) for x in (narrow, wide))
        errors.append((outside, 1 - inside))
    fpr, fnr = (np.concatenate(parts) for parts in zip(*errors, strict=True))
    counted = (fpr > 0) & (fnr > 0)
    fpr, fnr = fpr[counted], fnr[counted]
    ratios = np.concatenate([(1 - delta - fpr) / fnr, (1 - delta - fnr) / fpr, [1.0]])
    return np.log(ratios.max())


@pytest.mark.parametrize("models", [32, 64, 128])
def test_two_halves_of_one_population_have_a_quality_of_a_fifth(models):
    a, b = np.random.default_rng(3).normal(0, 1, (2, models, 400))
    epsilon = divergence.forgetting_epsilon(a, b)
    assert math.log(4) < np.median(epsilon) < math.log(6)
    assert 0.16 < divergence.forgetting_quality(epsilon, models) < 0.22


def test_the_evidence_of_populations_has_every_part_beside_its_null_level():
    rng = np.random.default_rng(0)
    oracles, others, unlearned = (rng.normal(0, 1, (24, 90)) for _ in range(3))
    unlearned[:, :40] += 3.0  # the forget set is not forgotten, the rest is as it should be
    parts = {"forget": slice(0, 40), "retain": slice(40, 80), "test": slice(80, None)}
    found = divergence.evidence(unlearned, oracles, others, parts)
    names = [f"klom_{part}{end}" for part in parts for end in ("", "_p95")]
    assert list(found.figures) == [*names, "epsilon_median", "forgetting_quality"] and found.details == {"models": 24}
    for part, rows in parts.items():
        figure = found.figures[f"klom_{part}"]
        assert figure.value == pytest.approx(divergence.klom(unlearned[:, rows], oracles[:, rows]).mean())
        assert figure.null == pytest.approx(divergence.klom(others[:, rows], oracles[:, rows]).mean())
        assert 0 <= figure.low <= figure.value <= figure.high <= math.log(1e5)
    assert found.figures["klom_forget"].low > found.figures["klom_forget"].null + 1
    quality = found.figures["forgetting_quality"]
    assert quality.value < quality.null and found.figures["epsilon_median"].value > found.figures["epsilon_median"].null
    same = divergence.evidence(others, oracles, others, parts)
    assert all(figure.value == figure.null for figure in same.figures.values())


# --- what a user sees -------------------------------------------------------------------------------------------------


def covered(draw, figure, truth):
    """How many of 300 intervals hold the truth."""
    found = [figure(*draw()) for _ in range(300)]
    return sum(e.low - 1e-12 <= truth <= e.high + 1e-12 for e in found)


@pytest.mark.parametrize("shift", [0.0, 1.0, 3.0])
@pytest.mark.parametrize("sizes", [(3, 3), (3, 200), (8, 8), (21, 21), (29, 200)])
def test_intervals_of_few_scores_cover(sizes, shift):
    """DeLong's variance is 0 where all members score higher, which three members do by chance."""
    rng = np.random.default_rng(0)
    truth = scipy.stats.norm.cdf(shift / math.sqrt(2))
    assert covered(lambda: (rng.normal(shift, 1, sizes[0]), rng.normal(0, 1, sizes[1])), estimates.auc, truth) >= 285
    low, high = estimates.auc(np.array([2.0, 3.0, 4.0]), np.zeros(50))[1:3]
    assert low < 0.4 and high == 1
    for count in (20, 28):  # half of the trials hit: the very interval of a share
        ties = estimates.auc(np.arange(float(count)), np.arange(float(count)))
        assert ties == pytest.approx(estimates.proportion(count // 2, count))


@pytest.mark.parametrize("members", [10, 30, 60])
def test_intervals_of_an_almost_perfect_attack_cover(members):
    """Where 3% of the members err, 60 hold two of them: DeLong's interval then holds the truth in 84 of 100 cases."""
    rng = np.random.default_rng(0)

    def draw():  # members above or below all others: Birnbaum and Klose's bound itself
        return np.where(rng.random(members) < 0.97, 9.0, -9.0), rng.normal(0, 1, 80)

    assert covered(draw, estimates.auc, 0.97) >= 285


@pytest.mark.parametrize("others", [1, 3, 29, 99])
@pytest.mark.parametrize("shift", [0.0, 1.0, 3.0])
def test_a_threshold_that_too_few_others_place_has_a_wide_interval(others, shift):
    rng = np.random.default_rng(0)
    truth = scipy.stats.norm.sf(scipy.stats.norm.isf(0.01) - shift)
    assert covered(lambda: (rng.normal(shift, 1, 50), rng.normal(0, 1, others)), estimates.tpr_at_fpr, truth) >= 285


@pytest.mark.parametrize("count", [1, 3, 29])
def test_intervals_of_the_mean_of_few_divergences_cover(count):
    """Most are near 0 and some are large; Student's interval of three holds the truth in 58 of 100 cases."""
    rng = np.random.default_rng(0)

    def figure(values):
        return estimates.mean(values, lowest=0.0, highest=math.log(2))

    assert covered(lambda: (rng.beta(0.1, 1, count) * math.log(2),), figure, math.log(2) / 11) >= 285


def test_the_interval_of_a_share_is_scipys():
    for hits, trials in ((0, 1), (1, 1), (3, 7), (40, 900), (900, 900)):
        interval = scipy.stats.binomtest(hits, trials).proportion_ci(0.95, method="exact")
        expected = (hits / trials, interval.low, interval.high)
        assert estimates.proportion(hits, trials)[:3] == pytest.approx(expected, abs=1e-9)
    for hits, trials in ((0, 0), (3, 2), (-1, 2)):
        with pytest.raises(ValueError, match="allowed"):
            estimates.proportion(hits, trials)


def test_a_mean_knows_its_interval():
    values = np.array([1.0, 2.0, 4.0])
    low, high = scipy.stats.t.interval(0.95, 2, values.mean(), values.std(ddof=1) / math.sqrt(3))
    assert estimates.mean(values, np.array([1.0, 3.0])) == pytest.approx((7 / 3, low, high, 2.0))
    assert estimates.mean(values[:1]) == (1.0, None, None, None)
    assert estimates.mean(values, lowest=0.0).low == 0 and estimates.mean(values, highest=5.0).high == 5
    many = np.arange(100.0)  # bounds alone make no interval wide
    assert estimates.mean(many, lowest=0.0, highest=99.0) == estimates.mean(many)


def answers(b):
    """Variables of the model that answers every image with the logits (b, 0)."""
    return {"params": jnp.asarray(b, jnp.float32), "batch_stats": {}}


def _answer(variables, x, *, train, key=None):
    logits = jnp.stack([variables["params"], jnp.zeros_like(variables["params"])])
    return Outputs(jnp.broadcast_to(logits, (len(x), 2)), None), {}


TWO_CLASSES = Model(lambda key: answers(0.0), _answer)


def problem_of(overfitted, count):
    predictor, seen, _ = overfitted
    return Problem.from_rows(predictor.model, predictor.variables, seen, np.arange(count))


def test_an_audit_finds_what_a_model_memorised(overfitted):
    problem, unseen = problem_of(overfitted, 50), overfitted[2]
    original = Predictor((problem.original,), problem.model)
    found = audit(jax.random.key(0), original, problem, unseen)
    assert found.figures["loss_auc"].low > 0.5 and found.notes == () and found.figures["loss_auc"].null is None
    assert set(found.as_json()["auc"]) == {"value", "low", "high"}

    retrained = Predictor((problem.model.init(jax.random.key(9)),), problem.model)
    beside = audit(jax.random.key(0), original, problem, unseen, null=retrained)
    alone = audit(jax.random.key(0), retrained, problem, unseen)
    for name, figure in found.figures.items():
        assert beside.figures[name] == figure._replace(null=alone.figures[name].value)
    logits = [evaluate.outputs(p, problem.forget.x).logits for p in (original, retrained)]
    assert beside.figures["js_forget"].value == pytest.approx(divergence.jensen_shannon(*logits).mean())
    assert beside.figures["loss_auc"].null < found.figures["loss_auc"].low


def test_an_audit_of_three_rows_says_that_its_intervals_are_wide(overfitted):
    problem, unseen = problem_of(overfitted, 3), overfitted[2]
    original = Predictor((problem.original,), problem.model)
    found = audit(jax.random.key(0), original, problem, unseen, null=original)
    estimate = found.figures["loss_auc"]
    assert estimate.high - estimate.low > 0.3 and estimate.null == estimate.value
    assert found.figures["js_forget"].value == pytest.approx(0, abs=1e-9)
    assert len(found.notes) == 1 and "3 examples: the intervals are wide" in found.notes[0]
    lines = str(found).splitlines()
    assert lines[0].split("  ")[-1].strip() == "null level" and len(lines) == 2 + len(found.figures)
    alone = audit(jax.random.key(0), original, problem_of(overfitted, 1), unseen)
    assert "loss_attack" not in alone.figures and "loss_attack is left out" in alone.notes[0]


def test_an_audit_refuses_what_it_cannot_judge(overfitted):
    problem, unseen = problem_of(overfitted, 3), overfitted[2]
    broken = jax.tree.map(lambda a: a * jnp.nan, problem.original)
    with pytest.raises(ValueError, match="predictor returns NaN or infinity; allowed"):
        audit(jax.random.key(0), Predictor((broken,), problem.model), problem, unseen)
    original = Predictor((problem.original,), problem.model)
    with pytest.raises(ValueError, match="null returns NaN or infinity; allowed"):
        audit(jax.random.key(0), original, problem, unseen, null=Predictor((broken,), problem.model))
    with pytest.raises(ValueError, match="no example of the classes .11,."):
        audit(jax.random.key(0), original, problem, unseen, classes=[11])
    for test, hint in (
        (unseen[:0], "test is empty"),
        (Examples(unseen.x[:, :14], unseen.y, 10), r"test images are uint8\(14, 28, 1\), forget images uint8\(28"),
        (Examples(unseen.x.astype(jnp.float32), unseen.y, 10), "test images are float32"),
        (Examples(unseen.x, unseen.y, 12), "test.num_classes is 12, forget.num_classes 10"),
    ):
        with pytest.raises(ValueError, match=hint):
            audit(jax.random.key(0), original, problem, test)
    narrow = Predictor((answers(1.0),), TWO_CLASSES)
    with pytest.raises(ValueError, match=r"null returns logits of shape \(2,\) for an image; allowed: \(10,\)"):
        audit(jax.random.key(0), original, problem, unseen, null=narrow)


def test_an_audit_with_few_test_examples_says_what_it_could_not_have(overfitted):
    problem = problem_of(overfitted, 50)
    original = Predictor((problem.original,), problem.model)
    few = audit(jax.random.key(0), original, problem, overfitted[2][:20])
    assert len(few.notes) == 1 and "12 examples to compare with: the intervals are wide (that of auc by" in few.notes[0]
    fewer = audit(jax.random.key(0), original, problem, overfitted[2][:4], null=original)
    assert {"loss_auc", "loss_attack", "js_forget"} <= set(fewer.figures) and "M" not in fewer.figures
    assert "needs 5 test examples" in fewer.notes[0] and "that of loss_auc by" in fewer.notes[1]
    alone = audit(jax.random.key(0), original, problem, overfitted[2][:1])
    assert set(alone.figures) == {"loss_auc", "entropy_auc", "modified_entropy_auc"}
    assert "loss_attack is left out: it needs 2" in alone.notes[1] and "The test set has 1 example to" in alone.notes[2]


def test_an_audit_takes_the_removed_classes_as_any_sequence(overfitted):
    problem, unseen = problem_of(overfitted, 50), overfitted[2]
    original = Predictor((problem.original,), problem.model)
    found = [audit(jax.random.key(0), original, problem, unseen, classes=c) for c in ((0, 3), [3, 0], np.array([0, 3]))]
    assert str(found[0]) == str(found[1]) == str(found[2])
    assert found[0].figures["loss_auc"] != audit(jax.random.key(0), original, problem, unseen).figures["loss_auc"]


def test_an_ensemble_by_vote_is_audited_by_its_mean_probabilities(overfitted):
    """Two members vote in three ways: signals of votes would be ties."""
    problem, unseen = problem_of(overfitted, 50), overfitted[2]
    other = problem.model.init(jax.random.key(7))
    ensemble = Predictor((problem.original, other), problem.model, aggregate="vote")
    mean = dataclasses.replace(ensemble, aggregate="mean")
    voted, averaged = (audit(jax.random.key(0), p, problem, unseen) for p in (ensemble, mean))
    assert voted == averaged
    alone = audit(jax.random.key(0), Predictor((problem.original,), problem.model), problem, unseen)
    assert voted.figures["loss_auc"] != alone.figures["loss_auc"]


def test_evidence_as_json_tells_what_is_known():
    found = estimates.Evidence(
        {"auc": estimates.Estimate(0.5, 0.4, 0.6), "steps": estimates.Estimate(None, null=30)}, ("So.",), {"models": 4}
    )
    assert found.as_json() == {
        "auc": {"value": 0.5, "low": 0.4, "high": 0.6},
        "steps": {"value": None, "null": 30},
        "models": 4,
        "notes": ["So."],
    }
    header, auc, steps, note = str(found).splitlines()
    assert auc.split() == ["auc", "0.500", "0.400", "to", "0.600", "-"]
    assert steps.split() == ["steps", "-", "-", "30.000"]
    assert len(header) == len(auc) == len(steps) and note == "So."


def test_the_library_imports_without_its_audits_packages():
    """scipy and scikit-learn take longer to import than the rest, and only audits need them."""
    code = "import sys, camu_jax; print([m for m in ('scipy.stats', 'scipy.special', 'sklearn') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


# --- populations ------------------------------------------------------------------------------------------------------


def test_margins_of_a_population_are_made_once(overfitted):
    predictor, _, unseen = overfitted
    model, variables, made = predictor.model, predictor.variables, []

    def make_one(scale):
        made.append(float(scale))
        return Predictor((jax.tree.map(lambda a: a * scale, variables),), model)

    def arguments(k):
        return (jnp.float32(k + 1),)

    class Dies(dict):
        def __setitem__(self, number, margins):
            super().__setitem__(number, margins)
            if number == 1:
                raise KeyboardInterrupt

    cache, told = Dies(), []
    with pytest.raises(KeyboardInterrupt):
        population.margins(make_one, arguments, 4, unseen, cache=cache)
    found = population.margins(
        make_one, arguments, 4, unseen, cache=dict(cache), progress=lambda done, of: told.append((done, of))
    )
    assert made == [1, 2, 3, 4] and told == [(3, 4), (4, 4)]
    assert found.shape == (4, len(unseen)) and found.dtype == np.float32
    np.testing.assert_array_equal(found[0], population.margins_of(Predictor((variables,), model), unseen))

    def traced(scale):
        return Predictor((jax.tree.map(lambda a: a * scale, variables),), model)

    together = population.margins(traced, arguments, 4, unseen, at_once=3)
    np.testing.assert_allclose(together, found, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="at_once is 0"):
        population.margins(make_one, arguments, 4, unseen, at_once=0)


def test_shadow_models_forget_every_example_of_their_half_once():
    shadows = lira.deal(jax.random.key(0), 150, 6, 0.2)
    assert shadows.state.shape == (30, 150) and shadows.halves.shape == (6, 75)
    for half in range(6):
        mine = shadows.state[shadows.clusters == half]
        inside = np.isin(np.arange(150), shadows.halves[half])
        assert (mine[:, ~inside] == lira.NEVER).all() and (mine[:, inside] != lira.NEVER).all()
        assert ((mine == lira.FORGOTTEN).sum(0) == inside).all()
    for forget, retain, state in zip(shadows.forget, shadows.retain, shadows.state):
        assert (state[forget] == lira.FORGOTTEN).all() and (state[retain] == lira.RETAINED).all()
    assert len({tuple(half) for half in shadows.halves}) == 6
    with pytest.raises(ValueError, match="forgets is 75"):
        lira.deal(jax.random.key(0), 150, 6, 1.0)


def test_the_worked_example_of_lira():
    margins = np.array([2.0, 3, 3, 4, -1, 0, 0, 1])[:, None]
    state = np.repeat([lira.FORGOTTEN, lira.NEVER], 4)[:, None]
    ratio = lira.scores(margins, state)[:, 0]
    assert (ratio[:4] > 0).all() and (ratio[4:] < 0).all()
    # pooled variance 4 / 6; without the first: mean 10/3, spread 2/3; without the last stand-in: mean -1/3, spread 2/3
    variance = (2 / 3 + 2 * 4 / 6) / (2 + 2)
    assert ratio[0] == pytest.approx(((2 + 1 / 3) ** 2 - (2 - 10 / 3) ** 2) / (2 * variance))


def test_the_worked_example_of_dealing():
    shadows = lira.deal(jax.random.key(0), 8, 2, 1 / 4)
    assert shadows.clusters.tolist() == [0] * 4 + [1] * 4 and shadows.halves.shape == (2, 4)
    for state, half in zip(shadows.state, np.repeat(shadows.halves, 4, axis=0)):
        assert [(state == what).sum() for what in (lira.FORGOTTEN, lira.RETAINED, lira.NEVER)] == [1, 3, 4]
        assert set(np.flatnonzero(state != lira.NEVER)) == set(half)
    assert sorted(shadows.forget[:4, 0]) == shadows.halves[0].tolist()  # each another one
    again, other = lira.deal(jax.random.key(0), 8, 2, 1 / 4), lira.deal(jax.random.key(1), 800, 2, 1 / 4)
    np.testing.assert_array_equal(again.state, shadows.state)
    assert (other.state != lira.deal(jax.random.key(2), 800, 2, 1 / 4).state).any()


def test_the_evidence_of_lira_has_forgotten_and_retained_examples_beside_the_null_level():
    shadows = lira.deal(jax.random.key(0), 120, 10, 0.25)
    rng = np.random.default_rng(0)
    margins = rng.normal(0, 1, shadows.state.shape)
    margins[shadows.state == lira.RETAINED] += 4.0  # what was forgotten looks as if it never had been there
    found = lira.evidence(jax.random.key(1), margins, shadows.state, clusters=shadows.clusters)
    names = ("balanced_accuracy", "auc", "tpr_at_1_fpr", "tpr_at_01_fpr")
    assert list(found.figures) == [prefix + name for prefix in ("", "retained_") for name in names]
    judged = lira.audit(margins, shadows.state, clusters=shadows.clusters)
    for name in names:
        assert found.figures[name][:3] == getattr(judged, name)[:3]
        assert found.figures[name].null == found.figures[f"retained_{name}"].null
    assert found.figures["auc"].low <= 0.5 <= found.figures["auc"].high and found.figures["retained_auc"].low > 0.9
    assert found.details["models"] == 40
    assert sum(found.details["by_example_histogram"]) == np.isfinite(judged.by_example).sum()


def test_examples_are_counted_by_how_well_they_are_told():
    by_example = np.array([0.0, 0.04, 0.5, np.nan, 1.0])
    assert lira.by_example_histogram(by_example).tolist() == [2, 0, 0, 0, 0, 1, 0, 0, 0, 1]
    assert lira.by_example_histogram(by_example, bins=2).tolist() == [2, 2]


@pytest.mark.parametrize("at_once", [1, 2, 5])
def test_the_worked_example_of_populations(at_once):
    examples = Examples(jnp.zeros((3, 4, 4, 1), jnp.float32), jnp.asarray([0, 1, 1], jnp.int32), 2)

    def make_one(b):
        return Predictor((answers(b),), TWO_CLASSES)

    found = population.margins(make_one, lambda k: (jnp.float32(k + 1),), 2, examples, at_once=at_once)
    np.testing.assert_allclose(found, [[1, -1, -1], [2, -2, -2]], rtol=1e-6)
