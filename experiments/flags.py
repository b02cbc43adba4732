"""Flags from a dataclass, and what every script's `main` does. Needs no JAX."""

import os
import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

import tyro

from experiments import console

T = TypeVar("T")


class UsageError(ValueError):
    """Something the user must change; the message is one line."""


def parse(argv: Sequence[str] | None, default: T, prog: str) -> T:
    """Reads flags into a dataclass. Wrong ones are named by tyro on stderr.

    Args:
      argv: arguments; None is the process's own.
      default: a dataclass; its fields are the flags and their defaults.
      prog: the command that --help names.

    Raises:
      SystemExit: with code 0 after --help, 2 after a wrong flag.
    """
    return tyro.cli(type(default), args=sys.argv[1:] if argv is None else argv, default=default, prog=prog)


def command(script: Callable[[], int | None], *user_errors: type[Exception]) -> int:
    """Runs a script and turns what went wrong into an exit code.

    Args:
      script: reads its command line and does its work; may return an exit code.
      user_errors: further exceptions that the user must do something about, beside `UsageError`.

    Returns:
      0 done (or what the script returned), 2 something the user must change (said in one line), 130 interrupted.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TFDS may import TensorFlow, which talks
    wrong: tuple[type[Exception], ...] = (UsageError, *user_errors)
    try:
        return script() or 0
    except SystemExit as stop:  # of tyro
        return int(stop.code or 0)
    except wrong as error:
        console.fail(str(error))
        return 2
    except KeyboardInterrupt:
        console.fail("interrupted; the same command goes on where this one stopped")
        return 130
