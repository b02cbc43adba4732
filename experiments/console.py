"""What the user types and sees: flags, messages, progress bars, exit codes. Needs no JAX."""

from __future__ import annotations

import contextlib
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from experiments import UsageError, process
from experiments.command import NAME

if TYPE_CHECKING:
    from camu_jax import loop

T = TypeVar("T")
console = Console(soft_wrap=True, highlight=False)
_stderr = Console(stderr=True, soft_wrap=True, highlight=False)


def silence() -> None:
    """Prints nothing from now on: another process does."""
    console.quiet = _stderr.quiet = True


def say(text: str) -> None:
    """Prints a line."""
    console.print(text, markup=False)


def warn(text: str) -> None:
    """Prints a warning to stderr, in one line."""
    _stderr.print(f"warning: {' '.join(text.split())}", style="yellow", markup=False)


def fail(text: str) -> None:
    """Prints an error to stderr, in one line; the exit code says it too where stderr takes nothing."""
    with contextlib.suppress(OSError):
        _stderr.print(f"error: {' '.join(text.split())}", style="bold red", markup=False)


METRICS = ("R_tr", "F_tr", "T_s", "R_ts", "F_ts", "M")
"""The paper's figures: accuracies, and the success rate of its membership attack."""


def metrics(values: dict[str, float]) -> str:
    """Metrics in one line, in the paper's order."""
    return "  ".join(f"{name} {values[name]:.2f}" for name in METRICS if name in values)


@contextlib.contextmanager
def progress_bar(label: str) -> Iterator[loop.Listener]:
    """A bar with steps, times and the losses; on a terminal only."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[losses]}"),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        bar = bars.add_task(label, total=None, losses="")
        shown = 0.0

        def listener(progress: loop.Progress) -> None:
            nonlocal shown
            now = time.monotonic()
            if now - shown < 0.25 and progress.step < progress.steps:
                return  # reading the losses waits for the device
            shown = now
            losses = "  ".join(f"{name} {float(value):.4f}" for name, value in progress.metrics.items())
            bars.update(bar, completed=progress.step, total=progress.steps, losses=losses)

        yield listener if console.is_terminal else _silent


def _silent(progress: loop.Progress) -> None:
    del progress


def parse(argv: Sequence[str] | None, default: T, prog: str) -> T:
    """Reads flags into a dataclass. Wrong ones are named by tyro on stderr.

    Args:
      argv: arguments; None is the process's own.
      default: a dataclass; its fields are the flags and their defaults.
      prog: the command that --help names, where it is not `camu-jax`.

    Raises:
      SystemExit: with code 0 after --help, 2 after a wrong flag.
    """
    prog = os.environ.get(NAME, prog)
    return tyro.cli(type(default), args=sys.argv[1:] if argv is None else argv, default=default, prog=prog)


def command(script: Callable[[], int | None], *user_errors: type[Exception]) -> int:
    """Runs a script and turns what went wrong into one line and an exit code.

    Args:
      script: reads its command line and does its work; may return an exit code.
      user_errors: further exceptions that the user must do something about, beside `UsageError`.

    Returns:
      0 done (or what the script returned), 1 the machine failed (a full disk, no memory), 2 something the user must
      change, 130 interrupted.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TFDS may import TensorFlow, which talks
    wrong: tuple[type[Exception], ...] = (UsageError, *user_errors)
    try:
        with process.unwinding(), warnings.catch_warnings():
            warnings.showwarning = lambda message, *_, **__: warn(str(message))
            code = _code(script)
            if sys.stdout is not None:
                sys.stdout.flush()  # a full disk is told here, not by Python's last words
            return code
    except wrong as error:
        fail(str(error))
        return process.WRONG
    except BrokenPipeError:  # nobody reads any more, as with `| head`
        return process.FAULT
    except OSError as error:
        fail(_words(error))
        return process.FAULT
    except KeyboardInterrupt:
        fail(process.STOPPED)
        return process.INTERRUPTED
    except Exception as error:
        if not isinstance(error, _machine_errors()):
            raise
        fail(f"{type(error).__name__}: {str(error)[:_LONGEST]}")
        return process.FAULT


def _code(script: Callable[[], int | None]) -> int:
    try:
        return script() or process.DONE
    except SystemExit as stop:  # of tyro, or of rich where nobody reads any more
        return int(stop.code or process.DONE)


_LONGEST = 300  # letters of XLA's messages


def _words(error: OSError) -> str:
    """What the system says, and of which file."""
    what = error.strerror or str(error)
    return f"{error.filename}: {what}" if error.filename is not None else what


def _machine_errors() -> tuple[type[Exception], ...]:
    """What says that the machine cannot, beside OSError; JAX's only where it is in use."""
    jax = sys.modules.get("jax")
    return (MemoryError, jax.errors.JaxRuntimeError) if jax else (MemoryError,)
