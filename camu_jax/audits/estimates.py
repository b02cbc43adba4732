"""How well scores tell members from others, with 95% confidence intervals."""

import dataclasses
from typing import Any, NamedTuple

import numpy as np
import scipy.stats

CONFIDENCE = 0.95
SMALL = 30
"""With fewer examples on a side normal approximations do not hold."""


class Estimate(NamedTuple):
    """A figure, its 95% confidence interval, and its null level.

    Attributes:
      value: the figure; None where there is none (a model that does not relearn in time).
      low, high: ends of the interval; None for a figure without one.
      null: the figure to expect where nothing is left, of a retrained model for example; None where it is not known.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    null: float | None = None


@dataclasses.dataclass(frozen=True)
class Evidence:
    """What an audit found. Printed, it is a line a figure: value, 95% interval, null level.

    Attributes:
      figures: estimates by name.
      notes: what the reader has to know, a sentence each: figures that could not be had, intervals that say little.
      details: what else belongs into a record, JSON.
    """

    figures: dict[str, Estimate]
    notes: tuple[str, ...] = ()
    details: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __str__(self) -> str:
        rows = [("", "figure", "95% interval", "null level")]
        for name, estimate in self.figures.items():
            interval = "-" if estimate.low is None else f"{_short(estimate.low)} to {_short(estimate.high)}"
            rows.append((name, _short(estimate.value), interval, _short(estimate.null)))
        widths = [max(len(row[i]) for row in rows) for i in range(4)]
        lines = []
        for name, *columns in rows:
            cells = [name.ljust(widths[0])] + [text.rjust(width) for text, width in zip(columns, widths[1:])]
            lines.append("  ".join(cells))
        return "\n".join([*lines, *self.notes])

    def as_json(self) -> dict[str, Any]:
        """Each figure as a dictionary of what is known of it, and the details."""
        found: dict[str, Any] = {}
        for name, estimate in self.figures.items():
            known = {"value": estimate.value, "low": estimate.low, "high": estimate.high, "null": estimate.null}
            found[name] = {k: v for k, v in known.items() if v is not None or k == "value"}
        return {**found, **self.details}


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def proportion(hits: int, trials: int) -> Estimate:
    """A share, with the interval of Clopper and Pearson (Biometrika 1934), which is never too short.

    Raises:
      ValueError: `trials` is not positive.
    """
    interval = scipy.stats.binomtest(int(hits), int(trials)).proportion_ci(CONFIDENCE, method="exact")
    return Estimate(hits / trials, float(interval.low), float(interval.high))


def mean(values: np.ndarray, null: np.ndarray | None = None, *, lowest: float = -np.inf) -> Estimate:
    """A mean over examples, with Student's interval, and the mean of the null level's values.

    Args:
      values: `[N]`; of a single one the interval is unknown.
      null: `[M]`, or None.
      lowest: what no value is below, and so no interval reaches below.
    """
    center, level = float(np.mean(values)), None if null is None else float(np.mean(null))
    if len(values) == 1:
        return Estimate(center, null=level)
    reach = float(scipy.stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1) * scipy.stats.sem(values))
    return Estimate(center, max(lowest, center - reach), center + reach, level)


def balanced_accuracy(members: np.ndarray, others: np.ndarray, *, threshold: float = 0.0) -> Estimate:
    """The mean of the true positive and the true negative rate of `score > threshold`.

    Args:
      members: scores of members, `[M]`.
      others: scores of non-members, `[N]`.
      threshold: fixed beforehand, not fitted to these scores.

    Returns:
      0 to 1; the interval is the mean of the two rates' intervals.
    """
    hits = int((members > threshold).sum()), int((others <= threshold).sum())
    low, high = (
        scipy.stats.binomtest(hit, len(side)).proportion_ci(CONFIDENCE, method="exact")
        for hit, side in zip(hits, (members, others))
    )
    value = (hits[0] / len(members) + hits[1] / len(others)) / 2
    return Estimate(value, float(low.low + high.low) / 2, float(low.high + high.high) / 2)


def auc(members: np.ndarray, others: np.ndarray) -> Estimate:
    """The chance that a member scores higher than a non-member, ties half.

    The interval is DeLong's (Biometrics 1988) from 30 scores on each side on. Its variance is 0 where all of three
    members score higher, which proves little. Below 30 the interval is therefore Clopper and Pearson's for as many
    trials as the smaller side has scores: by Birnbaum and Klose (1957) the variance is never larger than that of so
    many independent trials.

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
    if min(m, n) < SMALL:
        return Estimate(value, *_interval_of_share(value, min(m, n)))
    variance = above.var(ddof=1) / m + below.var(ddof=1) / n
    reach = float(scipy.stats.norm.ppf((1 + CONFIDENCE) / 2) * np.sqrt(variance))
    return Estimate(value, max(0.0, value - reach), min(1.0, value + reach))


def _interval_of_share(share: float, trials: int) -> tuple[float, float]:
    """Clopper and Pearson's interval, for a number of hits that does not have to be whole."""
    hits, tail = share * trials, (1 - CONFIDENCE) / 2
    low = scipy.stats.beta.ppf(tail, hits, trials - hits + 1) if hits > 0 else 0.0
    high = scipy.stats.beta.ppf(1 - tail, hits + 1, trials - hits) if hits < trials else 1.0
    return float(low), float(high)


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
