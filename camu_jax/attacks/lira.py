"""U-LiRA: tells, for each example on its own, a model that forgot it from one that never saw it.

Hayes, Shumailov, Triantafillou, Khalifa and Papernot, "Inexact Unlearning Needs More Careful Evaluations to Avoid a
False Sense of Privacy", SaTML 2025. Many shadow models are trained on random halves of the training set, and unlearn
random parts of their half: each example is forgotten in some, retained in some, and never seen by the others. Two
Gaussians are fitted to its margins, and a model is judged by their likelihood ratio. Nobody judges himself: the models
that share a half, and so an original model, are left out when the Gaussians that judge one of them are fitted.
"""

from typing import NamedTuple

import jax
import numpy as np
import scipy.stats

from camu_jax import _validate
from camu_jax.attacks.rates import CONFIDENCE, Estimate

RETAINED, FORGOTTEN, NEVER = 0, 1, 2
"""What an example was to a model."""


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
    cluster = np.arange(len(state)) if clusters is None else np.unique(clusters, return_inverse=True)[1]
    log_likelihood = []
    for group in (seen, NEVER):
        inside = state == group
        centre = np.where(inside, margins, 0.0).sum(0) / np.maximum(inside.sum(0), 1)
        x = np.where(inside, margins - centre, 0.0)  # centred, so that the sums below lose no digits
        pooled = max((x**2).sum() / max(1, inside.sum() - inside.any(0).sum()), 1e-12)
        sums = np.zeros((3, cluster.max() + 1, state.shape[1]))  # of each cluster: number, sum and sum of squares
        for total, values in zip(sums, (inside.astype(float), x, x**2)):
            np.add.at(total, cluster, values)
        another = sums.shape[1] - 1 - np.argmax(sums[0, ::-1] > 0, axis=0)  # the last cluster with such a model
        stand_in = np.take_along_axis(sums, another[None, None], axis=1)
        count, total, square = sums.sum(1, keepdims=True) - np.where(inside, sums[:, cluster], stand_in)
        mean = total / np.maximum(count, 1)
        spread = np.maximum(square - count * mean**2, 0.0)
        variance = (spread + prior * pooled) / (np.maximum(count - 1, 0) + prior)
        likelihood = -0.5 * ((margins - centre - mean) ** 2 / variance + np.log(variance))
        log_likelihood.append(np.where(count >= 2, likelihood, np.nan))
    judged = (state == seen) | (state == NEVER)
    return np.where(judged, log_likelihood[0] - log_likelihood[1], np.nan)


def audit(
    margins: np.ndarray, state: np.ndarray, *, clusters: np.ndarray | None = None, seen: int = FORGOTTEN
) -> Audit:
    """Judges every pair of model and example.

    Each example has the same voice on both sides. Otherwise examples with more models on one side, where that side's
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
    cluster = np.arange(len(state)) if clusters is None else np.unique(clusters, return_inverse=True)[1]

    def judge(kept: np.ndarray) -> tuple[tuple[float, ...], np.ndarray] | None:
        ratio = scores(margins[kept], state[kept], clusters=cluster[kept], seen=seen)
        return _judge(ratio, state[kept] == seen)

    whole = judge(cluster >= 0)
    if whole is None:
        raise ValueError(f"state has {len(state)} models; allowed: more, with 3 of each kind that share no original")
    without = [judge(cluster != c) for c in range(cluster.max() + 1)]
    left = np.array([figures[0] for figures in without if figures is not None])
    variance = (len(left) - 1) * left.var(axis=0) if len(left) > 1 else np.full(4, np.inf)
    reach = scipy.stats.norm.ppf((1 + CONFIDENCE) / 2) * np.sqrt(variance)
    estimates = [Estimate(v, max(0.0, float(v - r)), min(1.0, float(v + r))) for v, r in zip(whole[0], reach)]
    return Audit(estimates[0], estimates[1], estimates[2], estimates[3], whole[1])


def _judge(ratio: np.ndarray, positive: np.ndarray) -> tuple[tuple[float, ...], np.ndarray] | None:
    """The four figures of an `Audit`, and `by_example`; None where no example is judged on both sides."""
    judged = np.isfinite(ratio)
    seen, never = judged & positive, judged & ~positive
    both = seen.any(0) & never.any(0)
    if not both.any():
        return None
    voice = seen * both / np.maximum(seen.sum(0), 1), never * both / np.maximum(never.sum(0), 1)
    value = np.where(judged, ratio, 0.0)
    hits = [(v * right).sum(0) for v, right in zip(voice, (value > 0, value <= 0))]
    by_example = np.where(both, (hits[0] + hits[1]) / 2, np.nan)

    pairs = (judged & both).nonzero()
    order = np.argsort(value[pairs], kind="stable")
    p, n = (v[pairs][order] / both.sum() for v in voice)
    curve = float((p * (np.cumsum(n) - n / 2)).sum())
    passing = np.cumsum(n[::-1])[::-1]  # false positives of a threshold just below each pair
    rates = [float(p[passing <= rate].sum()) for rate in (0.01, 0.001)]
    return (float(np.nanmean(by_example)), curve, *rates), by_example


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
    cluster = np.arange(len(state)) if clusters is None else np.unique(clusters, return_inverse=True)[1]
    order = np.asarray(jax.random.permutation(key, cluster.max() + 1))
    named = (order % 2 == 0)[cluster][:, None]
    return np.where(state == NEVER, np.where(named, FORGOTTEN, NEVER), RETAINED)
