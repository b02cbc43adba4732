"""The audit of one model: every attack that needs no population of models."""

import dataclasses
from collections.abc import Callable, Sequence

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
      test: examples that no model was trained on, at least 5.
      null: a retrained model. Its own figures under the same attacks are the null level, and its predictions what
        `js_forget` compares with. None leaves the null level open.
      classes: the removed classes of class removal: test examples of these alone are compared with the forget set, or
        the attacks would tell classes apart.

    Returns:
      The paper's attack success rate `M` and its balanced figures (see `membership.paper`), areas under the curve of
      three signals, the `loss_attack` of the unlearning challenge, and with `null` the Jensen-Shannon divergence
      `js_forget`, in nats. Intervals are honest for small sets, and a note says where that makes them wide; figures
      that cannot be had are left out, and a note says why.

    Raises:
      ValueError: the test set has fewer than 5 examples, or none of the removed classes beyond those that the attacker
        learns from; or a model's outputs are not finite.
      TypeError, ValueError: as `Problem.validate`.
    """
    problem.validate()
    test.validate("test")
    found, notes = _attack(key, "predictor", predictor, problem, test, classes)
    if null is not None:
        reference, _ = _attack(key, "null", null, problem, test, classes)
        for name, estimate in found.items():
            found[name] = estimate._replace(null=reference[name].value)
        logits = [_logits(name, p, problem.forget) for name, p in (("predictor", predictor), ("null", null))]
        found["js_forget"] = estimates.mean(divergence.jensen_shannon(*logits), lowest=0.0)
    if len(problem.forget) < estimates.SMALL:
        low, high = found["auc"].low, found["auc"].high
        assert low is not None and high is not None
        notes.append(
            f"The forget set has {len(problem.forget)} examples: the intervals are wide (that of auc by "
            f"{high - low:.2f}), and little can be said of so few."
        )
    return Evidence(found, tuple(notes))


def _attack(
    key: jax.Array, name: str, predictor: Predictor, problem: Problem, test: Examples, classes: Sequence[int]
) -> tuple[dict[str, Estimate], list[str]]:
    """The figures of one model, and notes on what could not be had."""
    rows_key, paper_key, loss_key = jax.random.split(key, 3)
    forget, retain = problem.forget, problem.retain
    rows = membership.paper_rows(rows_key, len(forget), len(retain), len(test))
    of_test, of_forget = _logits(name, predictor, test), _logits(name, predictor, forget)
    of_members = _logits(name, predictor, retain[jnp.asarray(rows.member)])

    # What the forget set is compared with: test examples that the attacker did not learn from.
    matched = np.arange(len(rows.nonmember), len(test))
    if classes:
        matched = matched[np.isin(np.asarray(test.y)[matched], classes)]
    if not len(matched):
        raise ValueError(
            f"test has no example of the classes {tuple(classes)} among its last {len(test) - len(rows.nonmember)}; "
            "allowed: a test set with examples to compare the forget set with"
        )

    found = membership.paper(
        paper_key,
        member=of_members,
        nonmember=of_test[rows.nonmember],
        forget=of_forget,
        unseen=of_test[rows.unseen],
        matched=of_test[matched],
    )
    notes = []
    unseen = test[jnp.asarray(matched)]
    for signal_name, signal in _SIGNALS.items():
        inside = np.asarray(signal(jnp.asarray(of_forget), jnp.asarray(forget.y)))
        outside = np.asarray(signal(jnp.asarray(of_test[matched]), jnp.asarray(unseen.y)))
        found[f"{signal_name}_auc"] = estimates.auc(-inside, -outside)  # members have the smaller loss
        if signal_name == "loss":
            folds = min(_FOLDS, len(inside), len(outside))
            if folds < 2:
                notes.append("loss_attack is left out: it needs 2 forget and 2 test examples.")
            else:
                found["loss_attack"] = membership.loss_attack(loss_key, inside, outside, folds=folds)
    return found, notes


def _logits(name: str, predictor: Predictor, examples: Examples) -> np.ndarray:
    mean = dataclasses.replace(predictor, aggregate="mean")
    logits = np.asarray(evaluate.outputs(mean, examples.x).logits)
    if not np.isfinite(logits).all():
        raise ValueError(f"{name} returns NaN or infinity; allowed: a model with finite outputs")
    return logits
