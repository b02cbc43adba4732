"""What a model still knows of each forgotten example: gone, visible, or never memorised.

The margins of models that never saw an example say what a model that forgot it should answer. An example is judged by
where its own margin lies among theirs, before and after unlearning: the idea of Carlini et al.'s online attack (IEEE
S&P 2022) and of U-LiRA, with Student's predictive distribution in the place of the fitted Gaussian, as K is small.

A worked example: four models that never saw an image give it margins -1, 0, 0 and 1, the original model 6, the
unlearned one 0.5. The original's margin is far above theirs, the image was memorised; the unlearned model's lies among
them: gone.
"""

import enum
from typing import Any, NamedTuple

import numpy as np

from camu_jax import _validate
from camu_jax.audits.estimates import SMALL, Evidence, proportion

LEVEL = 0.05
"""How often a model that never saw an example is said to know it, or to avoid it."""
_PRIOR = 2.0  # of few examples: degrees of freedom that their common variance counts for
_MOST = 1e4  # more are as good as endlessly many
_LEAST = 1e-12  # of a variance


class Verdict(enum.StrEnum):
    """What can be said of one example."""

    GONE = "gone"
    """The original model had memorised it, and the unlearned one answers as models that never saw it."""
    VISIBLE = "visible"
    """The unlearned model's answer is not that of a model that never saw it: surer, or too unsure."""
    NEVER_MEMORISED = "was never memorised"
    """Already the original model answered as those that never saw it: deletion changed nothing that can be measured."""


class Verdicts(NamedTuple):
    """What is known of N examples.

    Attributes:
      before: margins of the original model, `[N]`.
      after: margins of the unlearned model, `[N]`.
      never: mean margins of the models that never saw the examples, `[N]`.
      percentile: the share of these models with a lower margin than `after`, ties half, 0 to 100, `[N]`.
      p_before: how often a model that never saw the example would have so large a margin as `before`, `[N]`.
      p_after: how often such a model would have a margin as far out on either side as `after`, `[N]`.
      verdict: of each example, a list of N.
    """

    before: np.ndarray
    after: np.ndarray
    never: np.ndarray
    percentile: np.ndarray
    p_before: np.ndarray
    p_after: np.ndarray
    verdict: list[Verdict]


def judge(before: np.ndarray, after: np.ndarray, never: np.ndarray, *, level: float = LEVEL) -> Verdicts:
    """Judges each forgotten example on its own.

    Args:
      before: margins of the original model, `[N]`; see `population.margins_of`.
      after: margins of the unlearned model, `[N]`.
      never: margins of K models that never saw the examples, `[K, N]`, K at least 3. They must be trained as the
        original model was, on the retain set.
      level: the significance level of each example's tests, in (0, 1/2). Of N examples that are gone, `level * N` are
        expected to look visible.

    Returns:
      `Verdicts`.

    Raises:
      ValueError: shapes differ, fewer than three models, a margin is not finite, or `level` is outside.
    """
    before, after, never = (np.asarray(a, np.float64) for a in (before, after, never))
    if never.ndim != 2 or before.shape != never.shape[1:] or after.shape != before.shape:
        shapes = f"before is {before.shape}, after {after.shape}, never {never.shape}"
        raise ValueError(f"{shapes}; allowed: [N], [N] and [K, N]")
    _validate.at_least(3, **{"models in never": len(never)})
    _validate.at_least(1, **{"examples in never": never.shape[1]})
    if not 0 < level < 0.5:
        raise ValueError(f"level is {level}; allowed: between 0 and 0.5")
    for name, values in (("before", before), ("after", after), ("never", never)):
        if not np.all(np.isfinite(values)):
            raise ValueError(f"{name} holds a margin that is not finite; allowed: finite numbers")
    above_before = _share_above(before, never)
    above_after = _share_above(after, never)
    p_after = 2 * np.minimum(above_after, 1 - above_after)
    memorised, stands_out = above_before < level, p_after < level
    verdict = []
    for known, visible in zip(memorised, stands_out, strict=True):
        verdict.append(Verdict.VISIBLE if visible else Verdict.GONE if known else Verdict.NEVER_MEMORISED)
    lower = 100 * ((never < after).mean(0) + (never == after).mean(0) / 2)
    return Verdicts(before, after, never.mean(0), lower, above_before, p_after, verdict)


