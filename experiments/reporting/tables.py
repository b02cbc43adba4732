"""The tables: the paper's with our figures in them, what the paper lacks, averages, and audits."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import pandas as pd

from experiments import paper, store
from experiments.reporting.collect import (
    METRICS,
    Job,
    Rows,
    Summary,
    audits,
    decimals,
    in_paper,
    number,
    printable,
    rank,
    summarize,
)
from experiments.reporting.words import DASH, NOTES, TEXTS, TITLES, data_name, method_name, metric_name, task_name
from experiments.store import Result


class Entry(NamedTuple):
    """What stands in a row below a column."""

    text: str = DASH
    mark: str = ""  # "*" best, "†" second best
    below: Sequence[str] = ()  # smaller lines under the text
    note: str = ""  # a footnote, in full


class Row(NamedTuple):
    """What a row is about, and its entries."""

    head: tuple[str, ...]
    entries: list[Entry]


class Table(NamedTuple):
    """A table. `head` names the parts of `Row.head`; `columns` the entries after it."""

    anchor: str
    title: str
    head: tuple[str, ...]
    columns: list[str]
    rows: list[Row]
    text: str = ""
    notes: Sequence[str] = ()


def marks(values: Mapping[str, float], metric: str) -> dict[str, str]:
    """Marks the best (`*`) and second best (`†`) methods of a row, as the paper does.

    The highest R_ts, the lowest F_ts, seconds and distance are best; of every other metric what lies closest to
    Retrain. Values count as printed, with two decimals. Equal ones share a mark; a shared best leaves no second best.
    None are marked where fewer than two compete, or where Retrain is needed and missing; a second best needs three.

    Args:
      values: of each method; Retrain, the reference, and the original model get no mark.
      metric: of the row, `distance` for a distance to Retrain.
    """
    retrain = round(values.get("retrain", math.nan), 2)
    scores = {}
    for method, value in values.items():
        if metric == "R_ts":
            score = -round(value, 2)
        elif metric in ("F_ts", "seconds", "distance"):
            score = round(value, 2)
        else:
            score = round(abs(round(value, 2) - retrain), 2)
        if method not in ("original", "retrain") and math.isfinite(score):
            scores[method] = score
    if len(scores) < 2:
        return {}
    ranks = sorted(set(scores.values()))
    best = {method: "*" for method, score in scores.items() if score == ranks[0]}
    if len(best) > 1 or len(scores) < 3:
        return best
    return best | {method: "†" for method, score in scores.items() if score == ranks[1]}


def paper_tables(ours: Rows) -> list[Table]:
    """Each of the paper's Tables 2 to 13 that has any figure of ours.

    Rows without one are left out. Ablation rows that hold only Retrain and CaMU are, too: Tables 2 and 3 have those.
    The small model has rows of its own, beside the same figures of the paper's. Where the original model was measured,
    it has a column, but for times.
    """
    names = list(dict.fromkeys(dataset for dataset, _, _ in ours))
    originals = {row[1:] for row in ours if "original" in ours[row] and row[2] != "seconds"}
    tables = []
    for table, title in TITLES.items():
        lines = [line for line in paper.lines() if line.table == table]
        methods = list(dict.fromkeys(line.method for line in lines))
        own = [method for method in methods if ":" in method] or methods
        if originals & {(line.task, line.metric) for line in lines}:
            methods = ["original", *methods]
        several_tasks = len({line.task for line in lines}) > 1
        rows = []
        found = summarize(pd.DataFrame(lines), notes={})
        for name, row in [(name, row) for row in found for name in names if in_paper(name) == row[0]]:
            (_, task, metric), summaries = row, found[row]
            of_ours = ours.get((name, task, metric), {})
            measured = {method: of_ours[method] for method in methods if method in of_ours}
            if not any(method in measured for method in own):
                continue
            printed = {method: summary.mean for method, summary in summaries.items()}
            printed_marks = marks(printed, metric)
            below = {}
            for method, value in printed.items():
                below[method] = [f"paper {value:.2f}{printed_marks.get(method, '')}"]
                if method in measured:
                    below[method] += _difference(measured[method].mean, value, metric)
            head = (task_name(task), data_name(name)) if several_tasks else (data_name(name), metric_name(metric))
            rows.append(Row(head, _entries(metric, methods, measured, below)))
        if rows:
            heads = ("Task", "Data") if several_tasks else ("Data", "Metric")
            columns, title = list(map(method_name, methods)), f"Table {table}: {title}"
            tables.append(Table(f"table{table}", title, heads, columns, rows, notes=NOTES[table]))
    return tables


def further_tables(ours: Rows) -> list[Table]:
    """What we measured and the paper did not, a table a data set; below each figure its difference to Retrain.

    A row is shown where the paper lacks one of its entries; then all of ours are.
    """
    lacking = [row for row in ours if any(_in_paper(row, of) is None for of in ours[row] if of != "original")]
    tables = []
    for i, dataset in enumerate(dict.fromkeys(dataset for dataset, _, _ in lacking), start=1):
        chosen = [row for row in lacking if row[0] == dataset]
        methods = sorted(
            {m for row in chosen for m in ours[row]}, key=lambda name: rank(name, list(paper.METHOD_NAMES))
        )
        rows = []
        for row in chosen:
            _, task, metric = row
            below = {}
            if "retrain" in ours[row] and metric != "seconds":
                retrain = ours[row]["retrain"].mean
                below = {m: _difference(s.mean, retrain, metric) for m, s in ours[row].items() if m != "retrain"}
            rows.append(Row((task_name(task), metric_name(metric)), _entries(metric, methods, ours[row], below)))
        title, columns = f"{data_name(dataset)}: further measurements", list(map(method_name, methods))
        tables.append(Table(f"further{i}", title, ("Task", "Metric"), columns, rows, TEXTS["further"]))
    return tables


def _in_paper(row: tuple[str, str, str], method: str) -> float | None:
    dataset, task, metric = row
    return paper.value(in_paper(dataset), task, method, metric)


def _entries(
    metric: str, methods: Iterable[str], measured: Mapping[str, Summary], below: Mapping[str, Sequence[str]]
) -> list[Entry]:
    """The entries of a row: our figures, marked, and below them what they are compared with."""
    best = marks({method: summary.mean for method, summary in measured.items()}, metric)
    entries = []
    for method in methods:
        found = measured.get(method)
        text, note = (str(found), found.note) if found else (DASH, "")
        entries.append(Entry(text, best.get(method, ""), below.get(method, ()), note))
    return entries


def _difference(ours: float, reference: float, metric: str) -> list[str]:
    """The line that compares two figures: their difference, of seconds the factor; none where one is not finite."""
    if not math.isfinite(ours - reference):
        return []
    if metric == "seconds":
        return [f"×{ours / reference:.2g}"]
    return [("−" if ours < reference else "+") + decimals(abs(ours - reference))]


def average_tables(figures: pd.DataFrame) -> list[Table]:
    """How far each method is from Retrain, and our CaMU from the paper's, over what both we and the paper have."""
    ours = figures.groupby(["dataset", "task", "method", "metric"], as_index=False)["value"].mean()
    ours, printed = ours[ours["value"] < math.inf], pd.DataFrame(paper.lines()).rename(columns={"dataset": "printed"})
    ours = ours.assign(printed=ours["dataset"].map(in_paper))
    both = printed.merge(ours, on=["printed", "task", "method", "metric"], suffixes=("_paper", ""))
    small = both["dataset"] != both["printed"]
    title = "Average distance to Retrain"
    return [
        *_retrain_table("distances", title, both[~small]),
        *_retrain_table("distances-small", f"{title}, {store.SMALL}", both[small]),
        *_camu_table(both),
    ]


