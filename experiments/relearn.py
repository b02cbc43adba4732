"""Relearning (section 4.4): fine-tunes unlearned models on the retain set and watches what comes back.

`python experiments/relearn.py --task=data10 --dataset=digit --methods retrain camu`
"""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Self

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # `python experiments/relearn.py` from anywhere

from experiments import process  # noqa: E402

if __name__ == "__main__":
    process.begin()  # before the imports that take seconds

from camu_jax import TrainSettings  # noqa: E402
from camu_jax.data import DataError  # noqa: E402
from experiments import config, console, curve, estimate, grid, reporting  # noqa: E402
from experiments.experiment import open_experiment  # noqa: E402
from experiments.job import jobs_of  # noqa: E402


@dataclasses.dataclass(frozen=True, kw_only=True)
class RelearnConfig(config.Config):
    """Fine-tunes unlearned models on the retain set, and records R_tr - F_tr (class tasks: R_ts - F_ts) by epoch.

    The defaults below are those of the chosen --dataset, --task and --preset: add them before --help.
    """

    relearn: TrainSettings = TrainSettings()

    def settled(self) -> Self:
        """With the figures' relearning, that of `reproduce.py`."""
        return dataclasses.replace(self, relearn=self.relearning(10))


def run(options: RelearnConfig) -> None:
    """Relearns every job that has no curve yet, then draws all of them."""
    experiment = open_experiment(options)
    pieces = [curve.piece(job, options.relearn) for job in jobs_of(experiment)]
    todo = [(piece.subject, options.relearn) for piece in pieces if piece.todo()]
    estimate.announce([piece.subject for piece in pieces], [], todo)
    grid.run(pieces)
    curves: dict[str, list[list[float]]] = {method: [] for method in options.methods}
    for piece in pieces:
        result = piece.subject.read(curve.extra_of(options.relearn))
        assert result is not None
        curves[piece.subject.method].append(reporting.differences(result["curve"]))
    label = "R_ts - F_ts (points)" if experiment.task.classes else "R_tr - F_tr (points)"
    for path in reporting.draw_relearning(pieces[0].path.parents[1], curves, experiment.title, label):
        console.say(f"drawn: {path}")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    return console.command(lambda: run(config.parse(argv, RelearnConfig(), "experiments/relearn.py")), DataError)


if __name__ == "__main__":
    process.end(main())
