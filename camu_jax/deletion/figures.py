"""The figures of a receipt, computed from what the models answered and from nothing else.

An attack has *found* the rows where its figure differs from that of a model that never saw them by more than chance
explains. It has *failed* where it has not found them in the result, but did in the original model; where it did not
find them there either it is *blind*, and its failing says nothing.
"""

import math
import statistics
from typing import Literal, TypedDict

import jax
import jax.numpy as jnp
import numpy as np

from camu_jax.audits import attack, divergence, estimates, signals, verdicts
from camu_jax.audits.estimates import Estimate, Evidence
from camu_jax.audits.verdicts import LEVEL, Unseen
from camu_jax.deletion.record import Answers, Record
from camu_jax.deletion.request import Witnesses

Outcome = Literal["found", "failed", "blind", "open"]
"""What an attack says: see above; `open` without a model that never saw the rows."""
_UNSEEN = 100
"""Test examples at the least, for what stands out to be told from them."""


class Attack(TypedDict):
    """One attack on the result; figures are documented in `camu_jax.audits`.

    Attributes:
      value, low, high: its figure and 95% interval.
      null: of a model that never saw the rows.
      before: of the original model.
      detectable: the smallest difference from the null level that would count as found: its power.
      outcome: what it says.
    """

    value: float | None
    low: float | None
    high: float | None
    null: float | None
    before: float | None
    detectable: float | None
    outcome: Outcome


class RowVerdict(TypedDict):
    """What is known of one row; see `verdicts.Verdicts`."""

    before: float
    after: float
    never: float
    percentile: float
    p_before: float
    p_after: float
    verdict: str


class RowVerdicts(TypedDict):
    """The verdicts on single rows.

    Attributes:
      witnesses: how many models or heads never saw the rows.
      level: how often a row that is gone looks visible.
      gone, visible, never_memorised: how many rows.
      null: the share of the rows that is visible in a witness, judged by the others.
      unseen_before, unseen_after: the share of the test examples that stands out in the original and in the result, by
        the witnesses alone: where they answer as it does, `level`.
      compared: whether rows are judged by how test examples stand out.
      outcome: whether more rows are visible than chance explains, or one of them more clearly, as of an attack.
      rows: one each.
    """

    witnesses: int
    level: float
    gone: int
    visible: int
    never_memorised: int
    null: float
    unseen_before: float
    unseen_after: float
    compared: bool
    outcome: Outcome
    rows: list[RowVerdict]


class Figures(TypedDict):
    """All figures of a receipt.

    Attributes:
      accuracy: in percent, of `before`, `after` and `control` (None where there is none) on `retain`, `forget`, `test`.
      audits: the attacks by name.
      verdicts: on single rows; None without witnesses.
      notes: what the reader has to know, a sentence each.
    """

    accuracy: dict[str, dict[str, float] | None]
    audits: dict[str, Attack]
    verdicts: RowVerdicts | None
    notes: list[str]


def compute(record: Record, audit_key: jax.Array, *, witnesses: Witnesses = "models") -> Figures:
    """Computes every figure; the same record and key give the same ones.

    Args:
      record: what the models answered.
      audit_key: `request.keys.audit`.
      witnesses: what the margins are of.

    Returns:
      `Figures`, JSON.
    """
    models = {"before": record.before, "after": record.after, "control": record.control}
    audits, notes = _attacks(record, audit_key)
    found = None
    if record.margins is not None:
        found, said = _verdicts(record, record.margins, witnesses)
        notes += said
    return {
        "accuracy": {name: None if answers is None else _accuracy(answers) for name, answers in models.items()},
        "audits": audits,
        "verdicts": found,
        "notes": notes,
    }


def _accuracy(answers: Answers) -> dict[str, float]:
    return {part: 100 * float(np.mean(right)) for part, right in answers.right.items()}


# --- attacks ------------------------------------------------------------------------------------------------------


def _attacks(record: Record, key: jax.Array) -> tuple[dict[str, Attack], list[str]]:
    # Where whole classes go, attacks would tell classes apart; where other rows go too, those tell what is left.
    classes = record.classes if np.isin(record.forget_y, record.classes).all() else ()
    try:
        attack.comparable(record.test_y, classes)
    except ValueError as error:
        return {}, [f"There are no attacks: {error}."]
    rows = attack.chosen(key, len(record.forget_y), len(record.after.right["retain"]), record.test_y)

    def judge(answers: Answers) -> Evidence:
        return attack.judge(key, answers.said, record.forget_y, record.test_y, rows, classes=classes)

    after = judge(record.after)
    before = judge(record.before).figures
    null = {} if record.control is None else judge(record.control).figures
    wider = _widening(len(after.figures))
    attacks = {name: _weigh(e, before[name], null.get(name), wider) for name, e in after.figures.items()}
    if record.control is not None:
        attacks["js_forget"] = _difference(record.after, record.before, record.control)
    return attacks, list(after.notes)


def _difference(after: Answers, before: Answers, control: Answers) -> Attack:
    """The Jensen-Shannon divergence to the control on the rows: a distance, which says nothing by itself."""
    of_after, of_before = (divergence.jensen_shannon(m.said.forget, control.said.forget) for m in (after, before))
    distance = estimates.mean(of_after, lowest=0.0, highest=math.log(2))
    return _as_json(distance, None, Estimate(float(np.mean(of_before))), None, "open")


