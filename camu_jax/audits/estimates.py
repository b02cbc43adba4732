"""How well scores tell members from others, with 95% confidence intervals.

Intervals must be honest for three examples as well, where normal approximations are not: there they are Clopper and
Pearson's, which are never too short for a share, and which here also serve for what varies no more than a share does.
"""

import dataclasses
import statistics
import textwrap
from typing import Any, NamedTuple

import numpy as np

from camu_jax import _validate

CONFIDENCE = 0.95
SMALL = 30
"""With fewer examples on a side normal approximations do not hold."""
NORMAL_REACH = statistics.NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
"""Standard deviations from a normal mean to the end of its interval, 1.96."""


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
        return "\n".join([*lines, *(textwrap.fill(note, 110) for note in self.notes)])

    def as_json(self) -> dict[str, Any]:
        """Each figure as a dictionary of what is known of it, the details, and the notes."""
        found: dict[str, Any] = {}
        for name, estimate in self.figures.items():
            known = {"value": estimate.value, "low": estimate.low, "high": estimate.high, "null": estimate.null}
            found[name] = {k: v for k, v in known.items() if v is not None or k == "value"}
        return {**found, **self.details, **({"notes": list(self.notes)} if self.notes else {})}


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def proportion(hits: int, trials: int) -> Estimate:
    """A share, with the interval of Clopper and Pearson (Biometrika 1934), which is never too short.

    Raises:
      ValueError: `trials` is not positive, or `hits` is not among 0 to `trials`.
    """
    _validate.at_least(1, trials=trials)
    _validate.between(0, trials, hits=hits)
    return Estimate(hits / trials, *_interval_of_share(hits / trials, trials))


def _interval_of_share(share: float, trials: int) -> tuple[float, float]:
    """Clopper and Pearson's interval, for a number of hits that does not have to be whole."""
    import scipy.special

    hits, tail = share * trials, (1 - CONFIDENCE) / 2
    low = scipy.special.betaincinv(hits, trials - hits + 1, tail) if hits > 0 else 0.0
    high = scipy.special.betaincinv(hits + 1, trials - hits, 1 - tail) if hits < trials else 1.0
    return float(low), float(high)


def mean(
    values: np.ndarray, null: np.ndarray | None = None, *, lowest: float = -np.inf, highest: float = np.inf
) -> Estimate:
    """A mean over examples, with its interval, and the mean of the null level's values.

    The interval is Student's. That is too short for few values of which most are near 0 and some are large, as
    divergences are. Where both bounds are known, the interval of fewer than 30 values is therefore that of a share of
    the way from `lowest` to `highest`: no values between the bounds vary more than those that lie on them.

    Args:
      values: `[N]`; of a single one without bounds the interval is unknown.
      null: `[M]`, or None.
      lowest: what no value is below, and so no interval reaches below.
      highest: what no value is above.
    """
    import scipy.special

    center, level = float(np.mean(values)), None if null is None else float(np.mean(null))
    count, width = len(values), highest - lowest
    if count < SMALL and np.isfinite(width):
        share = min(max((center - lowest) / width, 0.0), 1.0)  # values may pass a bound by their rounding
        low, high = _interval_of_share(share, count)
        return Estimate(center, lowest + low * width, lowest + high * width, level)
    if count == 1:
        return Estimate(center, null=level)
    reach = float(scipy.special.stdtrit(count - 1, (1 + CONFIDENCE) / 2) * np.std(values, ddof=1) / count**0.5)
    return Estimate(center, max(lowest, center - reach), min(highest, center + reach), level)


def balanced_accuracy(members: np.ndarray, others: np.ndarray, *, threshold: float = 0.0) -> Estimate:
    """The mean of the true positive and the true negative rate of `score > threshold`.

    Args:
      members: scores of members, `[M]`.
      others: scores of non-members, `[N]`.
      threshold: fixed beforehand, not fitted to these scores.

    Returns:
      0 to 1; the interval is the mean of the two rates' intervals.
    """
    true_positive, true_negative = float((members > threshold).mean()), float((others <= threshold).mean())
    low_positive, high_positive = _interval_of_share(true_positive, len(members))
    low_negative, high_negative = _interval_of_share(true_negative, len(others))
    return Estimate(
        (true_positive + true_negative) / 2, (low_positive + low_negative) / 2, (high_positive + high_negative) / 2
    )


def auc(members: np.ndarray, others: np.ndarray) -> Estimate:
    """The chance that a member scores higher than a non-member, ties half.

    The interval is DeLong's (Biometrics 1988) where there is enough to estimate a variance from: it is 0 where all of
    three members score higher, which proves little. Below 30 scores on a side, and below 10 hits or 10 misses among as
    many trials as the smaller side has scores, the interval is Clopper and Pearson's for so many trials: by Birnbaum
    and Klose (1957) the variance is never larger than theirs.

    Args:
      members: scores of members, `[M]`.
      others: scores of non-members, `[N]`.

    Returns:
      0 to 1. Below 1/2 the attack has the wrong sign, which is a leak as well.
    """
    m, n = len(members), len(others)
    lower_others, lower_members = _share_below(others, members), _share_below(members, others)
    value, smaller = float(lower_others.mean()), min(m, n)
    if smaller < SMALL or smaller * min(value, 1 - value) < 10:
        return Estimate(value, *_interval_of_share(value, smaller))
    reach = NORMAL_REACH * float(np.sqrt(lower_others.var(ddof=1) / m + lower_members.var(ddof=1) / n))
    return Estimate(value, max(0.0, value - reach), min(1.0, value + reach))


def _share_below(scores: np.ndarray, points: np.ndarray) -> np.ndarray:
    """For each point the share of scores below it, ties half, `[points]`."""
    ordered = np.sort(scores)
    below, not_above = (np.searchsorted(ordered, points, side) for side in ("left", "right"))
    return (below + not_above) / (2 * len(scores))


def tpr_at_fpr(members: np.ndarray, others: np.ndarray, rate: float = 0.01) -> Estimate:
    """The share of members above the lowest threshold that lets at most `rate` of the non-members pass.

    The interval takes the threshold as given, and so does not say how well `others` place it. Fewer than 1 / rate of
    them cannot: none may pass, and how many of a larger number would is open. The interval then reaches from 0 to that
    of the lowest threshold that may be meant: more of them would pass it with a probability of 2.5% at most.

    Args:
      members: scores of members, `[M]`.
      others: scores of non-members, `[N]`.
      rate: the false positive rate.

    Returns:
      0 to 1; chance is `rate`.
    """
    ordered = np.sort(others)[::-1]

    def above(allowed: int) -> Estimate:
        threshold = ordered[allowed] if allowed < len(others) else -np.inf
        return proportion(int((members > threshold).sum()), len(members))

    allowed = int(np.floor(rate * len(others) + 1e-9))
    estimate = above(allowed)
    if allowed == 0:
        estimate = estimate._replace(low=0.0, high=above(_most_passing(len(others), rate)).high)
    return estimate


def _most_passing(trials: int, rate: float) -> int:
    """The number that is exceeded with a probability of at most 2.5% where each of `trials` passes with `rate`."""
    import scipy.special

    most = 0
    while scipy.special.bdtrc(most, trials, rate) > (1 - CONFIDENCE) / 2:
        most += 1
    return most
