"""Distance to retraining, example by example: KLoM, the unlearning challenge's epsilon, Jensen-Shannon divergence.

The first two compare populations of margins `[models, examples]`: of unlearned models and of models retrained without
the forget set (oracles). None of them is 0 or 1 for two halves of one population: put the figure of oracles against
other oracles beside each.
"""

from typing import Literal

import numpy as np

from camu_jax import _validate
from camu_jax.audits.estimates import Estimate, Evidence, mean

_EMPTY = 1e-5  # what an empty bin of the oracles counts as
_OF_THE_METHOD = "KLoM, epsilon and forgetting quality judge the method, by a population of models that it made."
_REACH = 2.0  # how far the challenge's intervals may be from the narrower population
_PAIRS = 2**21  # intervals in memory at a time


def klom(unlearned: np.ndarray, oracles: np.ndarray, *, bins: int = 20, clip: float = 100.0) -> np.ndarray:
    """KL divergence of margins (Georgiev et al., "Attribute-to-Delete", ICLR 2025): KL(unlearned || oracles).

    Args:
      unlearned: margins of unlearned models, `[K, N]`.
      oracles: margins of retrained models, `[M, N]`.
      bins: of equal width over the joint range of an example's margins. The maximum belongs to the last bin; the
        official code drops it.
      clip: margins are clipped to plus and minus this.

    Returns:
      `[N]`, nats, 0 to about 11.5: an empty bin of the oracles counts as 1e-5.

    Raises:
      ValueError: the numbers of examples differ, or a population is empty.
    """
    a, b = _populations(unlearned, oracles)
    _validate.at_least(2, bins=bins)
    a, b = np.clip(a, -clip, clip), np.clip(b, -clip, clip)
    low = np.minimum(a.min(0), b.min(0))
    width = np.maximum(a.max(0), b.max(0)) - low
    p, q = (_histogram(x, low, width, bins) for x in (a, b))
    return np.sum(np.where(p > 0, p * (np.log(np.maximum(p, 1e-300)) - np.log(np.maximum(q, _EMPTY))), 0.0), axis=0)


