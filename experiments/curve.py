"""The relearning curve of a job (section 4.4): what comes back when its model is fine-tuned on the retain set."""

from camu_jax import TrainSettings
from camu_jax.audits import relearning
from experiments import console, grid, keys, machine, reporting, store
from experiments.experiment import plain
from experiments.job import Job

KIND = "curve"
"""Of pieces of work that are curves."""


def piece(job: Job, settings: TrainSettings) -> grid.Piece[Job]:
    """The curve of a job as work to do."""
    extra = extra_of(settings)
    return grid.Piece(
        job, job.path(extra), lambda job: job.read(extra) is None, lambda jobs: make(jobs[0], settings), KIND
    )


def extra_of(settings: TrainSettings) -> store.Extra:
    """What tells the file of a curve from that of its job's result."""
    return store.Extra("relearn", plain(settings))


def make(job: Job, settings: TrainSettings) -> None:
    """Relearns and writes the curve, which the caller has claimed; the job itself is made first if it is missing."""
    extra = extra_of(settings)
    with machine.claim(job.path(), wait=True):
        predictor = job.predictor()
    _, retain = job.split()
    settings_of = {**job.settings(), extra.name: extra.settings}
    with console.progress_bar(str(job)) as progress, job.experiment.kept(settings_of, job.path(extra)) as span:
        curve = relearning.curve(keys.relearn(job.seed), predictor, retain, settings, job.accuracies, progress=progress)
    found = reporting.differences(curve)
    result: store.Result = {
        "metrics": {"before": found[0], "after": found[-1]},
        "curve": curve,
        **span.as_json(),
        "settings": settings_of,
        **machine.provenance(),
    }
    store.write(job.path(extra), result)
    console.say(f"{job}: {' '.join(f'{d:+.2f}' for d in found)}")
