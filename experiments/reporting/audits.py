"""Audits of unlearned models, whatever their names: a table a kind, a column an entry."""

import statistics
from collections.abc import Iterable
from typing import Any

from experiments.reporting.collect import Run, audits_of, by_cell
from experiments.reporting.document import DASH, Entry, Row, Table, data_name, method_name, task_name

INTERVAL = ("value", "low", "high", "null")
"""Keys of an entry with its uncertainty: figure, interval, and the figure to expect where nothing is left."""


def audit_tables(runs: Iterable[Run]) -> list[Table]:
    """A table for each kind of audit in the results; entries over several seeds are averaged."""
    found: dict[str, dict[tuple[str, ...], dict[str, list[Any]]]] = {}
    for (data, task, method), group in by_cell(runs).items():
        head = data_name(data), task_name(task), method_name(method)
        for run in group:
            for name, audit in audits_of(run):
                row = found.setdefault(name, {}).setdefault(head, {})
                for entry, value in flatten(audit).items():
                    row.setdefault(entry, []).append(value)
    return [_table(i, name, rows) for i, (name, rows) in enumerate(found.items(), start=1)]


def _table(number: int, name: str, rows: dict[tuple[str, ...], dict[str, list[Any]]]) -> Table:
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    columns.sort(key=lambda column: column == "seconds")
    return Table(
        anchor=f"audit{number}",
        title=f"Audit: {name}",
        head=("Data", "Task", "Method"),
        columns=tuple(column.replace("_", " ") for column in columns),
        rows=tuple(Row(head, tuple(Entry(show(row.get(c, []))) for c in columns)) for head, row in rows.items()),
        text="Mean ± standard deviation over the seeds where there are several. In brackets: the interval, over "
        "several seeds from the lowest to the highest end; null: the figure to expect where no trace is left.",
    )


def flatten(audit: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """The scalar and interval entries of an audit; those of nested dicts under dotted names; no lists, no settings."""
    flat: dict[str, Any] = {}
    for name, value in audit.items():
        if name == "settings":
            continue
        if isinstance(value, dict) and not _is_interval(value):
            flat |= flatten(value, f"{prefix}{name}.")
        elif not isinstance(value, list):
            flat[f"{prefix}{name}"] = value
    return flat


def _is_interval(value: Any) -> bool:
    return isinstance(value, dict) and "value" in value and value.keys() <= set(INTERVAL)


def show(values: list[Any]) -> str:
    """An entry over the seeds in words: `0.52 ± 0.01 [0.48, 0.57], null 0.5`; a dash where there is none."""
    intervals = [v if _is_interval(v) else {"value": v} for v in values if v is not None]
    if not intervals:
        return DASH
    shown = _mean([i["value"] for i in intervals])
    low, high, null = (_numbers(i.get(key) for i in intervals) for key in ("low", "high", "null"))
    if low and high:
        shown += f" [{_number(min(low))}, {_number(max(high))}]"
    return shown + (f", null {_number(statistics.fmean(null))}" if null else "")


def _numbers(values: Iterable[Any]) -> list[float]:
    return [float(v) for v in values if isinstance(v, int | float)]


def _mean(values: list[Any]) -> str:
    numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
    if len(numbers) < len(values):
        return ", ".join(dict.fromkeys(map(str, values)))
    mean = _number(statistics.fmean(numbers))
    return f"{mean} ± {statistics.stdev(numbers):.2g}" if len(numbers) > 1 else mean


def _number(value: float) -> str:
    return f"{value:.4g}".replace("-", "−")
