"""Image files in folders, one for each class."""

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from camu_jax.data import DataError
from camu_jax.own_data.checks import OwnData, checked
from camu_jax.own_data.pictures import Picture, Progress, kept, place

_LAYOUT = "train/CLASS/*.png or *.jpg, and test/CLASS/ likewise"
_SUFFIXES = (".png", ".jpg", ".jpeg")


def folder(
    path: str | Path,
    *,
    side: int | None = None,
    cache_dir: str | Path | None = None,
    progress: Progress | None = None,
) -> OwnData:
    """Reads a folder of image files, several at a time.

    Args:
      path: a folder `train/CLASS/*.png` (or `.jpg`, `.jpeg`) and `test/CLASS/` likewise. Classes and files are in the
        order of their names; names that begin with a dot do not count.
      side: images of different sizes are resized to a square of so many pixels; None refuses them. Those of one size
        stay as they are, for the `Pipeline` to resize.
      cache_dir: where the decoded images are kept, to be memory-mapped the next time.
      progress: is told `(done, total)` images of a part.

    Raises:
      DataError: a wrong layout, a file that is no image, or images of different sizes; one line that names the file.
    """
    path = Path(path)
    if not path.is_dir():
        raise DataError(f"data set {path} is no folder; allowed: a folder with {_LAYOUT}")
    classes = tuple(entry.name for entry in _entries(path / "train", folders=True))
    name = path.resolve().name
    parts, ids = [], []
    for part in ("train", "test"):
        files, labels = _labelled(path / part, classes)
        cached = place(cache_dir, f"folder-{name}-{part}", side, path, files)
        parts.append(kept(cached, np.array(labels, np.int32), functools.partial(_pictures, files), side, progress))
        ids.append(np.array([file.relative_to(path / part).as_posix() for file in files]))
    return checked(str(path), parts[0], parts[1], classes, ids[0], side=side)


def _pictures(files: Sequence[Path]) -> list[Picture]:
    return [Picture(str(file), file) for file in files]


def _entries(where: Path, *, folders: bool) -> list[Path]:
    """The folders, or the files, of a folder by name; anything else in it is refused."""
    if not where.is_dir():
        raise DataError(f"data set: {where} is missing; allowed: {_LAYOUT}")
    found = sorted(entry for entry in where.iterdir() if not entry.name.startswith("."))
    for entry in found:
        if entry.is_dir() != folders or not folders and entry.suffix.lower() not in _SUFFIXES:
            raise DataError(f"data set: {entry} is in the wrong place; allowed: {_LAYOUT}")
    if not found:
        raise DataError(f"data set: {where} is empty; allowed: {_LAYOUT}")
    return found


def _labelled(where: Path, classes: Sequence[str]) -> tuple[list[Path], list[int]]:
    """The files of a part, and the number of each one's class."""
    files: list[Path] = []
    labels: list[int] = []
    for entry in _entries(where, folders=True):
        if entry.name not in classes:
            raise DataError(f"data set: {entry} is a class without training images; allowed: {', '.join(classes)}")
        mine = _entries(entry, folders=False)
        files += mine
        labels += [classes.index(entry.name)] * len(mine)
    return files, labels
