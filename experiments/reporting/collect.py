"""Result files read, and their figures gathered by cell."""

import statistics
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from experiments import paper, results

DATASETS = ("digit", "fashion", "c10", "c100", "tiny")
"""Order of the data sets in tables."""

METRICS = ("R_tr", "F_tr", "T_s", "R_ts", "F_ts", "M")
"""Order of the metrics in tables; others follow, and the seconds."""

CellKey = tuple[str, str, str]
"""Data set, task and method."""


class Run(NamedTuple):
    """A result file and where it belongs."""

    dataset: str
    task: str
    method: str
    seed: int
    result: results.Result

    @property
    def restricted(self) -> str:
        """Which part of the data set it used (`limit 400`), empty for all of it; the paper's figures need all."""
        settings = self.result["settings"]
        return ", ".join(f"{name} {settings[name]}" for name in ("limit", "validation") if settings.get(name))

    @property
    def data(self) -> str:
        """The data set, and in brackets the part of it where it was not used whole."""
        return f"{self.dataset} ({self.restricted})" if self.restricted else self.dataset


class Summary(NamedTuple):
    """A figure over the seeds of a cell."""

    mean: float
    spread: float | None  # sample standard deviation, None for one seed
    seeds: int

    @classmethod
    def of(cls, values: Iterable[float]) -> "Summary":
        """Mean and standard deviation of one or more values."""
        numbers = list(values)
        spread = statistics.stdev(numbers) if len(numbers) > 1 else None
        return cls(statistics.fmean(numbers), spread, len(numbers))

    def __str__(self) -> str:
        return f"{self.mean:.2f}" + (f" ± {self.spread:.2f}" if self.spread is not None else "")


class Found(NamedTuple):
    """What a folder of results holds."""

    runs: list[Run]
    relearned: list[Run]
    damaged: list[str]  # why each unreadable file was skipped


def load(out: Path) -> Found:
    """Reads every result file of a folder; damaged ones are skipped and named in `damaged`."""
    runs: list[Run] = []
    relearned: list[Run] = []
    damaged: list[str] = []
    for file in sorted(out.glob("*/*/*/*seed*.json")):
        kind, _, seed = file.stem.rpartition("seed")
        if not seed.isdecimal() or kind not in ("", "relearn-"):
            continue
        try:
            result = results.read(file)
            if result is None:
                continue
            if kind and not _is_curve(result.get("curve")):
                raise results.DamagedResult(f"{file} holds no curve")
        except results.DamagedResult as error:
            damaged.append(str(error))
            continue
        dataset, task, folder = file.parts[-4:-1]
        run = Run(dataset, task, folder.replace("-", ":", 1), int(seed), result)
        (relearned if kind else runs).append(run)
    return Found(sorted(runs, key=_order), sorted(relearned, key=_order), damaged)


def _is_curve(curve: Any) -> bool:
    """Whether it is a list of accuracies, each of the same ones."""
    if not isinstance(curve, list) or not curve or not all(isinstance(point, dict) for point in curve):
        return False
    names = curve[0].keys()
    paired = {"R_tr", "F_tr"} <= names and ("F_ts" in names) == ("R_ts" in names)
    numbers = all(isinstance(value, int | float) for point in curve for value in point.values())
    return paired and numbers and all(point.keys() == names for point in curve)


def _order(run: Run) -> tuple[Any, ...]:
    known = (*paper.METHOD_NAMES,)
    return (
        DATASETS.index(run.dataset) if run.dataset in DATASETS else len(DATASETS),
        run.data,
        not run.task.startswith("data"),
        run.task,
        known.index(run.method) if run.method in known else len(known),
        run.method,
        run.seed,
    )


def by_cell(runs: Iterable[Run]) -> dict[CellKey, list[Run]]:
    """The runs of each cell, `(data, task, method) -> a run a seed`, in the order of the tables."""
    cells: dict[CellKey, list[Run]] = {}
    for run in runs:
        cells.setdefault((run.data, run.task, run.method), []).append(run)
    return cells