def _populations(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or not len(a) or not len(b):
        raise ValueError(f"margins are {a.shape} and {b.shape}; allowed: [models, examples], the same examples")
    return a, b


def _histogram(x: np.ndarray, low: np.ndarray, width: np.ndarray, bins: int) -> np.ndarray:
    """Shares `[bins, N]` of the models in each bin."""
    place = np.floor((x - low) / np.where(width > 0, width, 1.0) * bins).astype(int)
    place = np.minimum(place, bins - 1)  # the maximum belongs to the last bin
    counts = np.zeros((bins, x.shape[1]))
    np.add.at(counts, (place, np.arange(x.shape[1])), 1)
    return counts / len(x)


def forgetting_epsilon(unlearned: np.ndarray, oracles: np.ndarray, *, delta: float = 1e-5) -> np.ndarray:
    """The challenge's epsilon of each example: how far the best attack tells the two populations apart.

    Triantafillou et al., "Are we making progress in unlearning? Findings from the first NeurIPS unlearning
    competition" (2024). As in the challenge's code, the attacks are all single thresholds, and the intervals that end
    within 2 of the maximum of the population with the smaller range and are as long as that range, give or take 2; one
    that errs on neither side counts as infinite, one that errs on one side only is left out as having too few samples.
    The challenge tries a grid of 100 thresholds a unit; here each attack that such thresholds can make is tried once.

    Args:
      unlearned: margins of unlearned models, `[K, N]`.
      oracles: margins of retrained models, `[M, N]`.
      delta: of (epsilon, delta)-indistinguishability.

    Returns:
      `[N]`, 0 to 50. Two halves of one population have a median of about log 5: see the module.

    Raises:
      ValueError: as `klom`.
    """
    a, b = _populations(unlearned, oracles)
    best = np.zeros(a.shape[1])
    at_once = max(1, _PAIRS // (len(a) + len(b)) ** 2)
    for start in range(0, a.shape[1], at_once):
        some = slice(start, start + at_once)
        best[some] = np.maximum(
            _threshold_epsilon(a[:, some], b[:, some], delta), _interval_epsilon(a[:, some], b[:, some], delta)
        )
    low, high = np.minimum(a.min(0), b.min(0)), np.maximum(a.max(0), b.max(0))
    ranges = np.stack([np.ptp(a, axis=0), np.ptp(b, axis=0)])
    degenerate = (ranges.min(0) < 0.01 * ranges.max(0)) & (high > low)
    return np.clip(np.where(degenerate, 50.0, best), 0.0, 50.0)


def _epsilon(fpr: np.ndarray, fnr: np.ndarray, delta: float) -> np.ndarray:
    """The largest epsilon over the attacks, axis 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        bound = np.maximum(np.log((1 - delta - fpr) / fnr), np.log((1 - delta - fnr) / fpr))
    bound = np.where((fpr == 0) ^ (fnr == 0), 0.0, np.where((fpr == 0) & (fnr == 0), np.inf, bound))
    return np.max(np.nan_to_num(bound, nan=0.0, posinf=np.inf, neginf=0.0), axis=0)


def _threshold_epsilon(a: np.ndarray, b: np.ndarray, delta: float) -> np.ndarray:
    swap = np.median(a, axis=0) < np.median(b, axis=0)
    thresholds = np.sort(np.concatenate([a, b]), axis=0)
    upper, lower = (_share_at_least(x, thresholds) for x in (a, b))  # shares that are called positive
    positive, negative = np.where(swap, lower, upper), np.where(swap, upper, lower)
    return _epsilon(negative, 1 - positive, delta)


def _interval_epsilon(a: np.ndarray, b: np.ndarray, delta: float) -> np.ndarray:
    narrow_is_b = np.ptp(b, axis=0) <= np.ptp(a, axis=0)
    width, top = np.minimum(np.ptp(a, axis=0), np.ptp(b, axis=0)), np.where(narrow_is_b, b.max(0), a.max(0))

    # An interval is known by the first and the last margin in it. Its ends lie anywhere up to the margins beside it.
    points = np.sort(np.concatenate([a, b]), axis=0)
    edge = np.full((1, points.shape[1]), np.inf)
    first, last = np.triu_indices(len(points))
    right_from = np.maximum(points[last], top - _REACH)
    right_to = np.minimum(np.concatenate([points[1:], edge])[last], top + _REACH)
    left_from, left_to = np.concatenate([-edge, points[:-1]])[first], points[first]
    aimed = (right_from <= right_to) & (right_from - left_to <= width + _REACH)
    aimed &= right_to - left_from >= width - _REACH

    in_a, in_b = (_share_at_least(s, points)[first] - _share_above(s, points)[last] for s in (a, b))
    inside, outside = np.where(narrow_is_b, in_b, in_a), np.where(narrow_is_b, in_a, in_b)
    return _epsilon(np.where(aimed, outside, np.nan), 1 - inside, delta)  # NaN is left out


def _share_at_least(x: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Share of the models whose margin is at least each threshold, `[T, N]`."""
    return 1 - _share_before(x, thresholds, "left")


def _share_above(x: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Share of the models whose margin is above each threshold, `[T, N]`."""
    return 1 - _share_before(x, thresholds, "right")


def _share_before(x: np.ndarray, thresholds: np.ndarray, side: Literal["left", "right"]) -> np.ndarray:
    ordered = np.sort(x, axis=0)
    before = [np.searchsorted(ordered[:, i], thresholds[:, i], side=side) for i in range(x.shape[1])]
    return np.stack(before, axis=1) / len(x)


def forgetting_quality(epsilon: np.ndarray, models: int) -> float:
    """The challenge's forgetting score: 1 for epsilon below 0.5, half of it for each 0.5 more.

    Args:
      epsilon: of each example, `[N]`.
      models: in each population; an epsilon that so many can no longer resolve, log(models - 1) rounded up, counts 0.

    Returns:
      The mean over the examples, 0 to 1.
    """
    epsilon = np.asarray(epsilon)
    score = 2.0 ** -np.floor(epsilon / 0.5)
    return float(np.mean(np.where(epsilon >= np.ceil(np.log(max(models - 1, 1))), 0.0, score)))


def jensen_shannon(logits: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Jensen-Shannon divergence of two models' predictions: half KL(p || m) and half KL(q || m) with m = (p + q) / 2.

    Args:
      logits: `[..., C]`.
      other: `[..., C]`.

    Returns:
      `[...]`, nats, 0 to log 2.
    """
    import scipy.special

    p, q = (scipy.special.softmax(np.asarray(x, np.float64), axis=-1) for x in (logits, other))
    m = (p + q) / 2
    return np.sum(scipy.special.rel_entr(p, m) + scipy.special.rel_entr(q, m), axis=-1) / 2


def evidence(unlearned: np.ndarray, oracles: np.ndarray, others: np.ndarray, parts: dict[str, slice]) -> Evidence:
    """Compares a population with retrained models, part by part, beside other retrained models as the null level.

    Args:
      unlearned: margins of unlearned models, `[K, N]`.
      oracles: margins of retrained models, `[M, N]`.
      others: margins of other retrained models, `[K, N]`.
      parts: the examples of each part by its name; `forget` is among them.

    Returns:
      `klom_<part>` and its 95th percentile over the examples, in nats; of the forget set the challenge's
      `epsilon_median` and `forgetting_quality`.

    Raises:
      ValueError: as `klom`.
    """
    found: dict[str, Estimate] = {}
    for name, rows in parts.items():
        distance, null = (klom(margins[:, rows], oracles[:, rows]) for margins in (unlearned, others))
        found[f"klom_{name}"] = mean(distance, null, lowest=0.0, highest=float(-np.log(_EMPTY)))
        found[f"klom_{name}_p95"] = Estimate(float(np.percentile(distance, 95)), null=float(np.percentile(null, 95)))
    epsilon, null = (
        forgetting_epsilon(m[:, parts["forget"]], oracles[:, parts["forget"]]) for m in (unlearned, others)
    )
    found["epsilon_median"] = Estimate(float(np.median(epsilon)), null=float(np.median(null)))
    quality, null_quality = (forgetting_quality(e, len(unlearned)) for e in (epsilon, null))
    found["forgetting_quality"] = Estimate(quality, null=null_quality)
    return Evidence(found, (_OF_THE_METHOD,), {"models": len(unlearned)})
