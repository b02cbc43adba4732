"""The report as Markdown."""

import re
from collections.abc import Mapping

from experiments.reporting.document import Entry, Picture, Report, Table, number_notes


def render(report: Report, figures: str) -> str:
    """The Markdown of a report.

    Args:
      report: what to render.
      figures: folder of the PNG files, relative to where the Markdown will lie.
    """
    numbers = number_notes(report)
    blocks = [f"# {report.title}", "\n".join(f"- {name}: {_escape(value)}" for name, value in report.facts)]
    for section in report.sections:
        blocks.append(f"## {section.title}")
        blocks += [_escape(section.text)] * bool(section.text)
        blocks += [_table(table, numbers) for table in section.tables]
        blocks += [_picture(picture, figures) for picture in section.pictures]
    if numbers:
        notes = "\n".join(f"{number}. {_escape(note)}" for note, number in numbers.items())
        blocks.append(f"## Notes\n\n{notes}")
    return "\n\n".join(blocks) + "\n"


def _table(table: Table, numbers: Mapping[str, int]) -> str:
    lines = [
        _line([*table.head, *table.columns]),
        "|" + "---|" * len(table.head) + "---:|" * len(table.columns),
        *(_line([*row.head], [_entry(e, numbers) for e in row.entries]) for row in table.rows),
    ]
    notes = f"Notes: {', '.join(str(numbers[n]) for n in table.notes)}." if table.notes else ""
    parts = [f"### {table.title}", _escape(table.text), "\n".join(lines), notes]
    return "\n\n".join(part for part in parts if part)


def _line(head: list[str], entries: list[str] | None = None) -> str:
    return "| " + " | ".join([*map(_escape, head), *(entries or [])]) + " |"


def _entry(entry: Entry, numbers: Mapping[str, int]) -> str:
    refs = "".join(f"<sup>{numbers[n]}</sup>" for n in entry.notes)
    text = _escape(entry.text + entry.mark)
    if entry.mark == "*":
        text = f"**{_escape(entry.text)}**{_escape(entry.mark)}"
    return "<br>".join([text + refs, *map(_escape, entry.below)])


def _picture(picture: Picture, figures: str) -> str:
    return f"### {picture.title}\n\n![{_escape(picture.alt)}]({figures}/{picture.name}.png)"


def _escape(text: str) -> str:
    return re.sub(r"([\\`*_|<\[\]])", r"\\\1", text)
