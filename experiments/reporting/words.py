"""The words of the report: names, and the texts of `words.toml`."""

import tomllib
from pathlib import Path

from experiments import paper

_WORDS = tomllib.loads(Path(__file__).with_name("words.toml").read_text(encoding="utf-8"))

TEXTS: dict[str, str] = _WORDS["texts"]
"""What tables show and how to read them."""

TITLES: dict[int, str] = {int(table): words["title"] for table, words in _WORDS["tables"].items()}
"""What each of the paper's tables shows."""

NOTES: dict[int, list[str]] = {int(t): [_WORDS["notes"][n] for n in w["notes"]] for t, w in _WORDS["tables"].items()}
"""The footnotes of each of the paper's tables."""

DASH = "–"
"""Stands where nothing was run."""

_DATASETS = {"digit": "Digit", "fashion": "Fashion", "c10": "C10", "c100": "C100"}
_ARROWS = {"T_s": "T_s ↑", "R_ts": "R_ts ↑", "F_ts": "F_ts ↓"}


def method_name(method: str) -> str:
    """A method as the paper calls it."""
    return paper.METHOD_NAMES.get(method, method)


def metric_name(metric: str) -> str:
    """A metric as the paper heads it."""
    return _ARROWS.get(metric, metric)


def data_name(dataset: str) -> str:
    """A data set as the paper calls it; what stands behind it in brackets stays."""
    name, space, part = dataset.partition(" ")
    return _DATASETS.get(name, name) + space + part


def task_name(task: str) -> str:
    """A task in words: `data10` is `10% data`, `class0` is `class 0`."""
    if task.startswith("data") and task[4:].isdecimal():
        return f"{task[4:]}% data"
    if task.startswith("class") and task[5:6].isdecimal():
        return f"class {task[5:]}"
    return task
