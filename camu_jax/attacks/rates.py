"""How well scores tell members from others, with 95% confidence intervals."""

from typing import NamedTuple

import numpy as np
import scipy.stats

CONFIDENCE = 0.95


class Estimate(NamedTuple):
    """A figure, and its 95% confidence interval."""

    value: float
    low: float
    high: float


def proportion(hits: int, trials: int) -> Estimate:
    """A share, with the interval of Clopper and Pearson (Biometrika 1934), which is never too short.

    Raises:
      ValueError: `trials` is not positive.
    """
    interval = scipy.stats.binomtest(int(hits), int(trials)).proportion_ci(CONFIDENCE, method="exact")
    return Estimate(hits / trials, float(interval.low), float(interval.high))


def balanced_accuracy(members: np.ndarray, others: np.ndarray, *, threshold: float = 0.0) -> Estimate:
    """The mean of the true positive and the true negative rate of `score > threshold`.

    Args:
      members: scores of members, `[M]`.
      others: scores of non-members, `[N]`.
      threshold: fixed beforehand, not fitted to these scores.

    Returns:
      0 to 1; the interval is the mean of the two rates' intervals.
    """
    hit = proportion(int((members > threshold).sum()), len(members))
    passed = proportion(int((others <= threshold).sum()), len(others))
    return Estimate(*((a + b) / 2 for a, b in zip(hit, passed)))


def auc(members: np.ndarray, others: np.ndarray) -> Estimate:
    """The chance that a member scores higher than a non-member, ties half; the interval is DeLong's (Biometrics 1988).

    Args:
      members: scores of members, `[M]`.
      others: scores of non-members, `[N]`.

    Returns:
      0 to 1. Below 1/2 the attack has the wrong sign, which is a leak as well.
    """
    m, n = len(members), len(others)
    ranks = scipy.stats.rankdata(np.concatenate([members, others]))
    above = (ranks[:m] - scipy.stats.rankdata(members)) / n  # for each member the share of others below it
    below = 1 - (ranks[m:] - scipy.stats.rankdata(others)) / m
    value = float(above.mean())
    variance = (above.var(ddof=1) / m if m > 1 else 0.0) + (below.var(ddof=1) / n if n > 1 else 0.0)
    reach = float(scipy.stats.norm.ppf((1 + CONFIDENCE) / 2) * np.sqrt(variance))
    return Estimate(value, max(0.0, value - reach), min(1.0, value + reach))


def tpr_at_fpr(members: np.ndarray, others: np.ndarray, rate: float = 0.01) -> Estimate:
    """The share of members above the lowest threshold that lets at most `rate` of the non-members pass.

    Args:
      members: scores of members, `[M]`.
      others: scores of non-members, `[N]`; with fewer than 1 / rate of them none may pass.
      rate: the false positive rate.

    Returns:
      0 to 1; chance is `rate`.
    """
    allowed = int(np.floor(rate * len(others) + 1e-9))
    threshold = np.sort(others)[::-1][allowed] if allowed < len(others) else -np.inf
    return proportion(int((members > threshold).sum()), len(members))
