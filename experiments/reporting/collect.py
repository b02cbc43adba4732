"""Result files read, and the figures that they hold in one frame."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from experiments import paper, store
from experiments.store import Json, Result, Settings

METRICS = ("R_tr", "F_tr", "T_s", "R_ts", "F_ts", "M")
"""Order of the metrics in tables; others follow, and then the seconds."""

_DATASETS = ("digit", "fashion", "c10", "c100", "tiny")  # order in tables; others follow


class Job(NamedTuple):
    """What a result file is about.

    Where a part of the data set was used, or another model than the paper's, `dataset` says so: `digit (limit 400)`,
    `c10 (small ResNet-18)`. Classes that have names follow the task: `class3 (Dress)`.
    """

    dataset: str
    task: str
    method: str
    seed: int


class Found(NamedTuple):
    """What a folder of results holds, in the order of the tables, and why each damaged file was left out."""

    results: dict[Job, Result]
    relearned: dict[Job, Result]
    damaged: list[str]


class Summary(NamedTuple):
    """A figure over the seeds: mean, sample standard deviation (NaN for one seed), and what must be said of it.

    An infinite mean is that of a method that failed with one of the seeds.
    """

    mean: float
    spread: float
    note: str = ""

    def __str__(self) -> str:
        if not math.isfinite(self.mean):
            return "failed"
        return decimals(self.mean) + ("" if math.isnan(self.spread) else f" ± {decimals(self.spread)}")


Rows = Mapping[tuple[str, str, str], Mapping[str, Summary]]
"""Of each data set, task and metric, which make a row of a table, the figure of every method."""


def load(out: Path) -> Found:
    """Reads every result file of a folder."""
    results: dict[Job, Result] = {}
    relearned: dict[Job, Result] = {}
    damaged: list[str] = []
    for file in sorted(out.glob("*/*/*/*seed*.json")):
        kind, _, seed = file.stem.rpartition("seed")
        if kind not in ("", "relearn-") or not seed.isdecimal():
            continue
        try:
            result = store.read(file)
            if result is None:
                continue
            if kind and not _is_curve(result.get("curve")):
                raise store.DamagedResult(f"{file} holds no curve")
        except (store.DamagedResult, OSError) as error:
            damaged.append(str(error))
            continue
        folder, task, method = file.parts[-4:-1]
        dataset = _dataset(folder, result["settings"])
        if isinstance(names := result["settings"].get("classes"), list) and names:
            task += f" ({', '.join(map(str, names))})"
        job = Job(printable(dataset), printable(task), printable(method.replace("-", ":", 1)), int(seed))
        (relearned if kind else results)[job] = result
    return Found(dict(sorted(results.items(), key=_place)), dict(sorted(relearned.items(), key=_place)), damaged)


def _dataset(folder: str, settings: Settings) -> str:
    """The data set, and in brackets what the paper did otherwise."""
    model = settings.get("model")
    used = [store.model_name(model)] if isinstance(model, dict) else []
    used += [f"{name} {settings[name]}" for name in ("limit", "validation") if settings.get(name)]
    said = ", ".join(filter(None, used))
    return f"{folder.removesuffix('-small')} ({said})" if said else folder


def in_paper(dataset: str) -> str:
    """The data set of the paper whose figures stand beside those of a `Job.dataset`; the small model has the same."""
    return dataset.removesuffix(f" ({store.SMALL})")


def _is_curve(curve: Json) -> bool:
    """Whether it is a list of accuracies in percent, each of the same ones."""
    if not isinstance(curve, list) or not curve or not all(isinstance(point, dict) for point in curve):
        return False
    names = curve[0].keys()
    paired = {"R_tr", "F_tr"} <= names and ("F_ts" in names) == ("R_ts" in names)
    return paired and all(point.keys() == names and all(map(is_percent, point.values())) for point in curve)


def _place(entry: tuple[Job, Result]) -> tuple[int | str | bool, ...]:
    job, _ = entry
    dataset, method = rank(job.dataset.partition(" ")[0], _DATASETS), rank(job.method, list(paper.METHOD_NAMES))
    return (*dataset, job.dataset, not job.task.startswith("data"), job.task, *method, job.seed)


def rank(name: str, known: Sequence[str]) -> tuple[int, str]:
    """Sorts known names in their order, and others behind them."""
    return (known.index(name) if name in known else len(known), name)


def printable(text: str) -> str:
    """The text in one line that every file format and screen can hold."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in " ".join(text.split()))


