"""One unlearning task on one data set: `python experiments/run.py --task=data10 --dataset=c100`."""

import dataclasses
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # `python experiments/run.py` from anywhere

from experiments import process  # noqa: E402

if __name__ == "__main__":
    process.begin()  # before the imports that take seconds

from rich import box  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

from camu_jax.data import DataError  # noqa: E402
from experiments import UsageError, audit, config, console, estimate, grid, machine, paper, store  # noqa: E402
from experiments.experiment import open_experiment  # noqa: E402
from experiments.job import Job, jobs_of  # noqa: E402

_WIDEST = 100  # columns of the table with every metric; a narrower terminal wraps it rather than cut figures


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig(config.Config):
    """Unlearns one task on one data set with several methods and prints them beside the paper's figures.

    The defaults below are those of the chosen --dataset, --task and --preset: add them before --help.
    """

    hosts: machine.Hosts = machine.Hosts()


def run(options: RunConfig) -> int:
    """Connects the processes, if there are several, makes every result that is missing, and prints the table.

    Returns:
      0, or 1 where a method has destroyed its model.

    Raises:
      UsageError, DataError: bad input, found before any work starts.
    """
    if options.hosts.several and options.audit:
        raise UsageError("audit needs one process; run it again without the others when the results are there")
    if options.hosts.several and options.side_by_side > 1:
        raise UsageError(f"side_by_side is {options.side_by_side}; allowed with several processes: 1")
    machine.connect(options.hosts, options.devices)
    if not machine.primary():
        console.silence()
    jobs = jobs_of(open_experiment(options))
    pieces = [audit.piece(job) for job in jobs]
    estimate.announce(jobs, [piece.subject for piece in pieces if piece.todo()])
    grid.run(pieces)
    failed = {str(job): reason for job in jobs if (reason := job.failure())}
    if machine.primary():
        print_table(jobs)
    for job, reason in failed.items():
        console.fail(f"{job} failed: {reason}")
    return 1 if failed else 0


def print_table(jobs: Sequence[Job]) -> None:
    """Prints the final table, a row a method, and above it what it shows."""
    options, task = jobs[0].experiment.config, jobs[0].experiment.task.name
    small = options.model.size == "small"
    results = {method: [r for job in jobs if job.method == method and (r := job.read())] for method in options.methods}
    every = [r for of_seeds in results.values() for r in of_seeds]
    sound = [r for r in every if "failed" not in r] or every  # those that failed have no audit
    metrics = [m for m in console.METRICS if all(m in r["metrics"] for r in sound)]
    # As the paper's figures are; those of the small model stand beside the full one's.
    whole = options.limit is None and not options.validation and options.model_name in ("", store.SMALL)
    printed = {
        (method, metric): paper.value(options.dataset, task, method, metric) if whole else None
        for method in results
        for metric in (*metrics, "seconds")
    }
    shared = any(r.get("shared") for r in every)
    with_paper = any(figure is not None for figure in printed.values())
    seeds = max(len(of_seeds) for of_seeds in results.values())
    over = f"mean ± standard deviation over {seeds} seeds" if seeds > 1 else "one seed"
    figure = "the paper's own figure" + ", of the full ResNet-18" * small
    below = ["the difference to Retrain"] * ("retrain" in results) + [figure] * with_paper
    console.say(
        f"\n{jobs[0].experiment.title}: percent, {over}{'; below: ' if below else ''}{', and '.join(below)}"
        f"{'; * on cores that other work shared' if shared else ''}"
    )
    Console(width=max(console.console.width, _WIDEST), highlight=False).print(_result_table(results, metrics, printed))


def _result_table(
    results: dict[str, list[store.Result]], metrics: Sequence[str], printed: dict[tuple[str, str], float | None]
) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("method", no_wrap=True)
    for name in (*metrics, "seconds"):
        table.add_column(name, justify="right", no_wrap=True)
    reference = [r for r in results.get("retrain", []) if "failed" not in r]
    retrain = {m: _mean(reference, m) for m in metrics} if reference else {}
    for method, of_seeds in results.items():
        cells = [paper.METHOD_NAMES.get(method, method)]
        for metric in (*metrics, "seconds"):
            if any("failed" in r for r in of_seeds):
                cells.append("failed")
                continue
            values = [_value(r, metric) for r in of_seeds]
            spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
            shared = "*" if metric == "seconds" and any(r.get("shared") for r in of_seeds) else ""
            lines = [f"{statistics.fmean(values):.2f}{spread}{shared}"]
            if retrain and method != "retrain":
                lines.append(f"{statistics.fmean(values) - retrain[metric]:+.2f}" if metric in retrain else "")
            if (figure := printed[method, metric]) is not None:
                lines.append(f"paper {figure:g}")
            cells.append("\n".join(lines))
        table.add_row(*cells)
    return table


def _value(result: store.Result, metric: str) -> float:
    return float(result["seconds"] if metric == "seconds" else result["metrics"][metric])


def _mean(of_seeds: list[store.Result], metric: str) -> float:
    return statistics.fmean(_value(r, metric) for r in of_seeds)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    return console.command(lambda: run(config.parse(argv, RunConfig(), "experiments/run.py")), DataError)


if __name__ == "__main__":
    process.end(main())
