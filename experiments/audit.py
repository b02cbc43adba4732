"""Audits of a job: the library's audits with the job's keys, populations of models and caches."""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import camu_jax
from camu_jax import Estimate, Evidence, Examples, Predictor, Problem, Variables, evaluate, splits
from camu_jax.audits import divergence, estimates, lira, population, relearning
from experiments import console, grid, keys, machine, store
from experiments.config import AuditName
from experiments.experiment import digest, plain
from experiments.job import Job, make_together
from experiments.margins import MarginFiles, Margins


def piece(job: Job) -> grid.Piece[Job]:
    """The result of a job, with its audits, as work to do."""
    return grid.Piece(job, job.path(), missing, make, job.method, job.at_once)


def missing(job: Job) -> bool:
    """Whether a job lacks its result, or one of the wanted audits of it."""
    return job.read() is None or bool(lacking(job))


def make(jobs: Sequence[Job]) -> None:
    """Makes what a job lacks, or several jobs of one method; the caller has claimed them."""
    without = [job for job in jobs if machine.agree(job.read() is None)]
    if len(without) > 1:
        make_together(without, without[0].original())
    elif without:
        without[0].make(without[0].original())
    for job in jobs:
        for name in lacking(job):
            add(job, name)
        if job.experiment.config.audit and job.failure():
            console.say(f"{job}: not audited, as it failed")


def lacking(job: Job) -> list[AuditName]:
    """The wanted audits that the result lacks, or has with other settings; none of a model that failed."""
    config = job.experiment.config
    made = (job.read() or {}).get("audits", {})
    if job.failure():
        return []
    return [n for n in config.audit if n not in made or made[n]["settings"] != plain(config.audits)]


def add(job: Job, name: AuditName) -> None:
    """Adds an audit to a job's result, which the caller has claimed."""
    predictor = job.predictor()
    with machine.measure() as span:
        found = AUDITS[name](job, predictor)
    entries = found.as_json()
    for figure, null in _of_retrain(job, name).items():
        if isinstance(null, dict) and isinstance(entries.get(figure), dict):
            entries[figure].setdefault("null", null["value"])
    settings = plain(job.experiment.config.audits)
    entries |= {**span.as_json(), "settings": settings}

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


def _of_retrain(job: Job, name: AuditName) -> dict[str, store.Json]:
    """The same audit of Retrain with the same seed, whose figures are the null level; empty where it was not made."""
    retrain = dataclasses.replace(job, method="retrain").read() or {}
    return retrain.get("audits", {}).get(name, {})


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
    everything = splits.join(forget, retain, experiment.test)
    oracles = _unlearned(dataclasses.replace(job, method="retrain"), 2 * settings.models, everything)
    oracles, others = oracles[: settings.models], oracles[settings.models :]
    ours = others if job.method == "retrain" else _unlearned(job, settings.models, everything)
    end = len(forget) + len(retain)
    parts = {"forget": slice(0, len(forget)), "retain": slice(len(forget), end), "test": slice(end, None)}
    found = divergence.evidence(ours, oracles, others, parts)

    retrain = dataclasses.replace(job, method="retrain")
    with machine.claim(retrain.path(), wait=True) if job.method != "retrain" else contextlib.nullcontext():
        retrained = retrain.predictor()
    logits, reference = (np.asarray(evaluate.outputs(p, forget.x).logits) for p in (predictor, retrained))
    divergences = divergence.jensen_shannon(logits, reference)
    figures = {**found.figures, "js_forget": estimates.mean(divergences, lowest=0.0, highest=math.log(2))}

    original = experiment.predictor(experiment.original())
    target = 0.95 * evaluate.accuracy(evaluate.outputs(original, forget.x).logits, forget.y)
    training = dataclasses.replace(experiment.config.original, epochs=settings.relearn_epochs)
    steps, null = (
        relearning.relearn_steps(keys.audit(job.seed, "klom"), p, forget, target, training)
        for p in (predictor, retrained)
    )
    figures["relearn_steps"] = Estimate(steps, null=null)  # None: not within relearn_epochs
    return dataclasses.replace(found, figures=figures)


