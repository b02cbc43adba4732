"""Flags from a dataclass, without JAX: what every command line shares."""

import contextlib
import io
import re
from typing import TypeVar

import tyro

T = TypeVar("T")


class UsageError(ValueError):
    """Something the user must change; the message is one line."""


def parse(argv: list[str], default: T, prog: str) -> T:
    """Reads flags into a dataclass with tyro, whose boxed messages are folded into one line.

    Args:
      argv: arguments.
      default: a dataclass; its fields are the flags and their defaults.
      prog: the command that --help names.

    Raises:
      UsageError: an unknown flag or value, in one line.
      SystemExit: with code 0, after --help.
    """
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed):
            return tyro.cli(type(default), args=argv, default=default, prog=prog)
    except SystemExit as stop:
        if not stop.code:
            raise
    raise UsageError(_one_line(printed.getvalue()))


def _one_line(boxed: str) -> str:
    """The message inside tyro's box, without its title and its help text."""
    line = " ".join(re.sub(r"[\u2500-\u257f]", " ", boxed).split())
    line = re.sub(r" ?(Argument helptext:|For full helptext|Similar options).*", "", line)
    line = re.sub(r"^(Value error|Invalid choice|Parsing error|Missing argument) ", "", line)
    return line if "allowed" in line or "Expected" in line else f"{line}; allowed: what --help lists"
