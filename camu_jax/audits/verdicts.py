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


class Unseen(NamedTuple):
    """Margins on U examples that no model was trained on, such as a test set.

    Attributes:
      before: of the original model, `[U]`.
      after: of the unlearned model, `[U]`.
      never: of the K models that never saw the forgotten examples, `[K, U]`.
    """

    before: np.ndarray
    after: np.ndarray
    never: np.ndarray


def judge(
    before: np.ndarray, after: np.ndarray, never: np.ndarray, *, unseen: Unseen | None = None, level: float = LEVEL
) -> Verdicts:
    """Judges each forgotten example on its own.

    Where the K models were not trained quite as the original was, or unlearning has changed the model everywhere, both
    stand out on whatever example. `unseen` takes that into account: an example then stands out where it lies further
    from the K models than all but a share `level` of the unseen ones do. These must be like the forgotten ones.

    Args:
      before: margins of the original model, `[N]`; see `population.margins_of`.
      after: margins of the unlearned model, `[N]`.
      never: margins of K models that never saw the examples, `[K, N]`, K at least 3. They must be trained as the
        original model was, on the retain set.
      unseen: margins of the same models on examples that none of them saw, 2 / `level` or more; None takes the K models
        as they are.
      level: the significance level of each example's tests, in (0, 1/2). Of N examples that are gone, `level * N` are
        expected to look visible.

    Returns:
      `Verdicts`.

    Raises:
      ValueError: shapes differ, fewer than three models or too few unseen examples, a margin is not finite, or `level`
        is outside.
    """
    if not 0 < level < 0.5:
        raise ValueError(f"level is {level}; allowed: between 0 and 0.5")
    before, after, never = _checked("", before, after, never)
    above_before, _ = _tails(before, never)
    above_after, below_after = _tails(after, never)
    if unseen is not None:
        of_before, of_after, of_never = _checked("unseen.", *unseen)
        if len(of_never) != len(never):
            raise ValueError(f"unseen.never holds {len(of_never)} models; allowed: {len(never)}, those of never")
        _validate.at_least(2 / level, **{"examples in unseen": len(of_before)})
        above_before = _rank(above_before, _tails(of_before, of_never)[0])
        unseen_above, unseen_below = _tails(of_after, of_never)
        above_after, below_after = _rank(above_after, unseen_above), _rank(below_after, unseen_below)
    p_after = np.minimum(1, 2 * np.minimum(above_after, below_after))
    memorised, stands_out = above_before < level, p_after < level
    verdict = []
    for known, visible in zip(memorised, stands_out, strict=True):
        verdict.append(Verdict.VISIBLE if visible else Verdict.GONE if known else Verdict.NEVER_MEMORISED)
    lower = 100 * ((never < after).mean(0) + (never == after).mean(0) / 2)
    return Verdicts(before, after, never.mean(0), lower, above_before, p_after, verdict)


def _checked(
    name: str, before: np.ndarray, after: np.ndarray, never: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The margins in double precision; `name` opens the messages."""
    before, after, never = (np.asarray(a, np.float64) for a in (before, after, never))
    if never.ndim != 2 or before.shape != never.shape[1:] or after.shape != before.shape:
        shapes = f"{name}before is {before.shape}, {name}after {after.shape}, {name}never {never.shape}"
        raise ValueError(f"{shapes}; allowed: [N], [N] and [K, N]")
    _validate.at_least(3, **{f"models in {name}never": len(never)})
    _validate.at_least(1, **{f"examples in {name}never": never.shape[1]})
    for part, values in (("before", before), ("after", after), ("never", never)):
        if not np.all(np.isfinite(values)):
            raise ValueError(f"{name}{part} holds a margin that is not finite; allowed: finite numbers")
    return before, after, never


def _rank(p: np.ndarray, of_unseen: np.ndarray) -> np.ndarray:
    """How often an example that nobody saw has so small a value, itself counted as one more, `[N]`."""
    return (1 + np.searchsorted(np.sort(of_unseen), p, side="right")) / (1 + len(of_unseen))


def _tails(margins: np.ndarray, never: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The predicted shares of models that never saw each example with a margin above, and below, a given one, `[N]`.

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
    above, below = (
        scipy.special.ndtr(x) if np.isinf(degrees) else scipy.special.stdtr(degrees, x) for x in (-t, t)
    )  # either on its own: 1 less the other has no digits far out
    return np.asarray(above), np.asarray(below)


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


def evidence(
    before: np.ndarray, after: np.ndarray, never: np.ndarray, *, unseen: Unseen | None = None, level: float = LEVEL
) -> Evidence:
    """How many examples are gone, visible, and were never memorised, with the null level of `visible`.

    The null level judges each model that never saw the examples by the others, as if it were the unlearned one.

    Args:
      before: as in `judge`.
      after: as in `judge`.
      never: as in `judge`, of at least four models.
      unseen: as in `judge`.
      level: as in `judge`.

    Returns:
      The shares `gone`, `visible` and `never_memorised`, the shares that stand out above (`surer`) and below (`too
      unsure`) what models without them answer, and one record an example in the details.

    Raises:
      ValueError: as `judge`, or fewer than four models.
    """
    _validate.at_least(4, **{"models in never": len(never)})
    found = judge(before, after, never, unseen=unseen, level=level)
    count = len(found.verdict)

    def stands_in(k: int) -> np.ndarray:
        """Which examples are visible in model k, judged by the others."""
        others = None if unseen is None else Unseen(unseen.before, unseen.never[k], np.delete(unseen.never, k, 0))
        return judge(before, never[k], np.delete(never, k, 0), unseen=others, level=level).p_after < level

    others = [stands_in(k) for k in range(len(never))]
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
