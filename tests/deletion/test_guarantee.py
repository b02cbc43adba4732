"""The four classes of a guarantee, and that none promises more than is known."""

import numpy as np
import pytest

from camu_jax.audits.estimates import Estimate, proportion
from camu_jax.deletion import figures, guarantee
from camu_jax.methods import METHODS, Camu, Method, Retrain, Sisa


def found(*outcomes, verdicts=None):
    audits = {f"attack{i}": {"outcome": outcome} for i, outcome in enumerate(outcomes)}
    return {"audits": audits, "verdicts": verdicts and {"outcome": verdicts}}


@pytest.mark.parametrize(
    ("outcomes", "verdicts", "kind", "words"),
    [
        (["failed", "blind"], None, "audited", "1 of 2 attacks could tell"),
        (["failed", "failed"], "found", "none", "verdicts on single rows"),
        (["failed", "found"], None, "none", "attack1"),
        (["blind", "open"], None, "none", "their failing says nothing"),
        (["open"], None, "none", "Nothing was measured"),
        (["blind"], "failed", "audited", "verdicts on single rows"),
    ],
)
def test_of_attacks(outcomes, verdicts, kind, words):
    said = guarantee.state(METHODS[Camu], {}, found(*outcomes, verdicts=verdicts))
    assert said["kind"] == kind and words in said["words"] and "forgotten" not in said["words"]


def test_exact_and_certified_do_not_depend_on_attacks():
    for settings in (Retrain, Sisa):
        said = guarantee.state(METHODS[settings], {}, found("found"))
        assert said["kind"] == "exact" and "not covered" in said["words"]
    bound = guarantee.state(Method("noisy", lambda: None), {"epsilon": 1.5, "delta": 1e-5}, found("blind"))
    assert bound["kind"] == "certified" and "epsilon 1.5" in bound["words"] and "delta 1e-05" in bound["words"]
    assert "covers these rows" in bound["words"]


def test_an_attack_is_weighed_against_its_null_level_and_its_power():
    near, far = proportion(52, 100), proportion(95, 100)
    null = proportion(50, 100)
    weigh = figures._weigh
    assert weigh(far, far, null, 1.0)["outcome"] == "found"
    assert weigh(near, far, null, 1.0)["outcome"] == "failed"
    assert weigh(near, near, null, 1.0)["outcome"] == "blind"
    assert weigh(near, far, None, 1.0)["outcome"] == "open"
    assert weigh(proportion(8, 100), far, null, 1.0)["outcome"] == "found"  # the wrong sign is a leak as well
    few = weigh(Estimate(2 / 3, *proportion(2, 3)[1:3]), far, null, 1.0)
    assert few["detectable"] > weigh(near, far, null, 1.0)["detectable"]


@pytest.mark.parametrize(
    ("before", "after", "outcome"),
    [
        ([1e-7], [1e-7], "found"),  # the commonest request: one row
        ([1e-7], [0.3], "failed"),
        ([0.3], [0.3], "blind"),
        ([1e-7] * 3, [0.5, 0.5, 1e-7], "found"),  # one row of three, but beyond doubt
        ([1e-7] * 3, [0.5, 0.5, 0.04], "failed"),
        ([0.5] * 1000, [0.04] * 100 + [0.5] * 900, "found"),  # each might be chance, but not a hundred
        ([0.5] * 1000, [0.04] * 50 + [0.5] * 950, "blind"),
    ],
)
def test_rows_stand_out_by_their_number_or_one_by_itself(before, after, outcome):
    rows = [{"p_before": b, "p_after": a} for b, a in zip(before, after, strict=True)]
    assert figures._outcome(rows) == outcome


@pytest.mark.parametrize("count", [1, 2, 3, 10, 100, 1000])
def test_rows_that_are_gone_seldom_stand_out(count):
    p = np.random.default_rng(0).random((1000, count))
    found = [figures._outcome([{"p_before": 1.0, "p_after": x} for x in row]) for row in p]
    assert found.count("found") <= 65  # 50 on average, and two standard deviations


def test_models_that_never_saw_the_rows_are_seldom_found():
    """Two equal models differ by chance alone: with ten attacks at once, in fewer than 5% of the cases."""
    rng = np.random.default_rng(0)
    wider = figures._widening(10)
    hits = [rng.binomial(200, 0.5, 20) for _ in range(400)]
    outcomes = [
        any(
            figures._weigh(proportion(a, 200), proportion(a, 200), proportion(b, 200), wider)["outcome"] == "found"
            for a, b in zip(h[:10].tolist(), h[10:].tolist())
        )
        for h in hits
    ]
    assert np.mean(outcomes) < 0.05
