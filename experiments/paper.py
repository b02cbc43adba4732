"""The paper's own tables (2 to 13), to print beside ours."""

import csv
import functools
from collections.abc import Sequence
from pathlib import Path

METHOD_NAMES: dict[str, str] = {
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
"""The paper's name of each method and ablation."""

Cell = tuple[str, str, str, str]


@functools.cache
def _table_rows() -> list[dict[str, str]]:
    with (Path(__file__).parent / "paper" / "tables.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def rows(tables: Sequence[int]) -> list[tuple[str, str, str]]:
    """The (dataset, task, method) of some tables, in their order, each once."""
    wanted = [(r["dataset"], r["task"], r["method"]) for r in _table_rows() if int(r["table"]) in tables]
    return list(dict.fromkeys(wanted))


@functools.cache
def load() -> dict[Cell, float]:
    """Every cell, `(dataset, task, method, metric) -> value`.

    Metrics are in percent (`M` is the attack success rate), `seconds` in seconds. Where two tables hold a cell, the
    lower-numbered, main table wins.
    """
    cells: dict[Cell, float] = {}
    for row in _table_rows():
        cell = (row["dataset"], row["task"], row["method"], row["metric"])
        cells.setdefault(cell, float(row["value"]))
    return cells


def value(dataset: str, task: str, method: str, metric: str) -> float | None:
    """The paper's figure of a cell, None where it has none."""
    return load().get((dataset, task, method, metric))
