"""The report as one self-contained HTML page and as Markdown, both from templates."""

import base64
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import jinja2
import markupsafe

from experiments import store
from experiments.reporting.collect import Found, audits, frame, number, printable, remarks, summarize
from experiments.reporting.pictures import Picture, draw
from experiments.reporting.tables import Table, audit_tables, average_tables, camu_tables, further_tables, paper_tables
from experiments.reporting.words import TEXTS, data_name, method_name, task_name
from experiments.store import Json

PICTURES = "pictures"
"""Folder of the pictures, beside the reports."""


class Section(NamedTuple):
    """A part of the report under its own heading."""

    anchor: str
    title: str
    tables: Sequence[Table] = ()
    pictures: Sequence[Picture] = ()
    text: str = ""


def write(found: Found, target: Path) -> list[Path]:
    """Writes `report.md`, `report.html` and the pictures.

    Args:
      found: the results.
      target: the folder to write into.

    Returns:
      The two reports.

    Raises:
      OSError: the folder cannot be written.
    """
    figures = frame(found.results)
    rows = summarize(figures, remarks(found.results))
    sections = [
        Section("tables", "The paper's tables", paper_tables(rows), text=TEXTS["marks"]),
        Section("averages", "In short", [*camu_tables(rows), *average_tables(figures)]),
        Section("further", "Measured here, not in the paper", further_tables(rows)),
        Section("audits", "Audits", audit_tables(found.results)),
    ]
    for i, (title, drawn) in enumerate(draw(found, rows, target / PICTURES).items(), start=1):
        sections.append(Section(f"pictures{i}", title, pictures=drawn))
    sections = [section for section in sections if section.tables or section.pictures]
    notes: dict[str, int] = {}  # numbered from 1 in order of first use
    for table in (table for section in sections for table in section.tables):
        for note in (*table.notes, *(entry.note for row in table.rows for entry in row.entries if entry.note)):
            notes.setdefault(note, len(notes) + 1)
    written = []
    for name, escape in (("report.md", _markdown), ("report.html", _html)):
        environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
            autoescape=True,  # result files are foreign input, and `finalize` has escaped what is text
            finalize=escape,
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
            undefined=jinja2.StrictUndefined,
        )
        environment.filters["data_uri"] = _data_uri
        template = environment.get_template(f"{name}.jinja")
        text = template.render(facts=facts(found), sections=sections, notes=notes, folder=PICTURES)
        store.write_text(target / name, text)
        written.append(target / name)
    return written


def facts(found: Found) -> dict[str, str]:
    """The header of the report: what was run, on what, and how long it took."""
    jobs, results = [*found.results, *found.relearned], [*found.results.values(), *found.relearned.values()]
    audited = [audit for result in found.results.values() for audit in audits(result).values()]
    versions = [result.get("versions") for result in results]
    seconds = {
        "unlearning": _total(result["seconds"] for result in found.results.values()),
        "relearning": _total(result["seconds"] for result in found.relearned.values()),
        "audits": _total(audit.get("seconds") for audit in audited),
        "compilation": _total(result.get("compile_seconds") for result in results),
    }
    parts = ", ".join(f"{value:,.0f} s {name}" for name, value in seconds.items() if value)
    return {
        "Data sets": _each(data_name(job.dataset) for job in jobs),
        "Tasks": _each(task_name(job.task) for job in jobs),
        "Methods": _each(method_name(job.method) for job in jobs),
        "Seeds": ", ".join(map(str, sorted({job.seed for job in jobs}))),
        "Results": f"{len(results)} files",
        "Devices": _each((f"{r.get('device', 'unknown')} ({r.get('platform', '?')})" for r in results), "; "),
        "JAX": _each(str(v.get("jax", "unknown")) if isinstance(v, dict) else "unknown" for v in versions),
        "Git revisions": _each(_revision(result.get("git")) for result in results),
        "Time": f"{sum(seconds.values()):,.0f} s: {parts}",
    }


def _total(values: Iterable[Json]) -> float:
    return sum(value for value in map(number, values) if 0 <= value < 1e12)  # what a clock can show


def _each(texts: Iterable[str], separator: str = ", ") -> str:
    return separator.join(dict.fromkeys(map(printable, texts)))


def _revision(revision: Json) -> str:
    commit, plus, changes = str(revision or "unknown").partition("+")
    return commit[:10] + plus + changes


def _markdown(text: object) -> object:
    """Escapes what Markdown takes for its own signs or hands on to HTML, and what it would make a link of."""
    if isinstance(text, markupsafe.Markup):
        return text
    return markupsafe.Markup(re.sub(r"([\\`*_|<>\[\]#~&$@]|(?<=:)//|(?<=www)\.)", r"\\\1", str(text)))


def _html(text: object) -> object:
    """Escapes, and sets the indices of metrics as such."""
    if isinstance(text, markupsafe.Markup):
        return text
    return markupsafe.Markup(re.sub(r"\b([RFT])_(tr|ts|s)\b", r"\1<sub>\2</sub>", str(markupsafe.escape(text))))


def _data_uri(svg: Path) -> str:
    """A picture to put into a page, without a file beside it."""
    return "data:image/svg+xml;base64," + base64.b64encode(svg.read_bytes()).decode()
