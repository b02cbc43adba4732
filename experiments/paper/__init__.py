"""The paper's own tables (2 to 13), to print beside ours."""

import csv
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

METHOD_NAMES: dict[str, str] = {
    "original": "Original",
    "retrain": "Retrain",
    "neggrad": "NegGrad",
    "boundary": "Boundary",
    "bad_teacher": "T-S",
    "scrub": "SCRUB",
    "sisa": "SISA",
    "unroll": "Unroll",
    "camu": "CaMU",
    "camu:finetune": "Finetune",
    "camu:no_counterfactual": "Remove F*",
    "camu:no_retain_embedding": "Remove R* to E*",
}
"""The paper's name of each method and ablation; before them the original model, of which it has no figures."""

Key = tuple[str, str, str, str]
"""Data set, task, method and metric: what an entry of a table is about."""


class Line(NamedTuple):
    """An entry as a table prints it."""

    table: int
    dataset: str
    task: str
    method: str
    metric: str
    value: float


@functools.cache
def lines() -> tuple[Line, ...]:
    """Every entry of every table, in the order of the tables, repeated ones included.

    Metrics are in percent (`M` is the attack success rate), `seconds` in seconds.
    """
    with Path(__file__).with_name("tables.csv").open(newline="", encoding="utf-8") as file:
        return tuple(
            Line(int(r["table"]), r["dataset"], r["task"], r["method"], r["metric"], float(r["value"]))
            for r in csv.DictReader(file)
        )


def rows(tables: Sequence[int]) -> list[tuple[str, str, str]]:
    """The (dataset, task, method) of some tables, in their order, each once."""
    wanted = [(line.dataset, line.task, line.method) for line in lines() if line.table in tables]
    return list(dict.fromkeys(wanted))


@functools.cache
def load() -> dict[Key, float]:
    """Every entry, `(dataset, task, method, metric) -> value`.

    Where two tables hold an entry, the lower-numbered, main table wins.
    """
    values: dict[Key, float] = {}
    for line in lines():
        values.setdefault((line.dataset, line.task, line.method, line.metric), line.value)
    return values


def value(dataset: str, task: str, method: str, metric: str) -> float | None:
    """The paper's figure, None where it has none."""
    return load().get((dataset, task, method, metric))
