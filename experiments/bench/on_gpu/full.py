"""The paper's jobs at full length through `run.py`, seeds side by side, in a child process that the clock ends."""

import dataclasses
import json
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from experiments import UsageError, console, process, store
from experiments.bench.on_gpu.pieces import Clock, Found, Piece, TimeIsUp, read

RUN = Path(__file__).resolve().parents[2] / "run.py"
_WHOLE = 0.8  # of a call's time: who had so much and did not end needs smaller programs
_GOODBYE = 30.0  # seconds that a child has to end after SIGTERM


@dataclasses.dataclass(frozen=True, kw_only=True)
class Jobs:
    """What is run. Folders are those of `run.py`."""

    datasets: tuple[str, ...]
    tasks: tuple[str, ...]
    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    side_by_side: int
    flags: tuple[str, ...]
    out: Path


def pieces(jobs: Jobs, clock: Clock, minutes: float) -> list[Piece]:
    """A piece for each data set, task and method: CaMU's figures come first, on every data set."""
    found = []
    for task in jobs.tasks:
        for method in jobs.methods:
            for dataset in jobs.datasets:
                name = f"run/{dataset}-{task}-{method.replace(':', '-')}"
                what = (dataset, task, method)
                found.append(Piece(name, lambda name=name, what=what: make(jobs, name, what, clock, minutes)))  # type: ignore[misc]
    return found


def command(jobs: Jobs, what: tuple[str, str, str], side_by_side: int) -> list[str]:
    """How `run.py` is called for a data set, a task and a method."""
    dataset, task, method = what
    words = [sys.executable, str(RUN), f"--dataset={dataset}", f"--task={task}", "--methods", method]
    words += ["--seeds", *map(str, jobs.seeds), f"--side_by_side={side_by_side}", "--keep_minutes=1"]
    words += [f"--out={jobs.out / 'results'}", "--no-keep_models", "--audit", "paper"]
    return [*words, *(f"--{flag}" for flag in jobs.flags)]


def make(jobs: Jobs, name: str, what: tuple[str, str, str], clock: Clock, minutes: float) -> Found:
    """Runs one; a job that has had a whole call and did not end gets half as many seeds in a program next time.

    What several seeds make in one program is lost when it is stopped; one seed on its own goes on where it was.

    Raises:
      TimeIsUp: the clock has ended it.
      UsageError: `run.py` refuses its flags.
    """
    note = jobs.out / f"{name}.side_by_side"
    at_once = json.loads(note.read_text()) if note.exists() else min(jobs.side_by_side, len(jobs.seeds))
    start, whole = time.monotonic(), clock.left >= _WHOLE * 60 * minutes
    console.say(f"{name}: {at_once} of {len(jobs.seeds)} seeds side by side")
    code = run(command(jobs, what, at_once), clock)
    if code == process.INTERRUPTED:
        if whole and at_once > 1:
            store.write_text(note, json.dumps(at_once // 2))
        raise TimeIsUp
    if code not in (process.DONE, process.FAULT):
        raise UsageError(f"run.py ended with {code}; allowed: 0, or 1 where a method failed")
    results = [store.read(store.path(jobs.out / "results", *what, seed)) for seed in jobs.seeds]
    if not all(results):
        raise RuntimeError(f"run.py ended with {code} and {sum(map(bool, results))} of {len(results)} results")
    found = [result for result in results if result is not None]
    return {
        "ok": code == process.DONE,
        "dataset": what[0],
        "task": what[1],
        "method": what[2],
        "side_by_side": at_once,
        "wall_seconds": time.monotonic() - start,
        "metrics": {metric: [result["metrics"][metric] for result in found] for metric in found[0]["metrics"]},
        "seconds": [result["seconds"] for result in found],
        "compile_seconds": [result["compile_seconds"] for result in found],
        "device": found[0]["device"],
    }


def run(words: Sequence[str], clock: Clock) -> int:
    """Runs a command until the clock ends it: its exit code, 130 where it was ended."""
    child = subprocess.Popen(list(words))
    try:
        return child.wait(timeout=clock.left)
    except subprocess.TimeoutExpired:
        return process.INTERRUPTED
    finally:  # an interrupted parent takes its child along
        if child.poll() is None:
            child.send_signal(signal.SIGTERM)
            try:
                child.wait(timeout=_GOODBYE)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


def made(out: Path) -> list[Found]:
    """All that was run so far."""
    return [found for file in sorted((out / "run").glob("*.json")) if (found := read(file)) is not None]
