"""Results on disk: one small JSON file a job, written atomically and claimed by a lock. Reading them needs no JAX."""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

import filelock

Json = Any  # type: ignore[explicit-any]  # what `json.loads` returns: narrowing a recursive type helps nobody
Settings = dict[str, Json]
"""What a result was made from."""


class Result(TypedDict, total=False):
    """A result file. `metrics`, `seconds` and `settings` are in every one.

    Attributes:
      metrics: figures in percent by name (`R_tr`, `F_tr`, `T_s`, `R_ts`, `F_ts`, `M`); of a relearning curve its first
        and last difference, `before` and `after`.
      seconds, compile_seconds: what the method took, and tracing and compiling apart from it.
      side_by_side: how many seeds were made in one program; each has its share of the seconds.
      info: what the method reports about its work.
      settings: everything that decides the result.
      audits: of each audit its figures by name, its settings and its seconds.
      outputs: `forget_margin_histogram`, with `edges` and `counts`.
      curve: of relearning: accuracies before it and after each epoch.
      device, devices, platform, versions, git, peak_memory_mib: where it was made.
    """

    metrics: dict[str, float]
    seconds: float
    compile_seconds: float
    side_by_side: int
    info: dict[str, float]
    settings: Settings
    audits: dict[str, dict[str, Json]]
    outputs: dict[str, Json]
    curve: list[dict[str, float]]
    device: str
    devices: int
    platform: str
    versions: dict[str, str]
    git: str | None
    peak_memory_mib: dict[str, float | None]


class DamagedResult(ValueError):
    """A result file is not what `write` made."""


class Extra(NamedTuple):
    """A further experiment on the same jobs: its name, which opens its files' names, and its settings as JSON."""

    name: str
    settings: Settings


def path(out: str | Path, dataset: str, task: str, method: str, seed: int, extra: Extra | None = None) -> Path:
    """Where a result belongs; `camu:finetune` becomes the folder `camu-finetune`."""
    file = f"seed{seed}.json" if extra is None else f"{extra.name}-seed{seed}.json"
    return Path(out) / dataset / task / method.replace(":", "-") / file


@contextlib.contextmanager
def atomic(where: Path) -> Iterator[Path]:
    """Yields the path of a file to write, which then takes the place of `where`: all of it, or what was there before.

    Makes the folder. The one place that writes files which other processes may be reading.
    """
    where.parent.mkdir(parents=True, exist_ok=True)
    partial = where.with_name(f".{where.stem}.{os.getpid()}.partial{where.suffix}")
    try:
        yield partial
        os.replace(partial, where)
    finally:
        partial.unlink(missing_ok=True)


def write(where: Path, result: Result) -> None:
    """Writes a result."""
    write_text(where, json.dumps(result, indent=1, sort_keys=True) + "\n")


def write_text(where: Path, text: str) -> None:
    """Writes a text file."""
    with atomic(where) as partial:
        partial.write_text(text, encoding="utf-8")


def read(where: Path) -> Result | None:
    """Reads a result; None where there is none.

    Raises:
      DamagedResult: the file is not a result.
    """
    try:
        result: Result = json.loads(where.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise DamagedResult(f"{where} cannot be read ({error})") from None
    try:
        numbers = [*result["metrics"].values(), result["seconds"]]
        complete = isinstance(result["settings"], dict) and all(isinstance(n, int | float) for n in numbers)
    except (TypeError, KeyError, AttributeError):
        complete = False
    if not complete:
        raise DamagedResult(f"{where} is not a result file")
    return result


def difference(old: Json, new: Json, name: str = "") -> str | None:
    """The first setting that two settings disagree on, in words; None where they agree."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted({*old, *new}):
            found = difference(old.get(key), new.get(key), f"{name}.{key}" if name else str(key))
            if found:
                return found
        return None
    return None if old == new else f"{name} was {old}, now {new}"


@contextlib.contextmanager
def claim(where: Path, *, wait: bool) -> Iterator[bool]:
    """Claims a file or folder that does not have to exist yet, so that no two processes make it.

    A process that dies gives back what it had claimed.

    Args:
      where: what is claimed; the lock is the file `.<name>.lock` beside it.
      wait: until another process gives it back; otherwise the block is told that it is not ours.

    Yields:
      Whether it is ours.
    """
    where.parent.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(where.with_name(f".{where.name}.lock"))
    try:
        lock.acquire(blocking=wait)
    except filelock.Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()
