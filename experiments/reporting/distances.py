"""Averages over many cells: how far each method is from Retrain, and how far our CaMU is from the paper's."""

import statistics
from collections.abc import Iterable
from typing import NamedTuple

from experiments import paper
from experiments.reporting.document import Entry, Row, Table, data_name, method_name
from experiments.reporting.tables import Figures, marks

ACCURACIES = ("R_tr", "F_tr", "T_s", "R_ts", "F_ts")
"""The metrics that count as accuracies; the attack's `M` is averaged apart."""


class Distance(NamedTuple):
    """Mean absolute difference to Retrain in points, over the same cells for both."""

    ours: float
    paper: float
    cells: int


def to_retrain(figures: Figures, metrics: Iterable[str]) -> dict[str, Distance]:
    """The distance of each method to Retrain, over the cells that both we and the paper have.

    A cell that stands in several of the paper's tables counts once, with the figure of the first.
    """
    chosen = tuple(metrics)
    pairs: dict[str, list[tuple[float, float]]] = {}
    for (dataset, task, method, metric), printed in paper.load().items():
        ours = figures.get((dataset, task, method, metric))
        reference = figures.get((dataset, task, "retrain", metric))
        printed_reference = paper.value(dataset, task, "retrain", metric)
        if method == "retrain" or metric not in chosen or None in (ours, reference, printed_reference):
            continue
        assert ours is not None and reference is not None and printed_reference is not None
        pairs.setdefault(method, []).append((abs(ours.mean - reference.mean), abs(printed - printed_reference)))
    return {
        method: Distance(statistics.fmean(d for d, _ in both), statistics.fmean(d for _, d in both), len(both))
        for method, both in pairs.items()
    }


def retrain_table(figures: Figures) -> Table | None:
    """Every method's average distance to Retrain, ours and the paper's; None where no cell has both."""
    kinds = to_retrain(figures, ACCURACIES), to_retrain(figures, ["M"])
    methods = [m for m in paper.METHOD_NAMES if any(m in kind for kind in kinds)]
    if not methods:
        return None
    rows: dict[str, list[Entry]] = {m: [] for m in methods}
    for kind in kinds:
        most = max((d.cells for d in kind.values()), default=0)
        best = marks({m: d.ours for m, d in kind.items() if d.cells == most}, "distance")
        paper_best = marks({m: d.paper for m, d in kind.items() if d.cells == most}, "distance")
        for method in methods:
            if (found := kind.get(method)) is None:
                rows[method] += [Entry()] * 3
                continue
            rows[method] += [
                Entry(f"{found.ours:.2f}", best.get(method, "")),
                Entry(f"{found.paper:.2f}", paper_best.get(method, "")),
                Entry(str(found.cells)),
            ]
    return Table(
        anchor="distances",
        title="Average distance to Retrain",
        head=("Method",),
        columns=("accuracies, ours", "accuracies, paper", "cells", "M, ours", "M, paper", "cells of M"),
        rows=tuple(Row((method_name(m),), tuple(entries)) for m, entries in rows.items()),
        text="Mean absolute difference to Retrain in points, over the cells that both we and the paper have. The best "
        "are marked among the methods with the most cells.",
    )


def to_paper(figures: Figures, tables: Iterable[int], method: str = "camu") -> dict[str, tuple[float, int]]:
    """Mean absolute difference of a method to the paper's figures, and over how many cells, by data set."""
    found: dict[str, list[float]] = {}
    for line in paper.lines():
        ours = figures.get((line.dataset, line.task, method, line.metric))
        if line.table in tables and line.method == method and ours is not None:
            found.setdefault(line.dataset, []).append(abs(ours.mean - line.value))
    return {dataset: (statistics.fmean(values), len(values)) for dataset, values in found.items()}


def paper_table(figures: Figures) -> Table | None:
    """CaMU's mean absolute difference to Tables 2 and 3 by data set; None where it has no such cell."""
    parts = [to_paper(figures, tables) for tables in ([2], [3], [2, 3])]
    rows = []
    for dataset in parts[-1]:
        entries = []
        for part in parts:
            mean, cells = part.get(dataset, (0.0, 0))
            entries.append(Entry(f"{mean:.2f}", below=(f"{cells} cells",)) if cells else Entry())
        rows.append(Row((data_name(dataset),), tuple(entries)))
    if not rows:
        return None
    return Table(
        anchor="paper-differences",
        title="CaMU: average difference to the paper's figures",
        head=("Data",),
        columns=("Table 2 (10% data)", "Table 3 (class 0)", "both"),
        rows=tuple(rows),
        text="Mean absolute difference between our CaMU and the paper's CaMU, in points.",
    )