def number(value: Json) -> float:
    """A number of a file; infinity for what is no number, not finite, or absurd. Never NaN, which pandas skips."""
    return float(value) if isinstance(value, int | float) and abs(value) < 1e100 else math.inf


def is_percent(value: Json) -> bool:
    """Whether it is a number from 0 to 100."""
    return 0 <= number(value) <= 100


def decimals(value: float) -> str:
    """A number with two decimals; very large ones shorter."""
    return f"{value:.2f}" if abs(value) < 1e6 else f"{value:.3g}"


def frame(results: Mapping[Job, Result]) -> pd.DataFrame:
    """A row for each figure: `dataset`, `task`, `method`, `seed`, `metric` and `value`; the seconds are a metric.

    Figures of a model that failed are infinite. Seconds on cores that other work shared are left out.
    """
    rows = []
    for job, result in results.items():
        figures = {**result["metrics"]} | ({} if result.get("shared") else {"seconds": result["seconds"]})
        for metric in sorted(figures, key=lambda name: rank(name, (*METRICS, "seconds"))):
            rows.append((*job, printable(metric), math.inf if "failed" in result else figures[metric]))
    return pd.DataFrame(rows, columns=[*Job._fields, "metric", "value"]).astype({"value": float})


def summarize(figures: pd.DataFrame, notes: Mapping[tuple[str, str, str], str]) -> Rows:
    """Means and standard deviations over the seeds.

    Args:
      figures: with the columns of `frame`, but for the seed.
      notes: on all figures of a data set, task and method.
    """
    rows: dict[tuple[str, str, str], dict[str, Summary]] = {}
    groups = figures.groupby(["dataset", "task", "metric", "method"], sort=False)["value"].agg(["mean", "std"])
    for (dataset, task, metric, method), mean, spread in groups.itertuples():
        summary = Summary(mean, spread, notes.get((dataset, task, method), ""))
        rows.setdefault((dataset, task, metric), {})[method] = summary
    return rows


def remarks(results: Mapping[Job, Result]) -> dict[tuple[str, str, str], str]:
    """What must be said of each data set, task and method: a model that failed, or seeds with different settings."""
    notes = mixed_settings(results)
    for job, result in results.items():
        if "failed" in result:
            said = printable(f"With seed {job.seed} the method failed: {result['failed']}.")
            notes[job[:3]] = f"{notes[job[:3]]} {said}" if job[:3] in notes else said
    return notes


def mixed_settings(results: Mapping[Job, Result]) -> dict[tuple[str, str, str], str]:
    """A note on each data set, task and method whose seeds have different settings."""
    first: dict[tuple[str, str, str], tuple[int, Settings]] = {}
    notes: dict[tuple[str, str, str], str] = {}
    for job, result in results.items():
        settings = {name: value for name, value in result["settings"].items() if name != "seed"}
        if isinstance(original := settings.get("original"), dict):
            settings["original"] = {name: value for name, value in original.items() if name != "seed"}
        seed, reference = first.setdefault(job[:3], (job.seed, settings))
        if found := store.difference(reference, settings):
            differs = printable(f"seed {seed} against seed {job.seed}: {found}")
            notes.setdefault(job[:3], f"The seeds of this entry were made with different settings ({differs}).")
    return notes


def audits(result: Result) -> dict[str, dict[str, Json]]:
    """The audits of a result by name."""
    found = result.get("audits")
    return {name: audit for name, audit in found.items() if isinstance(audit, dict)} if isinstance(found, dict) else {}
