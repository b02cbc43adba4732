"""Tries settings on a validation set that is held out of the training set; the test set is not read.

`python experiments/tune.py --dataset=digit --task=class0 --methods scrub --grid scrub.learning_rate=1e-4,5e-4`
"""

import dataclasses
import itertools
import math
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # `python experiments/tune.py` from anywhere

from experiments import process  # noqa: E402

if __name__ == "__main__":
    process.begin()  # before the imports that take seconds

from camu_jax.data import DataError  # noqa: E402
from experiments import audit, config, console, estimate, grid, store  # noqa: E402
from experiments.experiment import open_experiment  # noqa: E402
from experiments.job import jobs_of  # noqa: E402


@dataclasses.dataclass(frozen=True, kw_only=True)
class TuneConfig(config.Config):
    """Runs one method with every combination of some settings, and prints them from best to worst.

    The score of random removal is T_s - |F_tr - T_s| (a retrained model is as good on F as on unseen examples), that of
    class removal is R_ts - F_ts; T_s, R_ts and F_ts are measured on the validation set. Results go to
    <out>/<combination>/, and the same command again skips what is there.
    """

    grid: tuple[str, ...] = ()
    """What to try, method.setting=value,value,...; all combinations."""
    seeds: tuple[int, ...] = (0,)
    validation: int = 10_000
    keep_models: bool = False


Point = tuple[str, ...]
"""A combination: an assignment `method.setting=value` of each entry of the grid."""


def points(entries: Sequence[str]) -> list[Point]:
    """All combinations."""
    axes = []
    for entry in entries:
        name, _, values = entry.partition("=")
        axes.append([f"{name}={value}" for value in values.split(",")])
    return list(itertools.product(*axes))


def applied(options: TuneConfig, point: Point) -> TuneConfig:
    """The options with the settings of a point, and with a folder of its own.

    Raises:
      UsageError: an unknown method or setting, or a value that is not allowed.
    """
    options = config.changed(options, point)
    return dataclasses.replace(options, out=str(Path(options.out, "_".join(point) or "default")))


def score(metrics: dict[str, float]) -> float:
    """Higher is better; see `TuneConfig`."""
    if "F_ts" in metrics:
        return metrics["R_ts"] - metrics["F_ts"]
    return metrics["T_s"] - abs(metrics["F_tr"] - metrics["T_s"])


def _score(result: store.Result) -> float:
    return -math.inf if "failed" in result else score(result["metrics"])


def run(options: TuneConfig) -> None:
    """Runs every combination that has no result yet, then prints all."""
    tried = [(point, applied(options, point)) for point in points(options.grid)]
    found, experiment = [], open_experiment(options)
    for point, chosen in tried:
        if (chosen.model, chosen.pipeline) != (experiment.config.model, experiment.config.pipeline):
            experiment = open_experiment(chosen)
        jobs = jobs_of(dataclasses.replace(experiment, config=chosen))
        pieces = [audit.piece(job) for job in jobs]
        console.say(" ".join(point))
        estimate.announce(jobs, [piece.subject for piece in pieces if piece.todo()])
        grid.run(pieces)
        found += [(_score(result), point, job, result) for job in jobs if (result := job.read())]
    for value, point, job, result in sorted(found, key=lambda row: -row[0]):
        figures = console.metrics(result["metrics"])
        console.say(f"{value:7.2f}  {figures}  {result['seconds']:.0f} s  {job}: {' '.join(point)}")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    return console.command(lambda: run(config.parse(argv, TuneConfig(), "experiments/tune.py")), DataError)


if __name__ == "__main__":
    process.end(main())
