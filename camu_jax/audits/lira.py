"""U-LiRA: tells, for each example on its own, a model that forgot it from one that never saw it.

Hayes, Shumailov, Triantafillou, Khalifa and Papernot, "Inexact Unlearning Needs More Careful Evaluations to Avoid a
False Sense of Privacy", SaTML 2025. Many shadow models are trained on random halves of the training set, and unlearn
random parts of their half: each example is forgotten in some, retained in some, and never seen by the others. Two
Gaussians are fitted to its margins, and a model is judged by their likelihood ratio. No model is judged by Gaussians
that it took part in: the models that share its half, and so its original model, are left out of the fit.

A worked example, one example and eight models in eight clusters: four that forgot it have margins 2, 3, 3, 4, and four
that never saw it -1, 0, 0, 1. The first model, margin 2, is judged by the other three that forgot it (mean 10/3) and by
three that never saw it (the last is left out in its place: mean -1/3): 2 is nearer to 10/3, the ratio is positive, and
the model is rightly said to have forgotten it.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import numpy as np

from camu_jax import _validate
from camu_jax.audits.estimates import NORMAL_REACH, Estimate, Evidence

RETAINED, FORGOTTEN, NEVER = 0, 1, 2
"""What an example was to a model."""
_OF_THE_METHOD = "U-LiRA judges the method, by shadow models on halves of the training set; it looks at no other."


@dataclasses.dataclass(frozen=True)
class Shadows:
    """How U-LiRA's shadow models are dealt; K models, N training examples.

    Attributes:
      halves: row numbers of each half, `[halves, N // 2]`, ascending.
      forget: row numbers that each model forgets, `[K, count]`.
      retain: row numbers of the rest of its half, `[K, N // 2 - count]`.
      state: what each example is to each model, `[K, N]`: RETAINED, FORGOTTEN or NEVER.
      clusters: the half of each model, `[K]`.
    """

    halves: np.ndarray
    forget: np.ndarray
    retain: np.ndarray
    state: np.ndarray
    clusters: np.ndarray


def deal(key: jax.Array, examples: int, halves: int, share: float) -> Shadows:
    """Draws random halves of a training set and cuts each into forget sets, with a shadow model for each of them.

    So every example is forgotten once by each half that holds it, but for what is left over where the forget sets do
    not fill the half. Of 8 examples, two halves and a share of 1/4 give eight models: half 0 holds four rows, each of
    its four models forgets another one of them and retains the other three, and none ever saw the rest.

    Args:
      key: a `jax.random` key; consumed.
      examples: N.
      halves: how many.
      share: of a half that a model forgets, in (0, 1).

    Returns:
      The deal.

    Raises:
      ValueError: `halves` is not positive, or a half has no example left to forget or to retain.
    """
    _validate.at_least(1, halves=halves)
    size = examples // 2
    count = max(1, round(share * size))
    _validate.between(1, size - 1, **{"examples that a shadow model forgets": count})
    drawn, forget, retain, states, clusters = [], [], [], [], []
    for number, half_key in enumerate(jax.random.split(key, halves)):
        half = np.asarray(jax.random.permutation(half_key, examples))[:size]
        drawn.append(np.sort(half))
        for start in range(0, size - count + 1, count):
            order = np.roll(half, -start)
            state = np.full(examples, NEVER)
            state[half] = RETAINED
            state[order[:count]] = FORGOTTEN
            forget.append(order[:count])
            retain.append(order[count:])
            states.append(state)
            clusters.append(number)
    return Shadows(np.stack(drawn), np.stack(forget), np.stack(retain), np.stack(states), np.array(clusters))


class Audit(NamedTuple):
    """What `audit` returns.

    Attributes:
      balanced_accuracy: of the sign of the likelihood ratio; chance is 1/2.
      auc: area under the curve of all pairs of model and example.
      tpr_at_1_fpr, tpr_at_01_fpr: true positive rates at false positive rates of 1% and 0.1%.
      by_example: balanced accuracy of each example over its models, `[N]`; nan where it could not be judged.
    """

    balanced_accuracy: Estimate
    auc: Estimate
    tpr_at_1_fpr: Estimate
    tpr_at_01_fpr: Estimate
    by_example: np.ndarray


def scores(
    margins: np.ndarray,
    state: np.ndarray,
    *,
    clusters: np.ndarray | None = None,
    seen: int = FORGOTTEN,
    prior: float = 2.0,
) -> np.ndarray:
    """The log likelihood ratio of every pair of model and example, judged by the models of other clusters.

    A cluster is left out on both sides, the model's own and one of the other side, so that both Gaussians come from
    equally many models whatever the model was, and the ratio of two equal populations has no sign.

    Args:
      margins: `[K, N]`.
      state: `[K, N]`, RETAINED, FORGOTTEN or NEVER.
      clusters: models with the same number share an original model, `[K]`; None: none do.
      seen: FORGOTTEN asks whether an example was forgotten or never seen, RETAINED whether it was retained.
      prior: how many models the variance over all examples counts for beside an example's own; estimating variances
        is what few models do worst.

    Returns:
      log N(margin; models that saw it) - log N(margin; models that never did), `[K, N]`, float64. nan where the state
      is neither `seen` nor NEVER, or where fewer than two models are left on either side.
    """
    margins = np.asarray(margins, np.float64)
    _validate.above(0, prior=prior)
    cluster = _numbered(clusters, len(state))
    likelihood = {side: _log_likelihood(margins, state == side, cluster, prior) for side in (seen, NEVER)}
    judged = (state == seen) | (state == NEVER)
    return np.where(judged, likelihood[seen] - likelihood[NEVER], np.nan)


def _numbered(clusters: np.ndarray | None, models: int) -> np.ndarray:
    """The cluster of each model, `[K]`, as numbers from 0 without gaps."""
    return np.arange(models) if clusters is None else np.unique(clusters, return_inverse=True)[1]


def _log_likelihood(margins: np.ndarray, inside: np.ndarray, cluster: np.ndarray, prior: float) -> np.ndarray:
    """Of every pair of model and example under the Gaussian of the models `inside`, each judged without its cluster."""
    # Centred by the mean of all models, so that the sums of squares below lose no digits.
    center = np.where(inside, margins, 0.0).sum(0) / np.maximum(inside.sum(0), 1)
    x = np.where(inside, margins - center, 0.0)
    degrees = max(1, inside.sum() - inside.any(0).sum())
    pooled = max((x**2).sum() / degrees, 1e-12)  # the variance within examples, over all of them

    # Number, sum and sum of squares of each cluster: a Gaussian without a cluster is a difference of such sums.
    sums = np.zeros((3, cluster.max() + 1, margins.shape[1]))
    for total, values in zip(sums, (inside.astype(float), x, x**2)):
        np.add.at(total, cluster, values)

    # A model that is not inside has no sums of its own cluster to leave out: the last cluster stands in for it.
    last = sums.shape[1] - 1 - np.argmax(sums[0, ::-1] > 0, axis=0)
    stand_in = np.take_along_axis(sums, last[None, None], axis=1)
    left_out = np.where(inside, sums[:, cluster], stand_in)
    count, total, square = sums.sum(1, keepdims=True) - left_out

    mean = total / np.maximum(count, 1)
    spread = np.maximum(square - count * mean**2, 0.0)
    variance = (spread + prior * pooled) / (np.maximum(count - 1, 0) + prior)
    result = -0.5 * ((margins - center - mean) ** 2 / variance + np.log(variance))
    return np.where(count >= 2, result, np.nan)


def audit(
    margins: np.ndarray, state: np.ndarray, *, clusters: np.ndarray | None = None, seen: int = FORGOTTEN
) -> Audit:
    """Judges every pair of model and example.

    Each example has the same weight on both sides. Otherwise examples with more models on one side, where that side's
    Gaussian is the better fitted one, would give two equal populations a sign.

    Args:
      margins: `[K, N]`.
      state: `[K, N]`, RETAINED, FORGOTTEN or NEVER.
      clusters: as in `scores`.
      seen: as in `scores`.

    Returns:
      An `Audit`; the intervals are the jackknife's over the clusters, with all Gaussians fitted anew.

    Raises:
      ValueError: shapes differ, or no example can be judged on both sides (too few models).
    """
    if margins.shape != state.shape or margins.ndim != 2:
        raise ValueError(f"margins is {margins.shape}, state {state.shape}; allowed: both [models, examples]")
    cluster = _numbered(clusters, len(state))

    def judge(kept: np.ndarray) -> tuple[tuple[float, ...], np.ndarray] | None:
        ratio = scores(margins[kept], state[kept], clusters=cluster[kept], seen=seen)
        return _judge(ratio, state[kept] == seen)

    whole = judge(np.ones(len(state), bool))
    if whole is None:
        raise ValueError(f"state has {len(state)} models; allowed: more, with 3 of each kind that share no original")
    figures, by_example = whole

    left = []  # the figures without each cluster in turn
    for c in range(cluster.max() + 1):
        found = judge(cluster != c)
        if found is not None:
            left.append(found[0])
    spread = (len(left) - 1) * np.var(left, axis=0) if len(left) > 1 else np.full(4, np.inf)
    reach = NORMAL_REACH * np.sqrt(spread)
    estimates = []
    for value, r in zip(figures, reach):
        estimates.append(Estimate(value, max(0.0, float(value - r)), min(1.0, float(value + r))))
    return Audit(estimates[0], estimates[1], estimates[2], estimates[3], by_example)


def _judge(ratio: np.ndarray, positive: np.ndarray) -> tuple[tuple[float, ...], np.ndarray] | None:
    """The four figures of an `Audit`, and `by_example`; None where no example is judged on both sides."""
    judged = np.isfinite(ratio)
    seen, never = judged & positive, judged & ~positive
    both = seen.any(0) & never.any(0)
    if not both.any():
        return None
    # An example's models share its weight of 1, on either side.
    weight_seen = seen * both / np.maximum(seen.sum(0), 1)
    weight_never = never * both / np.maximum(never.sum(0), 1)
    value = np.where(judged, ratio, 0.0)
    true_positive, true_negative = (weight_seen * (value > 0)).sum(0), (weight_never * (value <= 0)).sum(0)
    by_example = np.where(both, (true_positive + true_negative) / 2, np.nan)

    # All ratios, rising: a threshold between two of them has the pairs above it as positives. Ties stand together.
    pairs = (judged & both).nonzero()
    _, level = np.unique(value[pairs], return_inverse=True)
    p, n = (np.bincount(level, weight[pairs]) / both.sum() for weight in (weight_seen, weight_never))
    curve = float((p * (np.cumsum(n) - n / 2)).sum())
    false_positives = np.cumsum(n[::-1])[::-1]  # of a threshold just below each ratio
    rates = [float(p[false_positives <= rate].sum()) for rate in (0.01, 0.001)]
    return (float(np.nanmean(by_example)), *(min(1.0, figure) for figure in (curve, *rates))), by_example


def by_example_histogram(by_example: np.ndarray, *, bins: int = 10) -> np.ndarray:
    """Counts examples by their balanced accuracy: those that are remembered stand out where the mean is at chance.

    Args:
      by_example: of each example, `[N]`, as `Audit` has it; nan is left out.
      bins: of equal width from 0 to 1.

    Returns:
      `[bins]`, integer.
    """
    judged = by_example[np.isfinite(by_example)]
    return np.histogram(judged, bins=bins, range=(0, 1))[0]


def null_state(key: jax.Array, state: np.ndarray, clusters: np.ndarray | None = None) -> np.ndarray:
    """States that give the attack's null level: half of the NEVER models, cluster by cluster, are called FORGOTTEN.

    The models behind both names never saw the example, as those of two perfect unlearners. Use it with the same
    margins.

    Args:
      key: a `jax.random` key; consumed.
      state: `[K, N]`.
      clusters: as in `scores`.

    Returns:
      `[K, N]`: FORGOTTEN, NEVER, and RETAINED for all pairs that were not NEVER.
    """
    cluster = _numbered(clusters, len(state))
    order = np.asarray(jax.random.permutation(key, cluster.max() + 1))
    named = (order % 2 == 0)[cluster][:, None]
    return np.where(state == NEVER, np.where(named, FORGOTTEN, NEVER), RETAINED)


def evidence(key: jax.Array, margins: np.ndarray, state: np.ndarray, *, clusters: np.ndarray | None = None) -> Evidence:
    """The whole audit: forgotten against never seen, retained against never seen, each with its null level.

    Args:
      key: a `jax.random` key for the null level; consumed.
      margins: `[K, N]`.
      state: `[K, N]`.
      clusters: as in `scores`.

    Returns:
      The figures of `Audit` by name, those of retained examples with the prefix `retained_`; its details count the
      examples by their balanced accuracy, in ten bins from 0 to 1. They are of the method that made the shadow models,
      as a note says.

    Raises:
      ValueError: as `audit`.
    """
    null = audit(margins, null_state(key, state, clusters), clusters=clusters)
    found: dict[str, Estimate] = {}
    details: dict[str, Any] = {"models": len(state)}
    for prefix, seen in (("", FORGOTTEN), ("retained_", RETAINED)):
        judged = audit(margins, state, clusters=clusters, seen=seen)
        for name in ("balanced_accuracy", "auc", "tpr_at_1_fpr", "tpr_at_01_fpr"):
            found[prefix + name] = getattr(judged, name)._replace(null=getattr(null, name).value)
        details[f"{prefix}by_example_histogram"] = by_example_histogram(judged.by_example).tolist()
    return Evidence(found, (_OF_THE_METHOD,), details)
