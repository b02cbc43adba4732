"""Decoded examples on disk, to be memory-mapped the next time: a folder for each split, with a checksum."""

import hashlib
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np

Arrays = tuple[np.ndarray, np.ndarray]
"""Inputs `[N, ...]` and labels `[N]` of a split."""

_DIGEST = "sha256"  # the file that tells the digest


def place(cache_dir: str | Path | None, name: str, folder: Path, files: Iterable[Path]) -> Path | None:
    """Where a split's decoded examples are kept: under a name made of its files' names, sizes and times.

    Args:
      cache_dir: None keeps nothing.
      name: what its name opens with.
      folder: what the files lie in.
      files: from which the split is decoded.
    """
    if cache_dir is None:
        return None
    stats = [(p.relative_to(folder).as_posix(), (s := p.stat()).st_size, s.st_mtime_ns) for p in files]
    digest = hashlib.sha256(repr((str(folder.resolve()), stats)).encode()).hexdigest()[:16]
    return Path(cache_dir) / f"{name}-{digest}"


def read(cached: Path) -> Arrays | None:
    """The inputs, memory-mapped, and the labels; None where they are not there or not what was written."""
    try:
        if (cached / _DIGEST).read_text() != _digest(cached.name, cached):
            return None
        return np.load(cached / "x.npy", mmap_mode="r"), np.load(cached / "y.npy")
    except (OSError, ValueError, EOFError):
        return None


def write(cached: Path, x: np.ndarray, y: np.ndarray) -> None:
    """Keeps decoded examples; a cache that cannot be written is no error."""
    partial = None
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(dir=cached.parent, prefix=".partial"))
        np.save(partial / "x.npy", x)
        np.save(partial / "y.npy", y)
        (partial / _DIGEST).write_text(_digest(cached.name, partial))
        shutil.rmtree(cached, ignore_errors=True)
        partial.rename(cached)
    except OSError:
        if partial is not None:
            shutil.rmtree(partial, ignore_errors=True)


def _digest(name: str, folder: Path) -> str:
    """Of the cache's name, which says what it was decoded from, and of its two files."""
    found = hashlib.sha256(name.encode())
    for file in ("x.npy", "y.npy"):
        with open(folder / file, "rb") as opened:
            found.update(hashlib.file_digest(opened, "sha256").digest())
    return found.hexdigest()