def _share_above(margins: np.ndarray, never: np.ndarray) -> np.ndarray:
    """The predicted share of models that never saw each example with a margin above a given one, `[N]`.

    Student's predictive distribution with Smyth's moderated variance (Statistical Applications in Genetics and
    Molecular Biology 2004): as few models estimate variances badly, each is drawn towards that of all examples, by as
    much as the variances are alike.
    """
    import scipy.special

    count, own = len(never), len(never) - 1
    variance = never.var(0, ddof=1)
    prior, common = _prior(variance, own)
    if np.isinf(prior):
        moderated, degrees = np.full_like(variance, common), np.inf
    else:
        moderated, degrees = (own * variance + prior * common) / (own + prior), own + prior
    t = (margins - never.mean(0)) / np.sqrt(moderated * (1 + 1 / count))
    return np.asarray(scipy.special.ndtr(-t) if np.isinf(degrees) else scipy.special.stdtr(degrees, -t))


def _prior(variance: np.ndarray, degrees: int) -> tuple[float, float]:
    """Degrees of freedom that the variance of all examples counts for, and that variance, from variances `[N]`."""
    import scipy.optimize
    import scipy.special

    floor = max(1e-6 * float(variance.mean()), _LEAST)
    if len(variance) < SMALL:  # how alike they are cannot be told
        return _PRIOR, max(float(variance.mean()), _LEAST)
    half = degrees / 2
    logs = np.log(np.maximum(variance, floor)) - scipy.special.digamma(half) + np.log(half)
    excess = float(logs.var(ddof=1) - scipy.special.polygamma(1, half))  # what the variances themselves vary by
    if excess <= scipy.special.polygamma(1, _MOST / 2):
        return np.inf, float(np.exp(logs.mean()))
    d = 2 * scipy.optimize.brentq(lambda x: float(scipy.special.polygamma(1, x)) - excess, 1e-3, _MOST)
    return d, float(np.exp(logs.mean() + scipy.special.digamma(d / 2) - np.log(d / 2)))


def evidence(before: np.ndarray, after: np.ndarray, never: np.ndarray, *, level: float = LEVEL) -> Evidence:
    """How many examples are gone, visible, and were never memorised, with the null level of `visible`.

    The null level judges each model that never saw the examples by the others, as if it were the unlearned one.

    Args:
      before: as in `judge`.
      after: as in `judge`.
      never: as in `judge`, of at least four models.
      level: as in `judge`.

    Returns:
      The shares `gone`, `visible` and `never_memorised`, the shares that stand out above (`surer`) and below (`too
      unsure`) what models without them answer, and one record an example in the details.

    Raises:
      ValueError: as `judge`, or fewer than four models.
    """
    _validate.at_least(4, **{"models in never": len(never)})
    found = judge(before, after, never, level=level)
    count = len(found.verdict)
    others = [judge(before, never[k], np.delete(never, k, 0), level=level).p_after < level for k in range(len(never))]
    shares = {v: proportion(found.verdict.count(v), count) for v in Verdict}
    stands_out, surer = found.p_after < level, found.after > found.never
    figures = {
        "gone": shares[Verdict.GONE],
        "visible": shares[Verdict.VISIBLE]._replace(null=float(np.mean(others))),
        "never_memorised": shares[Verdict.NEVER_MEMORISED],
        "surer": proportion(int((stands_out & surer).sum()), count),
        "too_unsure": proportion(int((stands_out & ~surer).sum()), count),
    }
    note = (
        f"Each example is judged by {len(never)} models that never saw it, at a level of {level:g}: of {count} "
        f"examples that are gone, about {level * count:.3g} look visible."
    )
    return Evidence(figures, (note,), {"rows": records(found)})


def records(found: Verdicts) -> list[dict[str, Any]]:
    """One JSON record an example, in the order of the rows that were judged."""
    columns = found._asdict()
    verdict = columns.pop("verdict")
    rows = []
    for i, word in enumerate(verdict):
        rows.append({name: float(values[i]) for name, values in columns.items()} | {"verdict": str(word)})
    return rows