def _widening(attacks: int) -> float:
    """By how much 95% intervals become those that hold for so many attacks at once (Bonferroni)."""
    normal = statistics.NormalDist()
    return normal.inv_cdf(1 - (1 - estimates.CONFIDENCE) / 2 / attacks) / estimates.NORMAL_REACH


def _weigh(after: Estimate, before: Estimate, null: Estimate | None, wider: float) -> Attack:
    """What an attack says, from its figures on the result, on the original, and on a model that never saw the rows."""
    if null is None:
        return _as_json(after, None, before, None, "open")
    limit = wider * _reach(after, null)
    if _distance(after, null) > limit:
        outcome: Outcome = "found"
    else:
        outcome = "failed" if _distance(before, null) > wider * _reach(before, null) else "blind"
    return _as_json(after, null, before, limit, outcome)


def _distance(one: Estimate, other: Estimate) -> float:
    assert one.value is not None and other.value is not None
    return abs(one.value - other.value)


def _reach(one: Estimate, other: Estimate) -> float:
    """How far two figures may differ by chance: their intervals' halves that face each other, joined as errors are."""
    assert None not in (one.value, one.low, one.high, other.value, other.low, other.high)
    lower, upper = sorted((one, other), key=lambda e: e.value or 0.0)
    return float(np.hypot(lower.high - lower.value, upper.value - upper.low))  # type: ignore[operator]


def _as_json(after: Estimate, null: Estimate | None, before: Estimate, limit: float | None, outcome: Outcome) -> Attack:
    return {
        "value": after.value,
        "low": after.low,
        "high": after.high,
        "null": None if null is None else null.value,
        "before": before.value,
        "detectable": limit,
        "outcome": outcome,
    }


# --- verdicts -----------------------------------------------------------------------------------------------------


def _verdicts(record: Record, margins: np.ndarray, witnesses: Witnesses) -> tuple[RowVerdicts, list[str]]:
    count = len(record.forget_y)
    before, after = (_margins(record, answers) for answers in (record.before, record.after))
    # Of a class that is gone the original knows test examples as well: they are not what nobody has seen.
    unseen = count + np.flatnonzero(~np.isin(record.test_y, record.classes))
    others = Unseen(before[unseen], after[unseen], margins[:, unseen])
    compared = len(unseen) >= _UNSEEN
    parts = before[:count], after[:count], margins[:, :count]
    found = verdicts.evidence(*parts, unseen=others if compared else None)
    stands_out = [_standing_out(m, others.never) for m in (others.before, others.after)]
    shares = {name: round(count * (found.figures[name].value or 0)) for name in ("gone", "visible", "never_memorised")}
    null = found.figures["visible"].null
    assert null is not None
    notes = list(found.notes)
    if compared:
        notes.append(
            f"A row stands out where it lies further from the {len(margins)} than {1 - LEVEL:.0%} of "
            f"{len(unseen)} test examples do, which no model saw."
        )
    if max(stands_out) > 3 * LEVEL:
        notes.append(
            f"The {len(margins)} do not answer as the model does: of the test examples {stands_out[0]:.0%} stand out "
            f"in the original and {stands_out[1]:.0%} in the result, {LEVEL:.0%} would be chance. "
            + ("Verdicts allow for that, and notice less." if compared else "Rows may look visible that are gone.")
        )
    if witnesses == "heads":
        notes.append(
            "The verdicts' witnesses are linear heads on the embedding of the original model, which has seen the rows: "
            "what the embedding itself remembers they do not notice."
        )
    return {
        "witnesses": len(margins),
        "level": LEVEL,
        "gone": shares["gone"],
        "visible": shares["visible"],
        "never_memorised": shares["never_memorised"],
        "null": null,
        "unseen_before": stands_out[0],
        "unseen_after": stands_out[1],
        "compared": compared,
        "outcome": _outcome(found.details["rows"]),
        "rows": found.details["rows"],
    }, notes


def _outcome(rows: list[RowVerdict]) -> Outcome:
    """Whether rows stand out by more than chance explains, in the result, or else in the original model."""
    return "found" if _stand_out(rows, "p_after") else "failed" if _stand_out(rows, "p_before") else "blind"


def _stand_out(rows: list[RowVerdict], name: Literal["p_before", "p_after"]) -> bool:
    """Whether too many rows do, or one of them by too much: two tests, each at half the level (Bonferroni)."""
    import scipy.special

    values = [row[name] for row in rows]
    if len(values) == 1:  # both tests are one
        return values[0] < LEVEL
    hits = sum(value < LEVEL for value in values)
    many = float(scipy.special.bdtrc(hits - 1, len(values), LEVEL)) if hits else 1.0
    return 2 * min(many, len(values) * min(values)) <= LEVEL


def _margins(record: Record, answers: Answers) -> np.ndarray:
    """On the rows and on the test set, `[F + T]`."""
    logits = np.concatenate([answers.said.forget, answers.said.test])
    labels = np.concatenate([record.forget_y, record.test_y])
    return np.asarray(signals.margin(jnp.asarray(logits), jnp.asarray(labels)))


def _standing_out(margins: np.ndarray, never: np.ndarray) -> float:
    """The share of examples on which a model does not answer as the witnesses do."""
    return float(np.mean(verdicts.judge(margins, margins, never).p_after < LEVEL))
