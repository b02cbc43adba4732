"""Relearning (section 4.4): fine-tunes unlearned models on the retain set and watches what comes back.

`python experiments/relearn.py --task=data10 --dataset=digit --methods retrain camu`
"""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # `python experiments/relearn.py` from anywhere

from experiments import environment  # noqa: E402

environment.prepare(__name__)

import jax  # noqa: E402

from camu_jax import Predictor, Problem, TrainSettings, loop  # noqa: E402
from camu_jax.optimizers import adam_l2  # noqa: E402
from camu_jax.training import TrainState, train_step  # noqa: E402
from experiments import claims, cli, clock, config, console, plots, results, runner  # noqa: E402
from experiments.cells import Cell, all_cells  # noqa: E402
from experiments.plots import differences  # noqa: E402
from experiments.session import open_session, provide_original  # noqa: E402


@dataclasses.dataclass(frozen=True, kw_only=True)
class RelearnConfig(config.Config):  # type: ignore[valid-type,misc]
    """Fine-tunes unlearned models on the retain set, and records R_tr - F_tr (class tasks: R_ts - F_ts) by epoch.

    The defaults below are those of the chosen --dataset, --task and --preset: add them before --help.
    """

    relearn: TrainSettings = TrainSettings()


def curve(cell: Cell, problem: Problem, predictor: Predictor, settings: TrainSettings) -> list[dict[str, float]]:
    """The accuracies before relearning and after each epoch of it; every member of an ensemble relearns."""
    optimizer = adam_l2(settings.learning_rate, settings.l2)
    states = [TrainState.create(problem.model, v, problem.pipeline, optimizer) for v in predictor.members]
    stream = loop.Stream(problem.retain, settings.batch_size)
    history = [cell.accuracies(predictor)]
    for epoch in range(settings.epochs):
        for i, state in enumerate(states):
            key = jax.random.fold_in(cell.keys[2], 1 + i)
            states[i] = loop.run(
                train_step, state, stream, key=key, epochs=1, first_epoch=epoch, progress=problem.progress
            )
        relearned = dataclasses.replace(predictor, members=tuple(state.variables for state in states))
        history.append(cell.accuracies(relearned))
    return history


def complete(cell: Cell, settings: TrainSettings) -> None:
    """Relearns and writes the curve; the cell itself is made first if it is missing."""
    extra = results.Extra("relearn", settings)
    with claims.claim(cell.path(), wait=True):
        predictor = cell.predictor(provide_original(cell.session))
    with console.progress_bar(f"{cell.method}, seed {cell.seed}") as progress, clock.measure() as span:
        history = curve(cell, cell.problem({}, progress), predictor, settings)
    found = differences(history)
    result = {
        "metrics": {"before": found[0], "after": found[-1]},
        "curve": history,
        "seconds": span.seconds,
        "compile_seconds": span.compile_seconds,
        "settings": cell.settings(extra),
        **results.provenance(),
    }
    results.write(cell.path(extra), result)
    console.say(f"{cell.method}, seed {cell.seed}: {' '.join(f'{d:+.2f}' for d in found)}")


def run(config: Any) -> None:
    """Relearns every cell that has no curve yet, then draws all of them."""
    session = open_session(config)
    cells = all_cells(session)
    extra = results.Extra("relearn", config.relearn)
    todo = [cell for cell in cells if cell.read(extra) is None]
    units = 3.0 * len(session.train) * config.relearn.epochs
    runner.announce(cells, todo, extra_units=units)
    for cell in todo:
        with claims.claim(cell.path(extra), wait=True):
            complete(cell, config.relearn)
    curves: dict[str, list[list[float]]] = {method: [] for method in config.methods}
    for cell in cells:
        if (found_result := cell.read(extra)) is not None:
            curves[cell.method].append(differences(found_result["curve"]))
    title = f"{config.dataset}, {session.task.name}"
    label = "R_ts - F_ts (points)" if session.task.classes else "R_tr - F_tr (points)"
    for path in plots.relearn_curves(Path(config.out, config.dataset, session.task.name), curves, title, label):
        console.say(f"drawn: {path}")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    return cli.run(lambda: run(config.parse(argv, RelearnConfig, "experiments/relearn.py")))


if __name__ == "__main__":
    sys.exit(main())