def _retrain_table(anchor: str, title: str, both: pd.DataFrame) -> list[Table]:
    """Every method's average distance to Retrain. What stands in several of the paper's tables counts once."""
    once = both.drop_duplicates(["dataset", "task", "method", "metric"])  # with the figure of the first table
    retrain, others = once[once["method"] == "retrain"], once[once["method"] != "retrain"]
    pairs = others.merge(retrain, on=["dataset", "task", "metric"], suffixes=("", "_retrain"))
    pairs["ours"] = (pairs["value"] - pairs["value_retrain"]).abs()
    pairs["paper"] = (pairs["value_paper"] - pairs["value_paper_retrain"]).abs()
    pairs = pairs[pairs["metric"].isin(METRICS)]
    rows: dict[str, list[Entry]] = {method: [] for method in paper.METHOD_NAMES if method in set(pairs["method"])}
    for chosen in (pairs[pairs["metric"] != "M"], pairs[pairs["metric"] == "M"]):
        groups = chosen.groupby("method")
        entries, gaps = groups.size(), groups[["ours", "paper"]].mean()
        complete = gaps[entries == entries.max()]
        best = {whose: marks(dict(complete[whose]), "distance") for whose in ("ours", "paper")}
        for method, row in rows.items():
            if method not in gaps.index:
                row += [Entry()] * 3
                continue
            row += [Entry(decimals(gaps[whose][method]), best[whose].get(method, "")) for whose in ("ours", "paper")]
            row.append(Entry(str(entries[method])))
    columns = ["accuracies, ours", "accuracies, paper", "entries", "M, ours", "M, paper", "entries of M"]
    shown = [Row((method_name(method),), row) for method, row in rows.items()]
    table = Table(anchor, title, ("Method",), columns, shown, TEXTS["distances"])
    return [table] if shown else []


