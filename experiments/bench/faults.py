"""Tries what a user can mistype and what a machine can fail at, and counts tracebacks and files that are left over.

`python experiments/bench/faults.py` prints a line for each kind of fault. Every command must end by itself, in one line
on stderr where it fails, with exit code 0 (done), 1 (the machine), 2 (the user) or 130 (interrupted); and the same
command afterwards must end with the results of an undisturbed run, with nothing half written beside them.
"""

import dataclasses
import errno
import importlib
import itertools
import json
import os
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")  # compiling takes most of the time

import tyro  # noqa: E402
from rich import box  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

from experiments import estimate, process  # noqa: E402
from experiments.bench import odd  # noqa: E402

_EVENTS = ("write", "read", "os.mkdir", "os.rename", "fcntl.flock")
_ERRORS = ("ENOSPC", "EROFS", "EIO", "EACCES", "EDQUOT", "ENOLCK")
_SPEECH = re.compile(r"^(error|warning): |^[│╭╰]|^$")  # ours, and tyro's boxes
_SHOWN = 300  # letters of a line
Prepare = Callable[[], object]
"""What a child does first."""


@dataclasses.dataclass(frozen=True)
class Options:
    """Tries faults and prints what came of them."""

    flags: int = 400
    """Command lines with an odd flag, drawn from all of them."""
    faults: int = 40
    """Runs in which the machine fails from some moment on."""
    signals: int = 20
    """Runs that get SIGINT, and as many that get SIGTERM."""
    kills: int = 30
    """Runs that get SIGKILL."""
    fresh: int = 5
    """How many of each kind have an interpreter of their own."""
    seed: int = 0
    """Of everything that is drawn."""


class Outcome(NamedTuple):
    """How an attempt ended: its exit code (minus the signal that ended it), what it said on stderr, its seconds."""

    code: int
    said: str
    seconds: float


def attempt(
    name: str,
    argv: Sequence[str],
    *,
    seconds: float = 300,
    stop: signal.Signals = signal.SIGKILL,
    prepare: Prepare | None = None,
    fresh: bool = False,
) -> Outcome:
    """Runs a command.

    Args:
      name: of the command.
      argv: its flags.
      seconds: after which it gets a signal.
      stop: the signal.
      prepare: what the child does first; not with `fresh`.
      fresh: in an interpreter of its own; else in a fork of this process, which has imported all and started nothing.
    """
    with tempfile.TemporaryFile() as heard:
        begin = time.monotonic()
        if (child := os.fork()) == 0:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            os.dup2(heard.fileno(), 2)
            _child(name, list(argv), prepare, fresh)
        code = _wait(child, seconds, stop)
        heard.seek(0)
        return Outcome(code, heard.read().decode(errors="replace"), time.monotonic() - begin)


def _child(name: str, argv: list[str], prepare: Prepare | None, fresh: bool) -> None:
    try:
        if fresh:
            script = Path(__file__).resolve().parents[1] / f"{name}.py"
            os.execv(sys.executable, [sys.executable, str(script), *argv])
        process.begin()
        estimate.Estimate.add = lambda *_: None  # type: ignore[method-assign]  # the work itself is tried
        if prepare is not None:
            prepare()
        code = importlib.import_module(f"experiments.{name}").main(argv)
    except BaseException:
        traceback.print_exc()
        code = 70
    sys.stderr.flush()
    os._exit(code)  # what this process wants done at its end is not the child's to do


def _wait(child: int, seconds: float, stop: signal.Signals) -> int:
    """Waits for a process; after `seconds` it gets the signal, and SIGKILL where it does not heed that."""
    for patience, number in ((seconds, stop), (30.0, signal.SIGKILL), (30.0, signal.SIGKILL)):
        end = time.monotonic() + patience
        while time.monotonic() < end:
            pid, status = os.waitpid(child, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.01)
        os.kill(child, number)
    raise TimeoutError(f"process {child} does not end")


def accepted(*_: object) -> None:
    """Ends a command where its work would begin."""
    raise SystemExit(0)


def failing(event: str, name: str, nth: int, below: Path) -> Prepare:
    """Makes the nth operation of a kind below a folder fail, as the system would, and all those behind it."""
    number, count = getattr(errno, name), itertools.count(1)

    def hook(told: str, arguments: tuple[Any, ...]) -> None:
        if told == "open":
            flags = arguments[2] if isinstance(arguments[2], int) else 0
            told = "write" if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) else "read"
        lock = told == "fcntl.flock"  # is told of no path
        if told == event and (lock or str(arguments[0]).startswith(str(below))) and next(count) >= nth:
            raise OSError(number, os.strerror(number), None if lock else str(arguments[0]))

    return lambda: sys.addaudithook(hook)


def metrics(folder: Path) -> dict[str, object]:
    """The metrics of every result below a folder."""
    return {str(f.relative_to(folder)): json.loads(f.read_text())["metrics"] for f in folder.rglob("seed*.json")}


