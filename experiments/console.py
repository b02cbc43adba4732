"""What the user sees: messages, progress bars and the final table."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from experiments import paper
from experiments.store import Result

if TYPE_CHECKING:
    from camu_jax import loop

console = Console(soft_wrap=True, highlight=False)
_WIDEST = 100  # columns of the table with every metric; a narrower terminal wraps it rather than cut figures
_stderr = Console(stderr=True, soft_wrap=True, highlight=False)


def silence() -> None:
    """Prints nothing from now on: another process does."""
    console.quiet = _stderr.quiet = True


def say(text: str) -> None:
    """Prints a line."""
    console.print(text, markup=False)


def warn(text: str) -> None:
    """Prints a warning to stderr, in one line."""
    _stderr.print(f"warning: {' '.join(text.split())}", style="yellow", markup=False)


def fail(text: str) -> None:
    """Prints an error to stderr, in one line."""
    _stderr.print(f"error: {' '.join(text.split())}", style="bold red", markup=False)


METRICS = ("R_tr", "F_tr", "T_s", "R_ts", "F_ts", "M")
"""The paper's figures: accuracies, and the success rate of its membership attack."""


def metrics(values: dict[str, float]) -> str:
    """Metrics in one line, in the paper's order."""
    return "  ".join(f"{name} {values[name]:.2f}" for name in METRICS if name in values)


@contextlib.contextmanager
def progress_bar(label: str) -> Iterator[loop.Listener]:
    """A bar with steps, times and the losses; on a terminal only."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[losses]}"),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        bar = bars.add_task(label, total=None, losses="")
        shown = 0.0

        def listener(progress: loop.Progress) -> None:
            nonlocal shown
            now = time.monotonic()
            if now - shown < 0.25 and progress.step < progress.steps:
                return  # reading the losses waits for the device
            shown = now
            losses = "  ".join(f"{name} {float(value):.4f}" for name, value in progress.metrics.items())
            bars.update(bar, completed=progress.step, total=progress.steps, losses=losses)

        yield listener if console.is_terminal else _silent


def _silent(progress: loop.Progress) -> None:
    del progress


def print_results(
    dataset: str, task: str, results: dict[str, list[Result]], metrics: Sequence[str], *, with_paper: bool
) -> None:
    """Prints the final table, a row a method, and above it what it shows.

    Args:
      dataset: its name.
      task: its name.
      results: of each method, a result a seed.
      metrics: the columns, besides the seconds.
      with_paper: whether the paper's own figures can be compared (not where data was left out).
    """
    seeds = max(len(runs) for runs in results.values())
    over = f"mean ± standard deviation over {seeds} seeds" if seeds > 1 else "one seed"
    below = ["the difference to Retrain"] * ("retrain" in results) + ["the paper's own figure"] * with_paper
    say(f"\n{dataset}, {task}: percent, {over}{'; below: ' if below else ''}{', and '.join(below)}")
    printed = {
        (method, metric): paper.value(dataset, task, method, metric) if with_paper else None
        for method in results
        for metric in (*metrics, "seconds")
    }
    Console(width=max(console.width, _WIDEST), highlight=False).print(_result_table(results, metrics, printed))


def _result_table(
    results: dict[str, list[Result]], metrics: Sequence[str], printed: dict[tuple[str, str], float | None]
) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("method", no_wrap=True)
    for name in (*metrics, "seconds"):
        table.add_column(name, justify="right", no_wrap=True)
    retrain = {m: _mean(results["retrain"], m) for m in metrics} if results.get("retrain") else {}
    for method, runs in results.items():
        cells = [paper.METHOD_NAMES.get(method, method)]
        for metric in (*metrics, "seconds"):
            values = [_value(r, metric) for r in runs]
            spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
            lines = [f"{statistics.fmean(values):.2f}{spread}"]
            if retrain and method != "retrain":
                lines.append(f"{statistics.fmean(values) - retrain[metric]:+.2f}" if metric in retrain else "")
            if (figure := printed[method, metric]) is not None:
                lines.append(f"paper {figure:g}")
            cells.append("\n".join(lines))
        table.add_row(*cells)
    return table


def _value(result: Result, metric: str) -> float:
    return float(result["seconds"] if metric == "seconds" else result["metrics"][metric])


def _mean(runs: list[Result], metric: str) -> float:
    return statistics.fmean(_value(r, metric) for r in runs)
