"""The code blocks of the pages: `python docs/blocks.py [PAGE ...]` runs them and writes what they print into the pages.

A page is one program, in an empty folder: its `python` blocks one after another, behind those of first-steps.md, whose
names every page may use; its `sh` blocks where they stand. A `text` block holds what the block before it prints. A
comment `<!-- not run: REASON -->` above a block leaves it out. The tests run the same, and compare what is printed but
for figures.
"""

import contextlib
import io
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

DOCS = Path(__file__).resolve().parent
FIRST = DOCS / "first-steps.md"
_BLOCK = re.compile(
    r"^(?:<!-- not run: (?P<reason>(?:(?!-->).)+) -->\n)?```(?P<language>\w*)\n(?P<text>.*?)^```$", re.S | re.M
)


class Block(NamedTuple):
    """A code block: its language, its text, and why it is not run; and where its text stands in the page."""

    language: str
    text: str
    reason: str | None
    span: tuple[int, int]


def pages() -> list[Path]:
    """Every page with code."""
    return [page for page in sorted(DOCS.rglob("*.md")) if "_build" not in page.parts and blocks(page)]


def blocks(page: Path) -> list[Block]:
    """The code blocks of a page."""
    text = page.read_text(encoding="utf-8")
    return [Block(m["language"], m["text"], m["reason"], m.span("text")) for m in _BLOCK.finditer(text)]


def run(page: Path, names: dict[str, Any], *, commands: bool = True) -> Iterator[tuple[Block, str]]:
    """Runs a page in the current folder.

    Args:
      page: the page.
      names: what Python blocks know; changed. For every page but the first it is what `first()` returns.
      commands: whether `sh` blocks are run as well.

    Yields:
      Each block that was run, and what it printed.

    Raises:
      subprocess.CalledProcessError: a command ends with another code than 0.
    """
    for block in blocks(page):
        if block.reason is None and block.language == "python":
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                exec(compile(block.text, page.name, "exec"), names)
            yield block, printed.getvalue()
        elif block.reason is None and block.language == "sh" and commands:
            yield block, command(block.text)


def prepare(work: Path, cache: str | Path) -> None:
    """Makes an empty folder one that pages can be run in: a checkout's scripts, and shared compiled programs."""
    for name in ("experiments", "examples"):
        (work / name).symlink_to(DOCS.parent / name)
    (work / "cache").symlink_to(cache)


def first() -> dict[str, Any]:
    """What the Python blocks of first-steps.md leave."""
    names: dict[str, Any] = {}
    for _ in run(FIRST, names, commands=False):
        pass
    return names


def command(text: str) -> str:
    """What a block prints behind the first empty line: its table, without times and progress. Else all of it."""
    where = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "COLUMNS": "110"}
    done = subprocess.run(["sh", "-ec", text], env=where, capture_output=True, text=True)
    if done.returncode:
        raise subprocess.CalledProcessError(done.returncode, text, done.stdout, done.stderr)
    before, _, behind = done.stdout.partition("\n\n")
    table = (behind or before).strip("\n")
    return "".join(f"{line.rstrip()}\n" for line in table.splitlines())


def write(page: Path, names: dict[str, Any]) -> None:
    """Puts what the blocks print into the `text` blocks behind them."""
    found = {block.span: printed for block, printed in run(page, names)}
    text, printed = page.read_text(encoding="utf-8"), ""
    for block in reversed(blocks(page)):
        if block.language == "text" and block.reason is None:
            before = [span for span in found if span < block.span][-1]
            printed = found[before]
            text = text[: block.span[0]] + printed + text[block.span[1] :]
    page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    wanted = [Path(name).resolve() for name in sys.argv[1:]] or pages()
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        left = first()
        for page in wanted:
            work = Path(folder, str(page.relative_to(DOCS)).replace("/", "-"))
            work.mkdir()
            prepare(work, folder)
            with contextlib.chdir(work):
                write(page, {} if page == FIRST else dict(left))
            print(page, flush=True)
