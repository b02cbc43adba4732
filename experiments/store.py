"""Results on disk: one small JSON file a job, written atomically and claimed by a lock. Reading them needs no JAX."""

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypedDict

import filelock
import msgspec

from experiments import UsageError

Json = Any  # type: ignore[explicit-any]  # what `json.loads` returns: narrowing a recursive type helps nobody
Settings = dict[str, Json]
"""What a result was made from."""


Percent = Annotated[float, msgspec.Meta(ge=0, le=100)]
Seconds = Annotated[float, msgspec.Meta(ge=0, le=1e10)]


class Histogram(TypedDict):
    """Counts of bins, and their edges."""

    edges: list[float]
    counts: list[float]


class Outputs(TypedDict, total=False):
    """What a model says of the forget set, for pictures."""

    forget_margin_histogram: Histogram


class Timing(TypedDict, total=False):
    """What work took; see `Result`."""

    seconds: Seconds
    compile_seconds: Seconds
    shared: bool


class Result(Timing, total=False):
    """A result file. `metrics`, `seconds`, `settings` and `digest` are in every one.

    Attributes:
      metrics: figures in percent by name (`R_tr`, `F_tr`, `T_s`, `R_ts`, `F_ts`, `M`); of a relearning curve its first
        and last difference, `before` and `after`.
      failed: why the model is of no use, where that is so.
      seconds, compile_seconds: what the method took, and tracing and compiling apart from it.
      shared: whether other processes worked on the same cores meanwhile; older results do not tell.
      side_by_side: how many seeds were made in one program; each has its share of the seconds.
      info: what the method reports about its work; None is what is not finite.
      settings: everything that decides the result.
      audits: of each audit its figures by name, its settings and its seconds.
      outputs: what the model says of the forget set.
      curve: of relearning: accuracies before it and after each epoch.
      device, devices, platform, versions, git, peak_memory_mib: where it was made.
      digest: of all the rest, so that a change is seen.
    """

    metrics: dict[str, float]
    failed: str
    side_by_side: int
    info: dict[str, float | None]
    settings: Settings
    audits: dict[str, dict[str, Json]]
    outputs: Outputs
    curve: list[dict[str, Percent]]
    device: str
    devices: int
    platform: str
    versions: dict[str, str]
    git: str | None
    peak_memory_mib: dict[str, float | None]
    digest: str


def model_name(model: Settings) -> str:
    """The model of a result where it is not the paper's: `small ResNet-18`, `width 2, bfloat16`, `own model net`.

    Empty where it is the paper's.

    Args:
      model: the settings of a model.
    """
    said = [f"own model {model['factory']}"] if model.get("factory") is not None else []
    if model.get("size") == "small":
        said.append(SMALL)
    if model.get("width") is not None:
        said.append(f"width {model['width']}")
    if model.get("compute", "float32") != "float32":
        said.append(model["compute"])
    return ", ".join(said)


SMALL = "small ResNet-18"
"""What tables and headings call the model of `--model.size=small`."""


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
    partial = where.with_name(f".{where.stem}.{os.uname().nodename}.{os.getpid()}.partial{where.suffix}")
    try:
        yield partial
        os.replace(partial, where)
    finally:
        partial.unlink(missing_ok=True)


def prepare(flag: str, folder: str | Path) -> None:
    """Makes a folder of results fit to write into, and removes what dead processes have left there half written.

    Args:
      flag: with which another folder can be chosen.
      folder: the folder.

    Raises:
      UsageError: its name is that of no folder.
      OSError: it cannot be written.
    """
    name = str(folder)
    if not name or "\0" in name or not _is_utf8(name):
        raise UsageError(f"{flag} is {name!r}; allowed: the name of a folder, in UTF-8")
    where = Path(folder)
    try:
        where.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=where) as file:
            file.write(bytes(_PAGE))  # a full disk may still take an empty file
    except OSError as error:
        if error.errno in _NO_FOLDER:
            raise UsageError(f"{flag} is {folder}, which is no folder ({error.strerror}); name another") from None
        words = f"cannot be written ({error.strerror}); see to it, or name another {flag}"
        raise OSError(error.errno, words, str(folder)) from None
    for depth in range(_DEEPEST + 1):
        for left in where.glob("*/" * depth + ".*partial*"):
            if abandoned(left):
                with contextlib.suppress(OSError):  # another process was faster
                    shutil.rmtree(left) if left.is_dir() else left.unlink()


