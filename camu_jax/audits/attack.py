"""The audit of one model: every attack that needs no population of models."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from camu_jax import evaluate
from camu_jax.audits import divergence, estimates, membership, signals
from camu_jax.audits.estimates import Estimate, Evidence
from camu_jax.problem import Predictor, Problem
from camu_jax.types import Examples

_FOLDS = 10  # of the loss attack's cross-validation
_SIGNALS: dict[str, Callable[[jax.Array, jax.Array], jax.Array]] = {
    "loss": signals.loss,
    "entropy": lambda logits, y: signals.entropy(logits),
    "modified_entropy": signals.modified_entropy,
}


class Said(NamedTuple):
    """What one model says of all that the attacks look at: logits.

    Attributes:
      forget: of the forget set, `[F, C]`.
      test: of the test set, `[T, C]`.
      member: of the retained examples that the attacker learns from, `[M, C]`; None where nobody learns.
    """

    forget: np.ndarray
    test: np.ndarray
    member: np.ndarray | None


def audit(
    key: jax.Array,
    predictor: Predictor,
    problem: Problem,
    test: Examples,
    *,
    null: Predictor | None = None,
    classes: Sequence[int] = (),
) -> Evidence:
    """Attacks an unlearned model, to see whether the forget set still looks like training data.

    Every figure is a lower bound on what is left: an attack that fails proves nothing about the next one.

    Args:
      key: a `jax.random` key; consumed.
      predictor: the unlearned model. An ensemble is audited by its mean probabilities: votes have too few levels.
      problem: what was forgotten and retained.
      test: examples that no model was trained on.
      null: a retrained model. Its own figures under the same attacks are the null level, and its predictions what
        `js_forget` compares with. None leaves the null level open.
      classes: the removed classes of class removal: test examples of these alone are compared with the forget set, or
        the attacks would tell classes apart.

    Returns:
      The paper's attack success rate `M` and its balanced figures (see `membership.paper`), areas under the curve of
      three signals, the `loss_attack` of the unlearning challenge, and with `null` the Jensen-Shannon divergence
      `js_forget`, in nats. Intervals are honest for small sets, and a note says where that makes them wide; figures
      that cannot be had are left out, and a note says what they need.

    Raises:
      TypeError, ValueError: as `Problem.validate`.
      ValueError: `test` does not fit the problem, or holds none of the removed classes beyond the examples that the
        attacker learns from; or a model has another number of classes, or outputs that are not finite.
    """
    problem.validate()
    check(problem, test)
    comparable(np.asarray(test.y), classes)
    rows = chosen(key, len(problem.forget), len(problem.retain), test.y)
    said = ask("predictor", predictor, problem, test, rows)
    reference = None if null is None else ask("null", null, problem, test, rows)
    return judge(key, said, problem.forget.y, test.y, rows, null=reference, classes=classes)


def chosen(key: jax.Array, forget: int, retain: int, test_y: Any) -> membership.Rows | None:
    """The rows that the paper's attack learns from; None where the test set is too small for it.

    Args:
      key: as for `audit`.
      forget: size of the forget set.
      retain: size of the retain set.
      test_y: labels of the test set, `[T]`.
    """
    order = _order(np.asarray(test_y))
    if len(order) < membership.LEAST:
        return None
    rows = membership.paper_rows(jax.random.split(key, 3)[0], forget, retain, len(order))
    return rows._replace(nonmember=order[rows.nonmember], unseen=order[rows.unseen])


def _order(test_y: np.ndarray) -> np.ndarray:
    """The order in which attacks take the test examples: as they are, or where they lie class by class, mixed.

    From the first of them an attacker learns what non-members look like; of a sorted set that would be a few classes.
    """
    classes, first, counts = np.unique(test_y, return_index=True, return_counts=True)
    numbers = np.arange(len(test_y))
    if len(classes) < 2 or (np.diff(test_y.astype(np.int64)) < 0).any():
        return numbers
    places = (numbers - np.repeat(first, counts) + 0.5) / np.repeat(counts, counts)  # within the class, from 0 to 1
    return np.argsort(places, kind="stable")


def judge(
    key: jax.Array,
    said: Said,
    forget_y: Any,
    test_y: Any,
    rows: membership.Rows | None,
    *,
    null: Said | None = None,
    classes: Sequence[int] = (),
) -> Evidence:
    """The attacks of `audit` on what models said.

    Args:
      key: as for `audit`.
      said: by the unlearned model, of `ask`.
      forget_y: labels of the forget set, `[F]`.
      test_y: labels of the test set, `[T]`.
      rows: of `chosen`, with the same key.
      null: what a retrained model said.
      classes: as for `audit`.

    Returns:
      As `audit`.
    """
    _, paper_key, loss_key = jax.random.split(key, 3)
    forget_y, test_y = jnp.asarray(forget_y), jnp.asarray(test_y)
    # Of the first test examples the attacker learns what non-members look like; the others stand beside the forget set.
    compared = comparable(np.asarray(test_y), classes)

    def figures(of: Said) -> dict[str, Estimate]:
        found = _paper(paper_key, of, rows, compared) if rows is not None else {}
        return found | _signals(loss_key, of, forget_y, test_y, compared)

    found = figures(said)
    if null is not None:
        for name, level in figures(null).items():  # sets of the same sizes: the same figures
            found[name] = found[name]._replace(null=level.value)
        distance = divergence.jensen_shannon(said.forget, null.forget)
        found["js_forget"] = estimates.mean(distance, lowest=0.0, highest=math.log(2))
    return Evidence(found, _notes(found, len(forget_y), len(compared)))


def comparable(test_y: np.ndarray, classes: Sequence[int] = ()) -> np.ndarray:
    """The test examples that `audit` compares the forget set with; call it before work that is to be audited.

    Args:
      test_y: labels of the test set, `[T]`.
      classes: as for `audit`.

    Returns:
      Row numbers, `[K]`.

    Raises:
      ValueError: there is none.
    """
    first = membership.learned(len(test_y)) if len(test_y) >= membership.LEAST else 0
    compared = _order(test_y)[first:]
    if len(classes):
        compared = compared[np.isin(test_y[compared], list(classes))]
    if not len(compared):
        raise ValueError(
            f"test has no example of the classes {tuple(classes)} among its last {len(test_y) - first}; "
            "allowed: a test set with examples to compare the forget set with"
        )
    return compared


def check(problem: Problem, test: Examples) -> None:
    """Refuses a test set that does not belong to the problem.

    Raises:
      TypeError, ValueError: as `Examples.validate`, or its inputs or its number of classes are others.
    """
    test.validate("test")
    forget = problem.forget
    if test.x.shape[1:] != forget.x.shape[1:] or test.x.dtype != forget.x.dtype:
        raise ValueError(
            f"test images are {test.x.dtype}{test.x.shape[1:]}, forget images {forget.x.dtype}{forget.x.shape[1:]}; "
            "allowed: the same"
        )
    if test.num_classes != forget.num_classes:
        raise ValueError(
            f"test.num_classes is {test.num_classes}, forget.num_classes {forget.num_classes}; allowed: the same"
        )


def ask(name: str, predictor: Predictor, problem: Problem, test: Examples, rows: membership.Rows | None) -> Said:
    """Runs a model on all that the attacks look at.

    Args:
      name: what the caller calls the model; it opens every message.
      predictor: the model. Of an ensemble the mean probabilities count.
      problem: as for `audit`.
      test: as for `audit`.
      rows: of `chosen`.

    Raises:
      ValueError: another number of classes, or outputs that are not finite.
    """
    mean = dataclasses.replace(predictor, aggregate="mean")  # votes have too few levels

    def ask(examples: Examples) -> np.ndarray:
        logits = np.asarray(evaluate.outputs(mean, examples.x).logits)
        if logits.shape[1:] != (examples.num_classes,):
            raise ValueError(
                f"{name} returns logits of shape {logits.shape[1:]} for an image; allowed: {(examples.num_classes,)}, "
                "as num_classes says"
            )
        if not np.isfinite(logits).all():
            raise ValueError(f"{name} returns NaN or infinity; allowed: a model with finite outputs")
        return logits

    member = None if rows is None else ask(problem.retain[jnp.asarray(rows.member)])
    return Said(ask(problem.forget), ask(test), member)


def _paper(key: jax.Array, said: Said, rows: membership.Rows, compared: np.ndarray) -> dict[str, Estimate]:
    assert said.member is not None
    return membership.paper(
        key,
        member=said.member,
        nonmember=said.test[rows.nonmember],
        forget=said.forget,
        unseen=said.test[rows.unseen],
        matched=said.test[compared],
    )


def _signals(
    key: jax.Array, said: Said, forget_y: jax.Array, test_y: jax.Array, compared: np.ndarray
) -> dict[str, Estimate]:
    """Areas under the curve of one number an example, and the loss attack where both sides can be cut in two."""
    found = {}
    for name, signal in _SIGNALS.items():
        inside = np.asarray(signal(jnp.asarray(said.forget), jnp.asarray(forget_y)))
        outside = np.asarray(signal(jnp.asarray(said.test[compared]), jnp.asarray(test_y[compared])))
        found[f"{name}_auc"] = estimates.auc(-inside, -outside)  # members have the smaller loss
        folds = min(_FOLDS, len(inside), len(outside))
        if name == "loss" and folds >= 2:
            found["loss_attack"] = membership.loss_attack(key, inside, outside, folds=folds)
    return found


def _notes(found: dict[str, Estimate], forget: int, compared: int) -> tuple[str, ...]:
    """What is left out, and where the intervals say little."""
    notes = []
    if "M" not in found:
        notes.append(
            "M, balanced_accuracy, auc, tpr_at_1_fpr and forget_as_member are left out: the paper's attack needs "
            f"{membership.LEAST} test examples."
        )
    if "loss_attack" not in found:
        notes.append("loss_attack is left out: it needs 2 forget and 2 test examples.")
    name = "auc" if "auc" in found else "loss_auc"
    low, high = found[name].low, found[name].high
    assert low is not None and high is not None
    wide = f"the intervals are wide (that of {name} by {high - low:.2f}), and little can be said of so few."
    if compared < estimates.SMALL:
        notes.append(f"The test set has {_examples(compared)} to compare with: {wide}")
    if forget < estimates.SMALL:
        notes.append(f"The forget set has {_examples(forget)}: {wide}")
    return tuple(notes)


def _examples(count: int) -> str:
    return f"{count} example{'' if count == 1 else 's'}"