def u_lira(job: Job, predictor: Predictor) -> Evidence:
    """U-LiRA on shadow models of the same method and settings; the null level compares models that never saw F."""
    del predictor
    experiment, settings = job.experiment, job.experiment.config.audits
    forget, _ = job.split()
    train, seed = experiment.train, experiment.config.original_seed
    shadows = lira.deal(keys.halves(seed), len(train), settings.halves, len(forget) / len(train))
    margins = [_of_half(job, shadows, number) for number in range(settings.halves)]
    null_key = keys.audit(seed, "lira")
    return lira.evidence(null_key, np.concatenate(margins), shadows.state, clusters=shadows.clusters)


AUDITS: dict[AuditName, Callable[[Job, Predictor], Evidence]] = {"paper": paper, "lira": u_lira, "klom": klom}
"""The audits by the name that `--audit` takes."""


# --- populations of models ----------------------------------------------------------------------------------------


def _unlearned(job: Job, count: int, examples: Examples) -> Margins:
    """Margins of models that unlearned the job's forget set, each from an original model of its own."""
    method, settings = job.entry
    problem = job.problem({})

    def make_one(key: jax.Array, original: Variables) -> Predictor:
        return method.unlearn(key, dataclasses.replace(problem, original=original), settings)

    def arguments(k: int) -> tuple[jax.Array, Variables]:
        original = job.experiment.original("klom", k) if method.uses_original else {}
        return keys.population(job.seed, "klom", job.method, k), original

    what = {**job.settings(), "population": "klom"}
    return _margins(job, what, f"{job.method} models", make_one, arguments, count, examples)


def _of_half(job: Job, shadows: lira.Shadows, number: int) -> Margins:
    """Margins of U-LiRA's shadow models of one half, on the whole training set."""
    experiment = job.experiment
    train, seed = experiment.train, experiment.config.original_seed
    on_half = dataclasses.replace(experiment, train=train.pick(jnp.asarray(shadows.halves[number])))
    method, settings = job.entry
    mine = shadows.clusters == number
    forget, retain = jnp.asarray(shadows.forget[mine]), jnp.asarray(shadows.retain[mine])

    def make_one(key: jax.Array, original: Variables, gone: jax.Array, kept: jax.Array) -> Predictor:
        parts = train.pick(gone), train.pick(kept)
        problem = Problem(experiment.model, original, *parts, experiment.config.pipeline)
        return method.unlearn(key, problem, settings)

    def arguments(k: int) -> tuple[jax.Array, Variables, jax.Array, jax.Array]:
        original = on_half.original("lira", number) if method.uses_original else {}
        return keys.population(seed, "lira", job.method, f"{number}/{k}"), original, forget[k], retain[k]

    # All seeds share the shadow models: the seed of the job is not part of what they are made from.
    what = {**Job(on_half, job.method, seed).settings(), "population": ["lira", number], "forget": forget.shape[1]}
    label = f"{job.method} shadows {number + 1} of {len(shadows.halves)}"
    return _margins(job, what, label, make_one, arguments, len(forget), train)


def _margins(
    job: Job,
    what: store.Settings,
    label: str,
    make_one: population.Make,
    arguments: Callable[[int], tuple[object, ...]],
    count: int,
    examples: Examples,
) -> Margins:
    """Margins of a population, kept in the cache model by model; another process that wants the same ones waits."""
    folder = Path(job.experiment.config.cache_dir, "margins", digest(what))
    with machine.claim(folder, wait=True):
        return population.margins(
            make_one,
            arguments,
            count,
            examples,
            cache=MarginFiles(folder, len(examples)),
            at_once=job.at_once,
            progress=lambda done, of: console.say(f"{label}: {done} of {of}"),
        )
