"""Audits of a cell: which figures, with their intervals and null levels, go into its result."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import camu_jax
from camu_jax import _validate, evaluate
from camu_jax.attacks import Estimate, divergence, lira, membership, relearning, signals
from experiments import population
from experiments.cells import Cell
from experiments.config import AuditSettings, UsageError
from experiments.session import provide_original

Audited = dict[str, Any]
"""Figures by name: a number, or a dict of `value`, `low`, `high` and, where it is known, `null`."""


def paper(cell: Cell, predictor: camu_jax.Predictor, s: AuditSettings) -> Audited:
    """The paper's attack, the challenge's loss attack, and thresholds on four signals; the null level is Retrain's."""
    del s
    forget, retain = cell.split()
    key = jax.random.fold_in(cell.keys[2], 1)
    return attack(key, predictor, forget, retain, cell.session.test, cell.session.task.classes)


def attack(
    key: jax.Array,
    predictor: camu_jax.Predictor,
    forget: camu_jax.Examples,
    retain: camu_jax.Examples,
    test: camu_jax.Examples,
    classes: Sequence[int] = (),
) -> Audited:
    """What `paper` finds of a predictor, whatever it comes from.

    Raises:
      UsageError: too few test examples to compare with.
    """
    rows_key, paper_key, loss_key = jax.random.split(key, 3)
    rows = membership.paper_rows(rows_key, len(forget), len(retain), len(test))
    of_test = evaluate.outputs(predictor, test.x).logits
    of_forget = evaluate.outputs(predictor, forget.x).logits
    matched = np.arange(len(rows.nonmember), len(test))
    if classes:
        matched = matched[np.isin(np.asarray(test.y)[matched], classes)]
    if len(matched) < 10:
        raise UsageError(f"audit: the test set has {len(matched)} examples to compare with; allowed: 10 or more")
    result: Audited = {}
    figures = membership.paper(
        paper_key,
        member=np.asarray(evaluate.outputs(predictor, retain.x[jnp.asarray(rows.member)]).logits),
        nonmember=np.asarray(of_test[rows.nonmember]),
        forget=np.asarray(of_forget),
        unseen=np.asarray(of_test[rows.unseen]),
        matched=np.asarray(of_test[matched]),
    )
    for name, estimate in figures.items():
        result[name] = _figure(estimate)
    unseen_y = test.y[matched]
    ways: dict[str, Callable[[jax.Array, jax.Array], jax.Array]] = {
        "loss": signals.loss,
        "entropy": lambda logits, y: signals.entropy(logits),
        "modified_entropy": signals.modified_entropy,
    }
    for name, signal in ways.items():
        a, b = np.asarray(signal(of_forget, forget.y)), np.asarray(signal(of_test[matched], unseen_y))
        result[f"{name}_auc"] = _figure(camu_jax.attacks.rates.auc(-a, -b))  # members have the smaller loss
        if name == "loss":
            result["loss_attack"] = _figure(membership.loss_attack(loss_key, a, b))
    return result


