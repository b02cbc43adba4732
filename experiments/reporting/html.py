"""The report as one self-contained HTML page: tables that scroll on a phone, drawings inline, light and dark."""

import html
import re
from collections.abc import Mapping

from experiments.reporting.document import Entry, Picture, Report, Section, Table, number_notes

_STYLE = """
:root { color-scheme: light dark; --page: #fff; --text: #1c1c1c; --soft: #595959; --line: #d5d5d5; --band: #f4f4f2;
  --link: #00528a; }
@media (prefers-color-scheme: dark) { :root { --page: #16181b; --text: #e6e6e6; --soft: #a9a9a9; --line: #3c4045;
  --band: #202327; --link: #7cc0f5; } }
body { margin: 0 auto; padding: 1rem; max-width: 72rem; background: var(--page); color: var(--text);
  font: 1rem/1.5 system-ui, sans-serif; -webkit-text-size-adjust: 100%; text-size-adjust: 100%; }
h1 { font-size: 1.6rem; line-height: 1.2; } h2 { margin-top: 2.5rem; border-bottom: 1px solid var(--line); }
h3 { margin: 1.8rem 0 .5rem; font-size: 1.05rem; } p, .facts, nav, .notes { max-width: 46rem; }
a { color: var(--link); } sup { line-height: 0; }
.facts { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; }
.facts dt { color: var(--soft); } .facts dd { margin: 0; overflow-wrap: anywhere; }
nav ul { padding-left: 1.2rem; } nav li { margin: .2rem 0; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--soft); padding-bottom: .3rem; }
th, td { padding: .3rem .6rem; border-bottom: 1px solid var(--line); text-align: right; vertical-align: top;
  white-space: nowrap; }
thead th { background: var(--band); border-bottom: 2px solid var(--line); vertical-align: bottom; }
th:first-child { position: sticky; left: 0; background: var(--band); text-align: left; }
th .rest { display: block; font-weight: normal; color: var(--soft); }
td small { display: block; color: var(--soft); line-height: 1.35; font-size: .78rem; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 28rem), 1fr)); gap: 1rem; }
.figures > section { min-width: 0; } figure { margin: 0; } figure svg { display: block; width: 100%; min-width: 20rem;
  max-width: 38rem; }
.notes li { margin: .4rem 0; } :target { scroll-margin-top: 1rem; } li:target { background: var(--band); }
@media print { .scroll { overflow: visible; } }
"""


def render(report: Report) -> str:
    """The page of a report; it refers to nothing outside itself."""
    numbers = number_notes(report)
    title = html.escape(report.title)
    parts = [
        "<!doctype html>",
        '<html lang="en-GB">',
        "<head>",
        '<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{title}</title>",
        f"<style>{_STYLE}</style>",
        "</head>",
        "<body>",
        f"<header><h1>{title}</h1>",
        '<dl class="facts">',
        *(f"<dt>{html.escape(name)}</dt><dd>{_text(value)}</dd>" for name, value in report.facts),
        "</dl></header>",
        _contents(report, bool(numbers)),
        "<main>",
        *(_section(section, numbers) for section in report.sections),
        _notes(numbers),
        "</main>",
        "</body>",
        "</html>",
    ]
    return "\n".join(part for part in parts if part) + "\n"


def _contents(report: Report, notes: bool) -> str:
    entries = []
    for section in report.sections:
        inner = "".join(f"<li>{_link(table.anchor, table.title)}</li>" for table in section.tables)
        entries.append(f"<li>{_link(section.anchor, section.title)}{f'<ul>{inner}</ul>' if inner else ''}</li>")
    if notes:
        entries.append(f"<li>{_link('notes', 'Notes')}</li>")
    return f'<nav aria-labelledby="contents"><h2 id="contents">Contents</h2><ul>{"".join(entries)}</ul></nav>'


def _link(anchor: str, title: str) -> str:
    return f'<a href="#{anchor}">{_text(title)}</a>'


def _section(section: Section, numbers: Mapping[str, int]) -> str:
    parts = [f'<section aria-labelledby="{section.anchor}"><h2 id="{section.anchor}">{_text(section.title)}</h2>']
    parts += [f"<p>{_text(section.text)}</p>"] * bool(section.text)
    parts += [_table(table, numbers) for table in section.tables]
    if section.pictures:
        parts += ['<div class="figures">', *map(_picture, section.pictures), "</div>"]
    return "\n".join([*parts, "</section>"])


def _table(table: Table, numbers: Mapping[str, int]) -> str:
    refs = f" {_refs(table.notes, numbers)}" if table.notes else ""
    heads = "".join(f'<th scope="col">{_text(column)}</th>' for column in table.columns)
    rows = "\n".join(
        f'<tr><th scope="row">{_head(row.head)}</th>{"".join(_entry(e, numbers) for e in row.entries)}</tr>'
        for row in table.rows
    )
    return (
        f'<h3 id="{table.anchor}">{_text(table.title)}{refs}</h3>\n'
        f'<div class="scroll" tabindex="0" role="region" aria-labelledby="{table.anchor}"><table>\n'
        f'<thead><tr><th scope="col">{_head(table.head)}</th>{heads}</tr></thead>\n'
        f"<tbody>\n{rows}\n</tbody></table></div>" + (f"\n<p>{_text(table.text)}</p>" if table.text else "")
    )


def _head(head: tuple[str, ...]) -> str:
    first, *rest = map(_text, head)
    return first + (f' <span class="rest">{", ".join(rest)}</span>' if rest else "")


def _entry(entry: Entry, numbers: Mapping[str, int]) -> str:
    text = _text(entry.text)
    best = f"<strong>{text}</strong>" if entry.mark == "*" else text
    below = "".join(f" <small>{_text(line)}</small>" for line in entry.below)
    return f"<td>{best}{entry.mark}{_refs(entry.notes, numbers)}{below}</td>"


def _refs(notes: tuple[str, ...], numbers: Mapping[str, int]) -> str:
    links = ", ".join(f'<a href="#note{numbers[n]}" aria-label="note {numbers[n]}">{numbers[n]}</a>' for n in notes)
    return f"<sup>{links}</sup>" if links else ""


def _picture(picture: Picture) -> str:
    return (
        f'<section aria-labelledby="{picture.name}"><h3 id="{picture.name}">{_text(picture.title)}</h3>\n'
        f'<div class="scroll" tabindex="0" role="region" aria-labelledby="{picture.name}">'
        f'<figure role="img" aria-label="{html.escape(picture.alt)}">{picture.svg}</figure></div></section>'
    )


def _notes(numbers: Mapping[str, int]) -> str:
    if not numbers:
        return ""
    items = "\n".join(f'<li id="note{number}">{_text(note)}</li>' for note, number in numbers.items())
    return f'<section aria-labelledby="notes"><h2 id="notes">Notes</h2>\n<ol class="notes">\n{items}\n</ol></section>'


def _text(text: str) -> str:
    """Escaped, with the indices of metrics as such."""
    return re.sub(r"\b([RFT])_(tr|ts|s)\b", r"\1<sub>\2</sub>", html.escape(text))