def _is_utf8(name: str) -> bool:
    """Whether C++ can be told the name of a file."""
    return not any("\ud800" <= letter <= "\udfff" for letter in name)


_NO_FOLDER = (errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP)
_PAGE = 4096
_DEEPEST = 3  # folders between --out and a result
_DAY = 24 * 3600.0


def abandoned(partial: Path) -> bool:
    """Whether nobody writes a file any more: its process on this machine is dead, or nobody did for a day."""
    owner = re.search(r"\.(\d{1,9})\.partial", partial.name)
    try:
        if owner and f".{os.uname().nodename}.{owner[1]}." in partial.name:
            os.kill(int(owner[1]), 0)
        return time.time() - partial.stat().st_mtime > _DAY
    except ProcessLookupError:
        return True
    except OSError:  # it is another user's, or gone
        return False


def write(where: Path, result: Result) -> None:
    """Writes a result with its digest.

    Raises:
      ValueError: a figure is not finite.
    """
    sealed = {**result, "digest": _digest(result)}
    write_text(where, json.dumps(sealed, indent=1, sort_keys=True, allow_nan=False) + "\n")


def _digest(result: Json) -> str:
    """Of everything but the digest itself."""
    rest = {name: value for name, value in result.items() if name != "digest"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, allow_nan=False).encode()).hexdigest()


def write_text(where: Path, text: str) -> None:
    """Writes a text file."""
    with atomic(where) as partial:
        partial.write_text(text, encoding="utf-8")


def read(where: Path) -> Result | None:
    """Reads a result; None where there is none.

    Raises:
      DamagedResult: the file is not a result, or was changed since it was written.
      OSError: the file cannot be read, which says nothing of what it holds.
    """
    try:
        found: Json = json.loads(where.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError) as error:
        raise DamagedResult(f"{where} is not JSON ({error})") from None
    try:
        result = msgspec.convert(found, Result)
        digest = _digest(found)
    except (ValueError, OverflowError, RecursionError) as error:  # another type, not finite, too large, too deep
        raise DamagedResult(f"{where} is not a result file ({error})") from None
    if reason := _incomplete(result):
        raise DamagedResult(f"{where} is not a result file ({reason})")
    if result["digest"] != digest:
        raise DamagedResult(f"{where} was changed after it was written: its digest is that of something else")
    return result


def _incomplete(result: Result) -> str | None:
    """What a result of the right types lacks."""
    for name in ("metrics", "seconds", "settings", "digest"):
        if name not in result:
            return f"{name} is missing"
    of_curve = "curve" in result
    for name in ("before", "after") if of_curve else ("R_tr", "F_tr", "T_s"):
        if name not in result["metrics"]:
            return f"metrics.{name} is missing"
    outside = [name for name, value in result["metrics"].items() if not (of_curve or 0 <= value <= 100)]
    return f"metrics.{outside[0]} is not a percentage" if outside else None


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

    Raises:
      OSError: there can be no lock, as on a read-only folder or a file system without locks.
    """
    where.parent.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(where.with_name(f".{where.name}.lock"))
    try:
        lock.acquire(blocking=wait)
    except filelock.Timeout:
        yield False
        return
    except OSError as error:
        raise OSError(error.errno, f"cannot be locked ({error.strerror})", lock.lock_file) from None
    try:
        yield True
    finally:
        lock.release()
