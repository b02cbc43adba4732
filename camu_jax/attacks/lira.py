"""U-LiRA: tells, for each example on its own, a model that forgot it from one that never saw it.

Hayes, Shumailov, Triantafillou, Khalifa and Papernot, "Inexact Unlearning Needs More Careful Evaluations to Avoid a
False Sense of Privacy", SaTML 2025. Many shadow models are trained on random halves of the training set, and unlearn
random parts of their half: each example is forgotten in some, retained in some, and never seen by the others. Two
Gaussians are fitted to its margins, and a model is judged by their likelihood ratio. Each model is judged by the
others only: it is left out when the Gaussians that judge it are fitted.
"""

from typing import NamedTuple

import jax
import numpy as np

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


def scores(margins: np.ndarray, state: np.ndarray, *, seen: int = FORGOTTEN, prior: float = 2.0) -> np.ndarray:
    """The log likelihood ratio of every pair of model and example, without the pair itself.

    Args:
      margins: `[K, N]`.
      state: `[K, N]`, RETAINED, FORGOTTEN or NEVER.
      seen: FORGOTTEN asks whether an example was forgotten or never seen, RETAINED whether it was retained.
      prior: how many models the variance over all examples counts for beside an example's own; estimating variances
        is what few models do worst.

    Returns:
      log N(margin; models that saw it) - log N(margin; models that never did), `[K, N]`, float64. nan where the state
      is neither `seen` nor NEVER, or where fewer than two other models are left on either side.
    """
    margins = np.asarray(margins, np.float64)
    _validate.above(0, prior=prior)
    log_likelihood = []
    for group in (seen, NEVER):
        inside = state == group
        x = np.where(inside, margins, 0.0)
        pooled_mean = x.sum(0) / np.maximum(inside.sum(0), 1)
        squares = np.where(inside, (margins - pooled_mean) ** 2, 0.0).sum()
        pooled = max(squares / max(1, inside.sum() - (inside.sum(0) > 0).sum()), 1e-12)
        # Leave one out: a pair of this group is taken out of its own sums. Centred, so that no digits are lost.
        centred = np.where(inside, margins - pooled_mean, 0.0)
        count = inside.sum(0) - inside
        total, square = centred.sum(0) - centred, (centred**2).sum(0) - centred**2
        mean = total / np.maximum(count, 1)
        spread = np.maximum(square - count * mean**2, 0.0)
        variance = (spread + prior * pooled) / (np.maximum(count - 1, 0) + prior)
        ratio = -0.5 * ((margins - pooled_mean - mean) ** 2 / variance + np.log(variance))
        log_likelihood.append(np.where(count >= 2, ratio, np.nan))
    judged = (state == seen) | (state == NEVER)
    return np.where(judged, log_likelihood[0] - log_likelihood[1], np.nan)


def audit(key: jax.Array, margins: np.ndarray, state: np.ndarray, *, seen: int = FORGOTTEN, draws: int = 200) -> Audit:
    """Judges every pair of model and example; the intervals are bootstrapped over the models.

    Args:
      key: a `jax.random` key for the bootstrap; consumed.
      margins: `[K, N]`.
      state: `[K, N]`, RETAINED, FORGOTTEN or NEVER.
      seen: as in `scores`.
      draws: of the bootstrap.

    Returns:
      An `Audit`.

    Raises:
      ValueError: shapes differ, or no pair of one of the two states can be judged (too few models).
    """
    if margins.shape != state.shape or margins.ndim != 2:
        raise ValueError(f"margins is {margins.shape}, state {state.shape}; allowed: both [models, examples]")
    ratio = scores(margins, state, seen=seen)
    judged = np.isfinite(ratio)
    model, example = np.nonzero(judged)
    value, positive = ratio[judged], (state == seen)[judged]
    if positive.all() or not positive.any():
        raise ValueError(f"state has {len(state)} models; allowed: at least 3 that saw an example and 3 that did not")
    order = np.argsort(value, kind="stable")
    value, positive, model, example = value[order], positive[order], model[order], example[order]

    def figures(weight: np.ndarray) -> tuple[float, float, float, float]:
        """Of pairs in ascending order, each counted `weight` times."""
        p, n = weight * positive, weight * ~positive
        above = value > 0
        balanced = ((p * above).sum() / p.sum() + (n * ~above).sum() / n.sum()) / 2
        below = np.cumsum(n) - n / 2  # equal scores are rare; a pair stands half below itself
        curve = float((p * below).sum() / (p.sum() * n.sum()))
        passing = np.cumsum(n[::-1])[::-1]  # false positives of the threshold just below each pair
        rates = [p[passing <= rate * n.sum()].sum() / p.sum() for rate in (0.01, 0.001)]
        return float(balanced), curve, float(rates[0]), float(rates[1])

    whole = figures(np.ones(len(value)))
    drawn = []
    for k in jax.random.split(key, draws):
        models = np.asarray(jax.random.randint(k, (len(state),), 0, len(state)))
        weight = np.bincount(models, minlength=len(state))[model].astype(float)
        if (weight * positive).any() and (weight * ~positive).any():
            drawn.append(figures(weight))
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(np.array(drawn), [tail, 100 - tail], axis=0)
    estimates = [Estimate(v, float(a), float(b)) for v, a, b in zip(whole, low, high)]

    n = state.shape[1]
    by_state = []
    for mine, right in ((positive, value > 0), (~positive, value <= 0)):
        count = np.bincount(example[mine], minlength=n)
        hits = np.bincount(example[mine], weights=right[mine], minlength=n)
        by_state.append(np.where(count > 0, hits / np.maximum(count, 1), np.nan))
    return Audit(estimates[0], estimates[1], estimates[2], estimates[3], np.mean(by_state, axis=0))


def null_state(key: jax.Array, state: np.ndarray) -> np.ndarray:
    """States that give the attack's null level: of each example's NEVER models half are called FORGOTTEN.

    The models behind both names never saw the example, as those of two perfect unlearners. Use it with the same
    margins.

    Args:
      key: a `jax.random` key; consumed.
      state: `[K, N]`.

    Returns:
      `[K, N]`: FORGOTTEN, NEVER, and RETAINED for all pairs that were not NEVER.
    """
    coin = np.asarray(jax.random.bernoulli(key, shape=(len(state), 1)))
    return np.where(state == NEVER, np.where(coin, FORGOTTEN, NEVER), RETAINED)
