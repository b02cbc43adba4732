"""What a deletion guarantees, in one of four classes, and in words that promise no more."""

from collections.abc import Mapping, Sequence
from typing import Literal, TypedDict

from camu_jax.deletion.figures import Figures
from camu_jax.methods import Method

Kind = Literal["exact", "certified", "audited", "none"]
"""exact: made without the rows. certified: a bound that is proved. audited: attacks failed. none: none of these."""

ATTACKS = {
    "M": "the paper's attack M",
    "balanced_accuracy": "M's balanced accuracy",
    "auc": "M's AUC",
    "tpr_at_1_fpr": "M's hits at 1% false alarms",
    "forget_as_member": "rows that M takes for members",
    "loss_auc": "AUC of the loss",
    "loss_attack": "the unlearning challenge's loss attack",
    "entropy_auc": "AUC of the entropy",
    "modified_entropy_auc": "AUC of the modified entropy",
    "js_forget": "divergence to the model without them",
}
"""What people call the figures of `camu_jax.audit`."""


class Guarantee(TypedDict):
    """The class of a guarantee, and what it means here."""

    kind: Kind
    words: str


def state(method: Method, info: Mapping[str, float], figures: Figures) -> Guarantee:
    """States what can be said of the result.

    Args:
      method: what made it.
      info: what the method reports; a certified one reports `epsilon` and `delta`.
      figures: what was measured.
    """
    if method.exact:
        return {"kind": "exact", "words": _EXACT.format(method=method.name)}
    if {"epsilon", "delta"} <= set(info):
        return {"kind": "certified", "words": _CERTIFIED.format(method=method.name, **info)}
    outcomes = {name: attack["outcome"] for name, attack in figures["audits"].items()}
    if figures["verdicts"] is not None:
        outcomes["verdicts on single rows"] = figures["verdicts"]["outcome"]
    tried = [name for name, outcome in outcomes.items() if outcome != "open"]
    found = [name for name in tried if outcomes[name] == "found"]
    failed = [name for name in tried if outcomes[name] == "failed"]
    if found:
        return {"kind": "none", "words": _FOUND.format(attacks=_named(found))}
    if failed:
        words = _AUDITED.format(failed=len(failed), tried=len(tried), attacks=_named(failed))
        return {"kind": "audited", "words": words}
    return {"kind": "none", "words": _BLIND.format(tried=len(tried)) if tried else _UNKNOWN}


def _named(attacks: Sequence[str]) -> str:
    return ", ".join(ATTACKS.get(name, name) for name in attacks)


_EXACT = (
    "The result was trained without these rows ({method}): nothing of them is in its parameters. Copies of them in "
    "other rows, and choices made with them in sight, such as settings, are not covered."
)
_CERTIFIED = (
    "What can be told from the result's parameters differs from what a model made without these rows tells by at most "
    "epsilon {epsilon:g}, but with probability delta {delta:g}, as {method} proves under its assumptions. It covers "
    "these rows and this one release, and no copies in other rows."
)
_AUDITED = (
    "{failed} of {tried} attacks could tell these rows in the original model, and none of them can in the result: "
    "{attacks}. That is no proof: another attack may find what is left. The least that each would have noticed is its "
    "power, beside it."
)
_FOUND = "These attacks still tell the rows in the result from rows that it never saw: {attacks}."
_BLIND = (
    "No attack ({tried} tried) tells these rows in the result, but none could in the original model either: their "
    "failing says nothing."
)
_UNKNOWN = "Nothing was measured that could tell what is left: there is no model that never saw the rows."