def by_task(runs: Iterable[Run]) -> dict[tuple[str, str], dict[str, list[Run]]]:
    """The runs of each data set and task, by method."""
    tasks: dict[tuple[str, str], dict[str, list[Run]]] = {}
    for run in runs:
        tasks.setdefault((run.data, run.task), {}).setdefault(run.method, []).append(run)
    return tasks


def figures(runs: Iterable[Run]) -> dict[paper.Cell, Summary]:
    """Every metric and the seconds of each cell: `(data, task, method, metric) -> mean and deviation`."""
    gathered = {cell: _values(group) for cell, group in by_cell(runs).items()}
    return {
        (*cell, metric): Summary.of(values[metric])
        for cell, values in gathered.items()
        for metric in sorted(values, key=_metric_order)
    }


def _metric_order(metric: str) -> tuple[int, str]:
    return (METRICS.index(metric) if metric in METRICS else len(METRICS) + (metric == "seconds"), metric)


def _values(group: list[Run]) -> dict[str, list[float]]:
    values: dict[str, list[float]] = {}
    for run in group:
        for metric, value in (*run.result["metrics"].items(), ("seconds", run.result["seconds"])):
            values.setdefault(metric, []).append(float(value))
    return values


def mixed_settings(runs: Iterable[Run]) -> dict[CellKey, str]:
    """Cells whose seeds were made with different settings, and the first setting that differs."""
    mixed: dict[CellKey, str] = {}
    for cell, (first, *others) in by_cell(runs).items():
        for other in others:
            old, new = (_without_seeds(r.result["settings"]) for r in (first, other))
            if found := results.difference(old, new):
                mixed[cell] = f"seed {first.seed} against seed {other.seed}: {found}"
                break
    return mixed


def _without_seeds(settings: dict[str, Any]) -> dict[str, Any]:
    return {
        name: {k: v for k, v in value.items() if k != "seed"} if name == "original" else value
        for name, value in settings.items()
        if name != "seed"
    }


class Provenance(NamedTuple):
    """What was run, on what, and how long it took."""

    datasets: list[str]
    tasks: list[str]
    methods: list[str]
    seeds: list[int]
    devices: list[str]
    jax: list[str]
    revisions: list[str]
    files: int
    unlearning_seconds: float
    compile_seconds: float
    relearning_seconds: float
    audit_seconds: float


def provenance(found: Found) -> Provenance:
    """Gathers the header of the report; each list in order of appearance, without repeats."""
    runs, every = found.runs, [*found.runs, *found.relearned]
    audits = (audit for run in runs for _, audit in audits_of(run))
    return Provenance(
        datasets=_unique(r.data for r in every),
        tasks=_unique(r.task for r in every),
        methods=_unique(r.method for r in every),
        seeds=sorted({r.seed for r in every}),
        devices=_unique(f"{r.result.get('device', 'unknown')} ({r.result.get('platform', '?')})" for r in every),
        jax=_unique(str(_dict(r.result.get("versions")).get("jax", "unknown")) for r in every),
        revisions=_unique(_short(r.result.get("git")) for r in every),
        files=len(every),
        unlearning_seconds=sum(float(r.result["seconds"]) for r in runs),
        compile_seconds=sum(_number(r.result.get("compile_seconds")) for r in every),
        relearning_seconds=sum(float(r.result["seconds"]) for r in found.relearned),
        audit_seconds=sum(_number(audit.get("seconds")) for audit in audits),
    )


def audits_of(run: Run) -> Iterator[tuple[str, dict[str, Any]]]:
    """The audits of a run, name and entries."""
    for name, audit in _dict(run.result.get("audits")).items():
        if isinstance(audit, dict):
            yield name, audit


def _unique(words: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(words))


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


def _short(revision: Any) -> str:
    if not isinstance(revision, str):
        return "unknown"
    commit, plus, changes = revision.partition("+")
    return commit[:10] + plus + changes
