"""The paper's tables with our figures in them, from figures by cell."""

import math
from collections.abc import Callable, Iterable, Mapping

from experiments import paper
from experiments.reporting import notes
from experiments.reporting.collect import CellKey, Summary
from experiments.reporting.document import Entry, Row, Table, data_name, method_name, task_name

Figures = Mapping[paper.Cell, Summary]

TITLES = {
    2: "accuracies, 10% data removal (%)",
    3: "accuracies, class 0 removal (%)",
    4: "membership attack, success rate (%)",
    5: "time (s)",
    6: "ablations, 10% data removal (%)",
    7: "ablations, class 0 removal (%)",
    8: "accuracies, 15% data removal (%)",
    9: "accuracies, 20% data removal (%)",
    10: "accuracies, class 1 removal (%)",
    11: "accuracies, class 2 removal (%)",
    12: "membership attack, further tasks, success rate (%)",
    13: "time, further tasks (s)",
}
"""What each of the paper's tables shows."""

ARROWS = {"T_s": "T_s ↑", "R_ts": "R_ts ↑", "F_ts": "F_ts ↓"}
"""Metrics as the paper heads them."""


def marks(values: Mapping[str, float], metric: str) -> dict[str, str]:
    """Marks the best (`*`) and second best (`†`) methods of a row, as the paper does.

    The highest R_ts, the lowest F_ts, seconds and distance are best; of every other metric what lies closest to
    Retrain. Values count as printed, with two decimals. Equal ones share a mark; a shared best leaves no second best.

    Args:
      values: of each method; Retrain's own is the reference and gets no mark.
      metric: of the row, `distance` for a distance to Retrain.

    Returns:
      The marked methods. None are where fewer than two compete, or where Retrain is needed and missing; a second best
      needs three.
    """
    score = _score(metric, values.get("retrain"))
    scores = {m: score(round(v, 2)) for m, v in values.items() if m != "retrain" and math.isfinite(v)} if score else {}
    ranks = sorted(set(scores.values()))
    if len(scores) < 2:
        return {}
    best = [m for m, s in scores.items() if s == ranks[0]]
    second = [m for m, s in scores.items() if len(ranks) > 1 and s == ranks[1]]
    return dict.fromkeys(best, "*") | (dict.fromkeys(second, "†") if len(best) == 1 and len(scores) > 2 else {})


def _score(metric: str, retrain: float | None) -> Callable[[float], float] | None:
    if metric == "R_ts":
        return lambda value: -value
    if metric in ("F_ts", "seconds", "distance"):
        return lambda value: value
    if retrain is None:
        return None
    reference = round(retrain, 2)
    return lambda value: round(abs(value - reference), 2)


def signed(value: float) -> str:
    """A difference with its sign, two decimals."""
    return f"{value:+.2f}".replace("-", "−")


def compare(ours: Summary | None, printed: float | None, metric: str, mark: str = "", paper_mark: str = "") -> Entry:
    """A cell: ours, and below it the paper's figure and the difference (of seconds: the factor)."""
    below = [f"paper {printed:.2f}{paper_mark}"] if printed is not None else []
    if ours is None:
        return Entry(below=tuple(below))
    if printed is not None:
        below.append(f"×{ours.mean / printed:.2g}" if metric == "seconds" else signed(ours.mean - printed))
    return Entry(str(ours), mark, tuple(below))


def paper_tables(figures: Figures, mixed: Mapping[CellKey, str]) -> list[Table]:
    """Each of the paper's Tables 2 to 13 that has any of our cells.

    Rows without a cell of ours are left out. Ablation rows that hold only Retrain and CaMU are, too: Tables 2 and 3
    have those.
    """
    tables = []
    for number, title in TITLES.items():
        lines = [line for line in paper.lines() if line.table == number]
        rows = _rows(lines, figures, mixed)
        if rows:
            several = len({line.task for line in lines}) > 1
            tables.append(
                Table(
                    anchor=f"table{number}",
                    title=f"Table {number}: {title}",
                    head=("Task", "Data") if several else ("Data", "Metric"),
                    columns=tuple(map(method_name, _methods(lines))),
                    rows=tuple(rows),
                    notes=notes.PAPER[number],
                )
            )
    return tables


def _methods(lines: Iterable[paper.Line]) -> list[str]:
    return list(dict.fromkeys(line.method for line in lines))


def _rows(lines: list[paper.Line], figures: Figures, mixed: Mapping[CellKey, str]) -> list[Row]:
    methods = _methods(lines)
    own = [m for m in methods if ":" in m] or methods
    several = len({line.task for line in lines}) > 1
    rows = []
    for dataset, task, metric in dict.fromkeys((line.dataset, line.task, line.metric) for line in lines):
        printed = {line.method: line.value for line in lines if line[1:3] == (dataset, task) and line.metric == metric}
        ours = {m: figures[dataset, task, m, metric] for m in methods if (dataset, task, m, metric) in figures}
        if not any(m in ours for m in own):
            continue
        best, paper_best = marks({m: s.mean for m, s in ours.items()}, metric), marks(printed, metric)
        entries = []
        for method in methods:
            entry = compare(
                ours.get(method), printed.get(method), metric, best.get(method, ""), paper_best.get(method, "")
            )
            entries.append(_noted(entry, mixed.get((dataset, task, method)) if method in ours else None))
        head = (task_name(task), data_name(dataset)) if several else (data_name(dataset), ARROWS.get(metric, metric))
        rows.append(Row(head, tuple(entries)))
    return rows


def _noted(entry: Entry, difference: str | None) -> Entry:
    return entry._replace(notes=(notes.mixed(difference),)) if difference else entry


def further_tables(figures: Figures, mixed: Mapping[CellKey, str]) -> list[Table]:
    """What we measured and the paper did not, a table a data set; below each figure its difference to Retrain.

    A row is shown where the paper lacks one of its cells; then all of our cells are.
    """
    lacking = dict.fromkeys((d, t, metric) for d, t, m, metric in figures if paper.value(d, t, m, metric) is None)
    tables = []
    for i, data in enumerate(dict.fromkeys(d for d, _, _ in lacking), start=1):
        chosen = [(task, metric) for d, task, metric in lacking if d == data]
        methods = list(dict.fromkeys(m for d, t, m, metric in figures if d == data and (t, metric) in chosen))
        rows = tuple(_further_row(figures, mixed, data, task, metric, methods) for task, metric in chosen)
        tables.append(
            Table(
                anchor=f"further{i}",
                title=f"{data_name(data)}: further measurements",
                head=("Task", "Metric"),
                columns=tuple(map(method_name, methods)),
                rows=rows,
                text="Percent; time in seconds without compilation. Below a figure: its difference to Retrain.",
            )
        )
    return tables


def _further_row(
    figures: Figures, mixed: Mapping[CellKey, str], data: str, task: str, metric: str, methods: list[str]
) -> Row:
    ours = {m: figures[data, task, m, metric] for m in methods if (data, task, m, metric) in figures}
    best = marks({m: s.mean for m, s in ours.items()}, metric)
    entries = []
    for method in methods:
        summary = ours.get(method)
        if summary is None:
            entries.append(Entry())
            continue
        below = (signed(summary.mean - ours["retrain"].mean),) if "retrain" in ours and method != "retrain" else ()
        entry = Entry(str(summary), best.get(method, ""), below if metric != "seconds" else ())
        entries.append(_noted(entry, mixed.get((data, task, method))))
    return Row((task_name(task), ARROWS.get(metric, metric)), tuple(entries))