def klom(cell: Cell, predictor: camu_jax.Predictor, s: AuditSettings) -> Audited:
    """Populations: KLoM, the challenge's epsilon and forgetting quality; this model: JS to Retrain, relearn time.

    The null level compares retrained models with other retrained models.
    """
    forget, retain = cell.split()
    truth = population.oracles(cell, 2 * s.models)
    truth, others = truth[: s.models], truth[s.models :]
    ours = others if cell.method == "retrain" else population.unlearned(cell, s.models)
    result: Audited = {"models": s.models}
    parts = {
        "forget": slice(0, len(forget)),
        "retain": slice(len(forget), len(forget) + len(retain)),
        "test": slice(len(forget) + len(retain), None),
    }
    for name, part in parts.items():
        distance, null = (divergence.klom(a[:, part], truth[:, part]) for a in (ours, others))
        result[f"klom_{name}"] = _mean(distance, null)
        result[f"klom_{name}_p95"] = {
            "value": float(np.percentile(distance, 95)),
            "null": float(np.percentile(null, 95)),
        }
    part = parts["forget"]
    epsilon, null = (divergence.forgetting_epsilon(a[:, part], truth[:, part]) for a in (ours, others))
    result["epsilon_median"] = {"value": float(np.median(epsilon)), "null": float(np.median(null))}
    quality = [divergence.forgetting_quality(e, s.models) for e in (epsilon, null)]
    result["forgetting_quality"] = {"value": quality[0], "null": quality[1]}

    original = provide_original(cell.session)
    retrained = dataclasses.replace(cell, method="retrain").predictor(original)
    logits, reference = (np.asarray(evaluate.outputs(p, forget.x).logits) for p in (predictor, retrained))
    result["js_forget"] = _mean(divergence.jensen_shannon(logits, reference))
    known = evaluate.outputs(
        camu_jax.Predictor((original,), cell.session.model, cell.session.config.pipeline), forget.x
    )
    target = 0.95 * evaluate.accuracy(known.logits, forget.y)
    settings = dataclasses.replace(cell.session.config.original, epochs=s.relearn_epochs)
    steps = [
        relearning.relearn_steps(jax.random.fold_in(cell.keys[2], 2), p, forget, target, settings)
        for p in (predictor, retrained)
    ]
    result["relearn_steps"] = {"value": steps[0], "null": steps[1]}  # None: not within relearn_epochs
    return result


def u_lira(cell: Cell, predictor: camu_jax.Predictor, s: AuditSettings) -> Audited:
    """U-LiRA on shadow models of the same method and settings; the null level compares models that never saw F."""
    del predictor
    margins, state, clusters = population.shadows(cell, s.halves)
    result: Audited = {"models": len(state)}
    null = lira.audit(margins, lira.null_state(jax.random.key(1), state, clusters), clusters=clusters)
    for prefix, seen in (("", lira.FORGOTTEN), ("retained_", lira.RETAINED)):
        found = lira.audit(margins, state, clusters=clusters, seen=seen)
        for name in ("balanced_accuracy", "auc", "tpr_at_1_fpr", "tpr_at_01_fpr"):
            result[prefix + name] = {**_figure(getattr(found, name)), "null": getattr(null, name).value}
        judged = found.by_example[np.isfinite(found.by_example)]
        counts, _ = np.histogram(judged, bins=10, range=(0, 1))
        result[f"{prefix}by_example_histogram"] = counts.tolist()
    return result


AUDITS: dict[str, Callable[[Cell, camu_jax.Predictor, AuditSettings], Audited]] = {
    "paper": paper,
    "lira": u_lira,
    "klom": klom,
}
"""The audits by the name that `--audit` takes."""


def histogram(cell: Cell, predictor: camu_jax.Predictor) -> dict[str, Any]:
    """Margins of the forget set in 40 bins from -20 to 20 (what lies outside counts in the outermost), for figures."""
    forget, _ = cell.split()
    values = np.clip(population.margins(predictor, forget), -20, 20)
    counts, edges = np.histogram(values, bins=40, range=(-20, 20))
    return {"forget_margin_histogram": {"edges": edges.tolist(), "counts": counts.tolist()}}


def check(cell: Cell, name: str) -> None:
    """Refuses an audit that cannot be done on a task.

    Raises:
      UsageError: U-LiRA of a class task.
    """
    _validate.one_of(tuple(AUDITS), audit=name)
    if name == "lira" and cell.session.task.classes:
        raise UsageError(
            f"audit lira does not go with task {cell.session.task.name}; allowed: dataP or indices:FILE "
            "(it draws random forget sets)"
        )


def _figure(estimate: Estimate) -> dict[str, float]:
    return {"value": estimate.value, "low": estimate.low, "high": estimate.high}


def _mean(values: np.ndarray, null: np.ndarray | None = None) -> dict[str, float]:
    """The mean over examples with its interval, and the null level's mean."""
    reach = 1.96 * float(np.std(values)) / np.sqrt(len(values))
    mean = float(np.mean(values))
    result = {"value": mean, "low": mean - reach, "high": mean + reach}
    return result if null is None else {**result, "null": float(np.mean(null))}