class Tally:
    """What came of the attempts, by kind."""

    def __init__(self) -> None:
        self.outcomes: dict[str, list[Outcome]] = {}
        self.left: Counter[str] = Counter()
        self.wrong = 0

    def add(self, kind: str, what: str, outcome: Outcome, allowed: Collection[int], *, left: int = 0) -> Outcome:
        """Counts an attempt, and prints it where it is wrong."""
        self.outcomes.setdefault(kind, []).append(outcome)
        self.left[kind] += left
        lines = outcome.said.splitlines()
        quiet = all(map(_SPEECH.search, lines)) and sum(line.startswith("error: ") for line in lines) <= 1
        if outcome.code not in allowed or not quiet or left:
            heard = "\n    ".join(line[:_SHOWN] for line in lines[:2] + lines[2:][-8:])
            print(f"{kind}: {what[:_SHOWN]}: code {outcome.code}, {left} left\n    {heard}", flush=True)
            self.wrong += 1
        return outcome

    def table(self) -> Table:
        """A line a kind."""
        table = Table("kind", "tried", "exit codes", "tracebacks", "leftovers", "seconds", box=box.SIMPLE_HEAD)
        for kind, outcomes in self.outcomes.items():
            codes = Counter(outcome.code for outcome in outcomes)
            shown = ", ".join(f"{code}: {count}" for code, count in sorted(codes.items()))
            traces = sum("Traceback" in outcome.said for outcome in outcomes)
            seconds = sum(outcome.seconds for outcome in outcomes)
            table.add_row(kind, str(len(outcomes)), shown, str(traces), str(self.left[kind]), f"{seconds:.0f}")
        return table


def main(options: Options) -> int:
    """Tries everything and prints the table; returns 1 where something is wrong."""
    draw, tally = random.Random(options.seed), Tally()
    with tempfile.TemporaryDirectory() as temporary:
        here, calm, rough = (Path(temporary, name) for name in ("here", "calm", "rough"))
        here.mkdir()
        os.chdir(here)  # where relative names end up
        stop_before_work: Prepare = lambda: setattr(estimate.Estimate, "add", accepted)  # noqa: E731
        for number, (name, argv) in enumerate(draw.sample([*odd.command_lines(here)], options.flags)):
            what = f"{name} {argv[-1]}"
            tally.add("odd flag", what, attempt(name, argv, seconds=60, prepare=stop_before_work), (0, 1, 2))
            if number < options.fresh:
                tally.add("odd flag, fresh", what, attempt(name, [*argv, "--help"], fresh=True), (0, 1, 2))

        def tiny(where: Path) -> list[str]:
            return [
                *odd.TINY,
                f"--out={where / 'o'}",
                f"--checkpoint_dir={where / 'c'}",
                f"--cache_dir={temporary}/cache",
            ]

        tally.add("undisturbed", "cold", attempt("run", tiny(calm)), (0,))
        expected = metrics(calm / "o")
        warm = tally.add("undisturbed", "warm", attempt("run", tiny(rough)), (0,))
        shutil.rmtree(rough)

        def finish(kind: str) -> None:
            outcome = attempt("run", tiny(rough))
            codes = (0,) if metrics(rough / "o") == expected else ()
            tally.add(f"after {kind}", "the same command", outcome, codes, left=len([*rough.rglob("*partial*")]))
            shutil.rmtree(rough)

        every = [*itertools.product(_EVENTS, _ERRORS), *[("size", "EFBIG")] * len(_ERRORS)]
        for event, name in draw.choices(every, k=options.faults):
            nth = draw.randint(1, 6)
            too_large = 2_000 * nth  # also for C++
            prepare = failing(event, name, nth, rough)
            if event == "size":
                prepare = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (too_large, too_large))  # noqa: E731, B023
            outcome = attempt("run", tiny(rough), prepare=prepare)
            tally.add(f"{event} fails", f"{name}, from {event} {nth} on", outcome, (0, 1))
            finish("a fault")
        counts = {"SIGINT": options.signals, "SIGTERM": options.signals, "SIGKILL": options.kills}
        for kind, count in counts.items():
            code = -9 if kind == "SIGKILL" else process.INTERRUPTED
            for number in range(count):
                moment = draw.uniform(0.1, 1.0) * warm.seconds
                fresh, stop = number < options.fresh, signal.Signals[kind]
                outcome = attempt("run", tiny(rough), seconds=moment + fresh, stop=stop, fresh=fresh)
                tally.add(kind, f"after {moment:.1f} s", outcome, (0, code))
                if outcome.code == 0 or number % 5 == 4 or number == count - 1:
                    finish(kind)
        os.chdir("/")
    Console(width=100).print(tally.table())
    return 1 if tally.wrong else 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options)))