def _camu_table(both: pd.DataFrame) -> list[Table]:
    """CaMU's mean absolute difference to the paper's accuracies by data set, and over all of the paper's models."""
    columns = {"10% data": [2], "15%, 20%": [8, 9], "class 0": [3], "classes 1, 2": [10, 11]}
    columns["all"] = sorted(sum(columns.values(), []))
    camu = both[(both["method"] == "camu") & both["table"].isin(columns["all"])]
    groups = [(data_name(str(dataset)), group) for dataset, group in camu.groupby("dataset", sort=False)]
    full = camu[camu["dataset"] == camu["printed"]]
    rows = []
    for name, group in [*groups, *([("all", full)] if full["dataset"].nunique() > 1 else [])]:
        entries = []
        for tables in columns.values():
            chosen = group[group["table"].isin(tables)]
            gap = (chosen["value"] - chosen["value_paper"]).abs().mean()
            entries.append(Entry(decimals(gap), below=[f"{len(chosen)} entries"]) if len(chosen) else Entry())
        rows.append(Row((name,), entries))
    title = "CaMU: average difference to the paper's figures"
    return [Table("paper-differences", title, ("Data",), list(columns), rows, TEXTS["camu"])] if rows else []


def camu_tables(ours: Rows) -> list[Table]:
    """CaMU's accuracies on each data set and task of the paper; below a figure the paper's, and the difference."""
    metrics = METRICS[:-1]
    rows = []
    for dataset, task in dict.fromkeys(row[:2] for row in ours if "camu" in ours[row]):
        entries = []
        for metric in metrics:
            found, printed = (
                ours.get((dataset, task, metric), {}).get("camu"),
                _in_paper((dataset, task, metric), "camu"),
            )
            if found is None or printed is None:
                entries.append(Entry())
                continue
            below = [f"paper {printed:.2f}", *_difference(found.mean, printed, metric)]
            entries.append(Entry(str(found), below=below, note=found.note))
        if any(entry != Entry() for entry in entries):
            rows.append(Row((data_name(dataset), task_name(task)), entries))
    title, columns = "CaMU on every task", list(map(metric_name, metrics))
    return [Table("camu", title, ("Data", "Task"), columns, rows, TEXTS["camu_tasks"])] if rows else []


def audit_tables(results: Mapping[Job, Result]) -> list[Table]:
    """A table for each audit in the results, whatever its name; entries over several seeds are averaged."""
    figures = []
    for job, result in results.items():
        for kind, audit in audits(result).items():
            for name, entry in audit.items():
                if name == "shared" or audit.get("shared") is True and name in ("seconds", "compile_seconds"):
                    continue
                known = entry if isinstance(entry, dict) else {"value": entry}
                if "value" in known and not isinstance(entry, list | str):  # no settings, no histograms
                    null = known.get("null", _of_retrain(results, job, kind, name))
                    ends = known.get("low"), known.get("high"), null
                    numbers = [number(end) if isinstance(end, int | float) else math.nan for end in ends]
                    # None is a figure that there is not, such as steps that were not enough.
                    value = math.nan if known["value"] is None else number(known["value"])
                    figures.append((printable(kind), *job, printable(name), value, *numbers))
    frame = pd.DataFrame(figures, columns=["kind", *Job._fields, "name", "value", "low", "high", "null"])
    over_seeds = {"value": ["mean", "std", "count", "size"], "low": "min", "high": "max", "null": "mean"}
    tables = []
    for i, kind in enumerate(frame["kind"].unique(), start=1):
        group = frame[frame["kind"] == kind]
        summary = group.groupby(["dataset", "task", "method", "name"], sort=False).agg(over_seeds)
        texts = {key: _in_words(*numbers) for key, *numbers in summary.itertuples(name=None)}
        names = sorted(group["name"].unique(), key=lambda name: name == "seconds")
        rows = []
        for dataset, task, method in dict.fromkeys(key[:3] for key in texts):
            entries = [Entry(texts.get((dataset, task, method, name), DASH)) for name in names]
            rows.append(Row((data_name(dataset), task_name(task), method_name(method)), entries))
        title, head = f"Audit: {kind}", ("Data", "Task", "Method")
        columns = [name.replace("_", " ") for name in names]
        tables.append(Table(f"audit{i}", title, head, columns, rows, TEXTS["audits"]))
    return tables


def _of_retrain(results: Mapping[Job, Result], job: Job, kind: str, name: str) -> store.Json:
    """The same figure of Retrain with the same seed, which is the null level; None where there is none."""
    if job.method == "retrain":
        return None
    entry = audits(results.get(job._replace(method="retrain"), {})).get(kind, {}).get(name)
    return entry.get("value") if isinstance(entry, dict) else None


def _in_words(mean: float, spread: float, count: int, size: int, low: float, high: float, null: float) -> str:
    """A figure of an audit and what is known of it: `0.52 ± 0.01 [0.48, 0.57], null 0.5`; NaN is what is not known.

    Where only some of the seeds have one, it says so.
    """
    text = DASH if math.isnan(mean) else f"{mean:.4g}" if math.isfinite(mean) else "not finite"
    if math.isfinite(spread):
        text += f" ± {spread:.2g}"
    if 0 < count < size:
        text += f" ({count} of {size} seeds)"
    if not math.isnan(low) and not math.isnan(high):
        text += f" [{low:.4g}, {high:.4g}]"
    if not math.isnan(null):
        text += f", null {null:.4g}"
    return text.replace("-", "−")
