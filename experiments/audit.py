"""Audits of a job: the library's audits with the job's keys, populations of models and caches."""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np

import camu_jax
from camu_jax import Estimate, Evidence, Predictor, evaluate
from camu_jax.audits import divergence, estimates, lira, population, relearning
from experiments import console, grid, keys, machine, store
from experiments.config import AuditName
from experiments.experiment import plain
from experiments.job import Job, make_together
from experiments.margins import Margins
from experiments.populations import deal, populations


def piece(job: Job) -> grid.Piece[Job]:
    """The result of a job, with its audits, as work to do."""
    return grid.Piece(job, job.path(), missing, make, job.method, job.at_once)


def missing(job: Job) -> bool:
    """Whether a job lacks its result, or one of the wanted audits of it."""
    return job.read() is None or bool(lacking(job))


def make(jobs: Sequence[Job]) -> None:
    """Makes what a job lacks, or several jobs of one method; the caller has claimed them."""
    without = [job for job in jobs if machine.agree(job.read() is None)]
    made: dict[int, Predictor] = {}  # by seed; the audits need not make or load them again
    if len(without) > 1:
        predictors = make_together(without, without[0].original())
        made = {job.seed: predictor for job, predictor in zip(without, predictors, strict=True)}
    elif without:
        made = {without[0].seed: without[0].make(without[0].original())}
    for job in jobs:
        predictor = made.pop(job.seed, None)
        if names := lacking(job):
            predictor = predictor or job.predictor()
            for name in names:
                add(job, name, predictor)
        if job.experiment.config.audit and job.failure():
            console.say(f"{job}: not audited, as it failed")


def lacking(job: Job) -> list[AuditName]:
    """The wanted audits that the result lacks, or has with other settings; none of a model that failed."""
    config = job.experiment.config
    made = (job.read() or {}).get("audits", {})
    if job.failure():
        return []
    return [n for n in config.audit if n not in made or made[n]["settings"] != plain(config.audits)]


def add(job: Job, name: AuditName, predictor: Predictor) -> None:
    """Adds an audit of the unlearned model to a job's result, which the caller has claimed.

    Its figures have no null level but those that the audit itself knows: the report takes it from Retrain's result.
    """
    with machine.measure() as span:
        found = AUDITS[name](job, predictor)
    settings = plain(job.experiment.config.audits)
    entries = {**found.as_json(), **span.as_json(), "settings": settings}

    result = job.read()
    assert result is not None
    result["audits"] = {**result.get("audits", {}), name: entries}
    result["outputs"] = {"forget_margin_histogram": _histogram(population.margins_of(predictor, job.split()[0]))}
    if "M" in entries:
        result["metrics"]["M"] = 100 * entries["M"]["value"]
    store.write(job.path(), result)
    shown = {figure: e.value for figure, e in found.figures.items() if e.value is not None}
    console.say(f"{job}, audit {name}: {'  '.join(f'{n} {v:.3g}' for n, v in shown.items())}  {span}")
    for note in found.notes:
        console.say(f"  {note}")


def _histogram(margins: Margins) -> store.Histogram:
    """Margins in 40 bins from -20 to 20, for figures; what lies outside counts in the outermost."""
    counts, edges = np.histogram(np.clip(margins, -20, 20), bins=40, range=(-20, 20))
    return {"edges": edges.tolist(), "counts": counts.tolist()}


# --- the audits ---------------------------------------------------------------------------------------------------


def paper(job: Job, predictor: Predictor) -> Evidence:
    """The paper's attack, the challenge's loss attack, and areas under the curve of three signals."""
    problem, classes = job.problem({}), job.experiment.task.classes
    return camu_jax.audit(keys.audit(job.seed, "paper"), predictor, problem, job.experiment.test, classes=classes)


def klom(job: Job, predictor: Predictor) -> Evidence:
    """Populations: KLoM, the challenge's epsilon and forgetting quality; this model: JS to Retrain, relearn time.

    The null level compares retrained models with other retrained models.
    """
    experiment, settings = job.experiment, job.experiment.config.audits
    forget, retain = job.split()
    retrain = dataclasses.replace(job, method="retrain")
    retrain.read()  # one of other settings is refused before any work
    retrained_margins, *of_method = (some.margins() for some in populations(job, "klom"))
    oracles, others = retrained_margins[: settings.models], retrained_margins[settings.models :]
    ours = of_method[0] if of_method else others
    end = len(forget) + len(retain)
    parts = {"forget": slice(0, len(forget)), "retain": slice(len(forget), end), "test": slice(end, None)}
    found = divergence.evidence(ours, oracles, others, parts)

    with machine.claim(retrain.path(), wait=True) if job.method != "retrain" else contextlib.nullcontext():
        retrained = retrain.predictor()
    logits, reference = (np.asarray(evaluate.outputs(p, forget.x).logits) for p in (predictor, retrained))
    divergences = divergence.jensen_shannon(logits, reference)
    figures = {**found.figures, "js_forget": estimates.mean(divergences, lowest=0.0, highest=math.log(2))}

    original = experiment.predictor(experiment.original())
    target = 0.95 * evaluate.accuracy(evaluate.outputs(original, forget.x).logits, forget.y)
    training = experiment.config.relearning(settings.relearn_epochs)
    steps, null = (
        relearning.relearn_steps(keys.audit(job.seed, "klom"), p, forget, target, training)
        for p in (predictor, retrained)
    )
    figures["relearn_steps"] = Estimate(steps, null=null)  # None: not within relearn_epochs
    return dataclasses.replace(found, figures=figures)


def u_lira(job: Job, predictor: Predictor) -> Evidence:
    """U-LiRA on shadow models of the same method and settings; the null level compares models that never saw F."""
    del predictor
    shadows = deal(job)
    margins = [some.margins() for some in populations(job, "lira")]
    null_key = keys.audit(job.experiment.config.original_seed, "lira")
    return lira.evidence(null_key, np.concatenate(margins), shadows.state, clusters=shadows.clusters)


AUDITS: dict[AuditName, Callable[[Job, Predictor], Evidence]] = {"paper": paper, "lira": u_lira, "klom": klom}
"""The audits by the name that `--audit` takes."""
