"""Relearning (section 4.4): fine-tunes unlearned models on the retain set and watches what comes back.

`python experiments/relearn.py --task=data10 --dataset=digit --methods retrain camu`
"""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # `python experiments/relearn.py` from anywhere

from camu_jax import TrainSettings  # noqa: E402
from camu_jax.audits import relearning  # noqa: E402
from camu_jax.data import DataError  # noqa: E402
from experiments import config, console, flags, grid, keys, machine, reporting, store  # noqa: E402
from experiments.experiment import open_experiment, plain  # noqa: E402
from experiments.job import Job, jobs_of  # noqa: E402


@dataclasses.dataclass(frozen=True, kw_only=True)
class RelearnConfig(config.Config):
    """Fine-tunes unlearned models on the retain set, and records R_tr - F_tr (class tasks: R_ts - F_ts) by epoch.

    The defaults below are those of the chosen --dataset, --task and --preset: add them before --help.
    """

    relearn: TrainSettings = TrainSettings()


def extra_of(settings: TrainSettings) -> store.Extra:
    """What tells the file of a curve from that of its job's result."""
    return store.Extra("relearn", plain(settings))


def complete(job: Job, settings: TrainSettings) -> None:
    """Relearns and writes the curve, which the caller has claimed; the job itself is made first if it is missing."""
    extra = extra_of(settings)
    with machine.claim(job.path(), wait=True):
        predictor = job.predictor()
    _, retain = job.split()
    with console.progress_bar(str(job)) as progress, machine.measure() as span:
        curve = relearning.curve(keys.relearn(job.seed), predictor, retain, settings, job.accuracies, progress=progress)
    found = reporting.differences(curve)
    result: store.Result = {
        "metrics": {"before": found[0], "after": found[-1]},
        "curve": curve,
        "seconds": span.seconds,
        "compile_seconds": span.compile_seconds,
        "settings": {**job.settings(), extra.name: extra.settings},
        **machine.provenance(),
    }
    store.write(job.path(extra), result)
    console.say(f"{job}: {' '.join(f'{d:+.2f}' for d in found)}")


def run(options: RelearnConfig) -> None:
    """Relearns every job that has no curve yet, then draws all of them."""
    experiment = open_experiment(options)
    jobs = jobs_of(experiment)
    extra = extra_of(options.relearn)
    grid.announce(jobs, [job for job in jobs if job.read(extra) is None])
    curves: dict[str, list[list[float]]] = {method: [] for method in options.methods}
    for job in jobs:
        with machine.claim(job.path(extra), wait=True):
            if job.read(extra) is None:
                complete(job, options.relearn)
        result = job.read(extra)
        assert result is not None
        curves[job.method].append(reporting.differences(result["curve"]))
    title = f"{options.dataset}, {experiment.task.name}"
    label = "R_ts - F_ts (points)" if experiment.task.classes else "R_tr - F_tr (points)"
    for path in reporting.draw_relearning(jobs[0].path().parents[1], curves, title, label):
        console.say(f"drawn: {path}")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    return flags.command(lambda: run(config.parse(argv, RelearnConfig(), "experiments/relearn.py")), DataError)


if __name__ == "__main__":
    sys.exit(main())
