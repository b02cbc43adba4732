"""Processes of reproduce.py that work side by side, and one display of what they have made. Starts no JAX."""

import contextlib
import dataclasses
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from rich.live import Live

from experiments import console, machine, process, store

SCRIPT = Path(__file__).with_name("reproduce.py")
_EVERY = 2.0  # seconds between two looks at the files
_QUIET = 60.0  # seconds between two lines where no terminal shows the display


@dataclasses.dataclass(frozen=True)
class Goal:
    """A result file, and the audits that belong in it."""

    path: Path
    audits: tuple[str, ...] = ()

    @property
    def kind(self) -> tuple[str, ...]:
        """Data set, method and kind of file: what takes about as long."""
        return self.path.parts[-4], self.path.parts[-2], self.path.stem.rpartition("seed")[0]

    @property
    def error(self) -> Path:
        """Where it is noted that making the file failed."""
        return self.path.with_suffix(".error.txt")


@dataclasses.dataclass
class Count:
    """What has become of the goals; `seconds` is the work in each finished one by its path."""

    done: int = 0
    failed: int = 0
    left: list[Goal] = dataclasses.field(default_factory=list)
    seconds: dict[Path, float] = dataclasses.field(default_factory=dict)


class Board:
    """Counts goals from their files, and reads no file twice that has not changed."""

    def __init__(self, goals: Sequence[Goal]) -> None:
        self.goals = list(dict.fromkeys(goals))
        self.known: dict[Path, tuple[int, store.Result | None]] = {}
        self.start = time.time()
        self.before = set(self.count().seconds)

    def count(self) -> Count:
        """Looks at the files."""
        found = Count()
        for goal in self.goals:
            result = self._read(goal.path)
            whole = result is not None and ("failed" in result or not {*goal.audits} - {*result.get("audits", {})})
            if result is not None and whole:
                found.seconds[goal.path] = work(result)
                found.failed += "failed" in result
                found.done += "failed" not in result
            elif self._failed(goal.error):
                found.failed += 1
            else:
                found.left.append(goal)
        return found

    def time_left(self, count: Count, now: float) -> float | None:
        """Seconds until all is made, at the rate of work since the start; None before anything was made.

        What is left takes as long as what was made of the same data set and method, else as long as the average.
        """
        made = {path: seconds for path, seconds in count.seconds.items() if path not in self.before}
        if not sum(made.values()) or now <= self.start:
            return None
        of_kind: dict[tuple[str, ...], list[float]] = {}
        for goal in self.goals:
            if goal.path in count.seconds:
                of_kind.setdefault(goal.kind, []).append(count.seconds[goal.path])
        average = sum(count.seconds.values()) / len(count.seconds)
        expected = sum(_mean(of_kind.get(goal.kind, [average])) for goal in count.left)
        return expected / (sum(made.values()) / (now - self.start))

    def _read(self, path: Path) -> store.Result | None:
        try:
            changed = path.stat().st_mtime_ns
        except OSError:
            return None
        if self.known.get(path, (0, None))[0] != changed:
            try:
                self.known[path] = changed, store.read(path)
            except (store.DamagedResult, OSError):  # the worker that comes to it sets it aside
                return None
        return self.known[path][1]

    def _failed(self, error: Path) -> bool:
        """Whether making it has failed since the start; an older note is of an earlier command."""
        try:
            return error.stat().st_mtime >= self.start
        except OSError:
            return False


def work(result: store.Result) -> float:
    """The seconds that are written down in a result, its audits' included."""
    audits = result.get("audits", {}).values()
    parts = [result, *(audit for audit in audits if isinstance(audit, dict))]
    return float(sum(part.get(name, 0.0) for part in parts for name in ("seconds", "compile_seconds")))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def watch(board: Board, running: Callable[[], str | None]) -> Count:
    """Shows one line of what is done, running and failed, until nothing runs any more.

    Args:
      board: the goals.
      running: what runs, in words; None when it has come to its end.

    Returns:
      What was made in the end.
    """
    shown = 0.0
    live = Live(console=console.console, transient=True, auto_refresh=False)
    with live if console.console.is_terminal else contextlib.nullcontext():
        while (words := running()) is not None:
            count, now = board.count(), time.time()
            line = _line(board, count, words, now)
            if console.console.is_terminal:
                live.update(line, refresh=True)
            elif now - shown >= _QUIET:
                console.say(line)
                shown = now
            time.sleep(_EVERY)
    count = board.count()
    console.say(_line(board, count, "", time.time()))
    return count


def _line(board: Board, count: Count, running: str, now: float) -> str:
    parts = [
        f"{count.done} of {len(board.goals)} results done",
        *([running] if running else []),
        f"{count.failed} failed",
    ]
    if running and (left := board.time_left(count, now)) is not None:
        parts.append(f"about {machine.words(left)} left")
    return ", ".join(parts)


def command(argv: Sequence[str], number: int, count: int) -> list[str]:
    """The command of one worker of several, from the flags of the command that starts them; the last flag counts."""
    own = ["--no-announce", "--workers=1", "--no-slurm", f"--worker={number}/{count}"]
    return [sys.executable, str(SCRIPT), *argv, *own]


def verdict(count: Count, codes: Sequence[int], logs: Sequence[Path]) -> int:
    """Says what went wrong, each thing once, and returns the exit code of the whole.

    Args:
      count: what was made.
      codes: of the workers; negative is the number of a signal.
      logs: what they have said.

    Returns:
      0 done, 1 something failed or is missing, 2 where every worker says that something must be changed.
    """
    told = dict.fromkeys(line for log in logs for line in _errors(log))
    for line in told:
        console.fail(line)
    for code, log in zip(codes, logs):
        if code not in (process.DONE, process.FAULT, process.WRONG):
            console.fail(f"a worker ended with {f'signal {-code}' if code < 0 else f'code {code}'}; see {log}")
    if codes and all(code == process.WRONG for code in codes):
        return process.WRONG
    if count.left and not count.failed and not told:
        console.fail(f"{len(count.left)} results are missing; the same command goes on; see {logs[0].parent}")
    return process.FAULT if count.left or count.failed or any(codes) else process.DONE


def _errors(log: Path) -> Iterator[str]:
    with contextlib.suppress(OSError):
        for line in log.read_text(errors="replace").splitlines():
            if line.startswith("error: ") and line != f"error: {process.STOPPED}":
                yield line.removeprefix("error: ")


def cores() -> list[int]:
    """The numbers of the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))
