"""Verdicts on single rows."""

import json

import numpy as np
import pytest

from camu_jax.audits import verdicts
from camu_jax.audits.verdicts import Unseen, Verdict


def _never(models, rows, seed=0):
    generator = np.random.default_rng(seed)
    return generator.normal(generator.normal(0, 2, rows), 1.0, (models, rows))


def test_the_worked_example():
    never = np.array([[-1.0], [0.0], [0.0], [1.0]])
    found = verdicts.judge(np.array([6.0]), np.array([0.5]), never)
    assert found.verdict == [Verdict.GONE] and found.percentile == 75 and found.never == 0
    assert verdicts.judge(np.array([6.0]), np.array([6.0]), never).verdict == [Verdict.VISIBLE]
    assert verdicts.judge(np.array([6.0]), np.array([-6.0]), never).verdict == [Verdict.VISIBLE]  # avoided
    assert verdicts.judge(np.array([0.7]), np.array([0.5]), never).verdict == [Verdict.NEVER_MEMORISED]


@pytest.mark.parametrize("models", [4, 8, 32])
def test_models_that_never_saw_the_rows_stand_out_as_often_as_the_level_says(models):
    rows = 8000
    generator = np.random.default_rng(2)
    for scale in (np.ones(rows), generator.chisquare(3, rows) ** -0.5):  # rows that vary alike, and very differently
        margins = scale * generator.normal(0, 1, (models + 1, rows))
        found = verdicts.judge(margins[-1] + 100 * scale, margins[-1], margins[:-1])
        visible = np.mean([v is Verdict.VISIBLE for v in found.verdict])
        assert abs(visible - verdicts.LEVEL) < 4 * (verdicts.LEVEL / rows) ** 0.5
        assert np.mean([v is Verdict.NEVER_MEMORISED for v in found.verdict]) < 0.01


def test_each_row_is_judged_on_its_own():
    never = _never(8, 20)
    before, after = never.mean(0) + 8, never.mean(0).copy()
    after[7] += 8
    found = verdicts.judge(before, after, never)
    assert [i for i, v in enumerate(found.verdict) if v is Verdict.VISIBLE] == [7]
    order = np.random.default_rng(1).permutation(20)
    again = verdicts.judge(before[order], after[order], never[:, order])
    assert again.verdict == [found.verdict[i] for i in order]


def test_evidence_counts_every_row_once_and_is_json():
    never = _never(6, 50)
    before, after = never.mean(0) + 9, never.mean(0)
    before[:10] = after[:10]
    after = after + np.where(np.arange(50) < 45, 0, 9)
    found = verdicts.evidence(before, after, never)
    share = {name: estimate.value for name, estimate in found.figures.items()}
    assert share["gone"] == 0.7 and share["visible"] == share["surer"] == 0.1 and share["never_memorised"] == 0.2
    assert share["too_unsure"] == 0
    null = found.figures["visible"].null
    assert null is not None and 0 <= null < 0.15
    assert len(json.loads(json.dumps(found.as_json(), allow_nan=False))["rows"]) == 50


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((np.zeros(3), np.zeros(2), np.zeros((4, 3))), "after (2,)"),
        ((np.zeros(3), np.zeros(3), np.zeros((2, 3))), "models in never is 2"),
        ((np.zeros(0), np.zeros(0), np.zeros((4, 0))), "examples in never is 0"),
        ((np.zeros(3), np.array([0, np.nan, 0]), np.zeros((4, 3))), "after holds a margin that is not finite"),
    ],
)
def test_bad_input_is_named(arguments, words):
    with pytest.raises(ValueError) as error:
        verdicts.judge(*arguments)
    assert words in str(error.value) and "allowed" in str(error.value)
    with pytest.raises(ValueError, match="level is 0.5; allowed"):
        verdicts.judge(np.zeros(3), np.zeros(3), np.zeros((4, 3)), level=0.5)


def test_unseen_rows_allow_for_models_that_were_trained_otherwise():
    """Models that are off everywhere are not visible; a row that is off by more than others is."""
    rng = np.random.default_rng(3)
    rows, unseen, models = 4000, 4000, 8
    center = rng.normal(0, 2, rows + unseen)
    never = center + rng.normal(0, 1, (models, rows + unseen))
    before, after = center + 2 + rng.normal(0, 3, (2, rows + unseen))  # surer, and of their own mind
    before[:rows] += 30
    after[:400] += 30
    parts = [(a[..., :rows], a[..., rows:]) for a in (before, after, never)]
    inside, outside = zip(*parts)
    plainly = verdicts.judge(*inside)
    assert np.mean(plainly.p_after[400:] < verdicts.LEVEL) > 0.3
    found = verdicts.judge(*inside, unseen=Unseen(*outside))
    assert np.all(found.p_after[:400] < verdicts.LEVEL)
    shares = np.mean(found.p_after[400:] < verdicts.LEVEL), np.mean(found.p_before < verdicts.LEVEL)
    assert abs(shares[0] - verdicts.LEVEL) < 5 * (verdicts.LEVEL / 3600) ** 0.5 and shares[1] == 1
    null = verdicts.evidence(*inside, unseen=Unseen(*outside)).figures["visible"].null
    assert abs(null - verdicts.LEVEL) < 0.02


def test_too_few_or_other_unseen_rows_are_named():
    never = _never(4, 3)
    parts = never.mean(0), never.mean(0), never
    with pytest.raises(ValueError, match="examples in unseen is 39; allowed"):
        verdicts.judge(*parts, unseen=Unseen(np.zeros(39), np.zeros(39), _never(4, 39)))
    with pytest.raises(ValueError, match="unseen.never holds 5 models; allowed: 4"):
        verdicts.judge(*parts, unseen=Unseen(np.zeros(50), np.zeros(50), _never(5, 50)))
