"""One unlearning task on one data set: `python experiments/run.py --task=data10 --dataset=c100`."""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # `python experiments/run.py` from anywhere

from camu_jax.data import DataError  # noqa: E402
from experiments import config, console, flags, grid, machine  # noqa: E402
from experiments.experiment import open_experiment  # noqa: E402
from experiments.job import Job, jobs_of  # noqa: E402


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig(config.Config):
    """Unlearns one task on one data set with several methods and prints them beside the paper's figures.

    The defaults below are those of the chosen --dataset, --task and --preset: add them before --help.
    """

    hosts: machine.Hosts = machine.Hosts()


def run(options: RunConfig) -> None:
    """Connects the processes, if there are several, makes every result that is missing, and prints the table.

    Raises:
      UsageError, DataError: bad input, found before any work starts.
    """
    if options.hosts.coordinator is not None and options.audit:
        raise flags.UsageError("audit needs one process; run it again without --hosts when the results are there")
    if options.hosts.coordinator is not None and options.side_by_side > 1:
        raise flags.UsageError(f"side_by_side is {options.side_by_side}; allowed with --hosts: 1")
    machine.connect(options.hosts)
    jobs = jobs_of(open_experiment(options))
    grid.run(jobs)
    if machine.primary():
        print_table(jobs)


def print_table(jobs: Sequence[Job]) -> None:
    """Prints the results of jobs, a row a method."""
    experiment = jobs[0].experiment
    options = experiment.config
    found = {method: [r for job in jobs if job.method == method and (r := job.read())] for method in options.methods}
    shown = [m for m in console.METRICS if all(m in r["metrics"] for results in found.values() for r in results)]
    whole = options.limit is None and not options.validation
    console.print_results(options.dataset, experiment.task.name, found, shown, with_paper=whole)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    return flags.command(lambda: run(config.parse(argv, RunConfig(), "experiments/run.py")), DataError)


if __name__ == "__main__":
    sys.exit(main())
