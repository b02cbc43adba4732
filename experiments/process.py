"""How the process of a command begins, is interrupted and ends. Imports nothing that takes time."""

import atexit
import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn

DONE, FAULT, WRONG, INTERRUPTED = 0, 1, 2, 130
"""Exit codes: done; the machine failed; the user must change something; stopped by SIGINT or SIGTERM."""

STOPPED = "interrupted; the same command goes on where this one stopped"

_unwinding = [False]  # whether a signal ends the work first, as an exception, or the process at once


def begin() -> None:
    """Call before the imports that take seconds: signals, and files that are closed or cannot take every letter."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # or the next file that is opened takes its place, and is printed into
            os.open(os.devnull, os.O_RDWR)
    sys.stdout = sys.stdout or open(1, "w", closefd=False)
    sys.stderr = sys.stderr or open(2, "w", closefd=False)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # a path may be no UTF-8
    signal.signal(signal.SIGINT, _stop)
    signal.signal(signal.SIGTERM, _stop)
    sys.unraisablehook = _unraisable


@contextlib.contextmanager
def unwinding() -> Iterator[None]:
    """In this block the first SIGINT or SIGTERM raises KeyboardInterrupt; elsewhere it ends the process at once."""
    _unwinding[0] = True
    try:
        yield
    finally:
        _unwinding[0] = False


def end(code: int) -> NoReturn:
    """Ends the process without taking Python apart, which threads of XLA that still run do not survive."""
    if code not in (FAULT, INTERRUPTED):
        atexit._run_exitfuncs()  # other processes wait for JAX's goodbye
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # closed, or on a full disk
            stream.flush()
    os._exit(code)


def _stop(number: int, frame: FrameType | None) -> None:
    if _unwinding[0]:
        _unwinding[0] = False
        raise KeyboardInterrupt
    with contextlib.suppress(OSError):
        os.write(2, f"error: {STOPPED}\n".encode())
    os._exit(INTERRUPTED)


def _unraisable(lost: "sys.UnraisableHookArgs") -> None:
    """An interruption that nobody can catch, as in a callback, ends the process all the same."""
    if isinstance(lost.exc_value, KeyboardInterrupt):
        _stop(signal.SIGINT, None)
    sys.__unraisablehook__(lost)
