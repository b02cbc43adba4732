"""The report as data: what Markdown and HTML are both rendered from."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from experiments import paper

DASH = "–"
"""Stands where nothing was run."""

_DATASET_NAMES = {"digit": "Digit", "fashion": "Fashion", "c10": "C10", "c100": "C100"}


class Entry(NamedTuple):
    """A cell of a table."""

    text: str = DASH
    mark: str = ""  # "*" best, "†" second best
    below: tuple[str, ...] = ()  # smaller lines under the text
    notes: tuple[str, ...] = ()  # footnotes, in full


class Row(NamedTuple):
    """A row: what it is about, and its cells."""

    head: tuple[str, ...]
    entries: tuple[Entry, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
    """A table. `head` names the parts of `Row.head`; `columns` the cells after it."""

    anchor: str
    title: str
    head: tuple[str, ...]
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    text: str = ""
    notes: tuple[str, ...] = ()


class Picture(NamedTuple):
    """A figure: `name` is that of its files without the suffix, `svg` the drawing to put into a page."""

    name: str
    title: str
    alt: str
    svg: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Section:
    """A part of the report under its own heading."""

    anchor: str
    title: str
    text: str = ""
    tables: tuple[Table, ...] = ()
    pictures: tuple[Picture, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """The whole report; `facts` are the lines of its header, name and value."""

    title: str
    facts: tuple[tuple[str, str], ...]
    sections: tuple[Section, ...]


def number_notes(report: Report) -> dict[str, int]:
    """The number of each footnote, from 1, in order of first use."""
    return {note: i for i, note in enumerate(dict.fromkeys(_notes(report)), start=1)}


def _notes(report: Report) -> Iterator[str]:
    for section in report.sections:
        for table in section.tables:
            yield from table.notes
            for row in table.rows:
                for entry in row.entries:
                    yield from entry.notes


def method_name(method: str) -> str:
    """A method as the paper calls it."""
    return paper.METHOD_NAMES.get(method, method)


def data_name(data: str) -> str:
    """A data set as the paper calls it; what stands behind it in brackets stays."""
    name, space, rest = data.partition(" ")
    return _DATASET_NAMES.get(name, name) + space + rest


def task_name(task: str) -> str:
    """A task in words: `data10` is `10% data`, `class0` is `class 0`."""
    if task.startswith("data") and task[4:].isdecimal():
        return f"{task[4:]}% data"
    if task.startswith("class") and task[5:6].isdecimal():
        return f"class {task[5:]}"
    return task


def words(items: Sequence[str]) -> str:
    """Items with commas."""
    return ", ".join(items)
