"""Data of your own: a `.npz` file, a folder of images, any image set of TFDS, a Hugging Face data set on disk.

mine = own_data.npz("mine.npz")
mine.train, mine.test, mine.classes
"""

import dataclasses
import functools
import hashlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from camu_jax import _decoded, _pictures, data
from camu_jax._decoded import Arrays
from camu_jax._pictures import Picture, Progress
from camu_jax.data import DataError
from camu_jax.types import Examples

_ARRAYS = ("x_train", "y_train", "x_test", "y_test")
_LAYOUT = "train/CLASS/*.png or *.jpg, and test/CLASS/ likewise"
_SUFFIXES = (".png", ".jpg", ".jpeg")


@dataclasses.dataclass(frozen=True)
class OwnData:
    """A data set in host memory.

    Attributes:
      train, test: its two parts; decoded images that a cache holds are memory-mapped.
      classes: what the labels 0, 1, ... are called; numbers as text where nothing tells.
      ids: what the rows of `train` are called, where something tells: the files of a folder, the array `ids` of a
        `.npz` file; `[N]` text.
    """

    train: Examples
    test: Examples
    classes: tuple[str, ...]
    ids: np.ndarray | None = None

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of inputs, labels and class names, hexadecimal: equal data has an equal one, however it was stored."""
        found = hashlib.sha256(repr(self.classes).encode())
        for array in (self.train.x, self.train.y, self.test.x, self.test.y):
            found.update(f"{array.dtype} {array.shape}\n".encode())
            step = max(1, 2**24 // max(1, array[:1].nbytes))
            for start in range(0, len(array), step):
                found.update(np.ascontiguousarray(array[start : start + step]).data)
        return found.hexdigest()


def npz(path: str | Path) -> OwnData:
    """Reads arrays.

    Args:
      path: a file with `x_train`, `y_train`, `x_test`, `y_test`. Inputs are uint8 images, `[N, H, W, channels]` or
        `[N, H, W]`, or floats or tokens of any shape `[N, ...]`; labels are whole numbers from 0 or the names of the
        classes, `[N]` or `[N, 1]`. It may also hold `classes`, the names by label, and `ids`, a name for each training
        example.

    Raises:
      DataError: the file is missing or holds something else; one line that names it.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"data set {path} is no file; allowed: a .npz file with {', '.join(_ARRAYS)}")
    try:
        with np.load(path, allow_pickle=False) as file:
            if missing := [name for name in _ARRAYS if name not in file.files]:
                raise DataError(
                    f"data set {path} lacks {', '.join(missing)}; allowed: {', '.join(_ARRAYS)} (it holds "
                    f"{', '.join(file.files) or 'nothing'})"
                )
            arrays = {name: file[name] for name in (*_ARRAYS, "classes", "ids") if name in file.files}
    except DataError:
        raise
    except Exception as error:  # NumPy and zipfile raise many types on damaged files
        reason = " ".join(str(error).split())[:160]
        raise DataError(f"data set {path} cannot be read ({reason}); allowed: a .npz file of numpy.savez") from None
    classes = tuple(map(str, arrays["classes"])) if "classes" in arrays else None
    ids = arrays.get("ids")
    if ids is not None and ids.shape != arrays["y_train"].shape[:1]:
        raise DataError(f"data set {path}: ids has shape {ids.shape}; allowed: [{len(arrays['y_train'])}], as y_train")
    found = [(_inputs(arrays[f"x_{part}"]), arrays[f"y_{part}"]) for part in ("train", "test")]
    return _checked(str(path), found[0], found[1], classes, None if ids is None else ids.astype(str))


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
      side: as in `camu_jax.data` a `Pipeline` resizes what is of one size; images of different sizes are resized to a
        square of so many pixels now. None refuses those.
      cache_dir: where the decoded images are kept, to be memory-mapped the next time.
      progress: is told `(done, total)` images of a part.

    Raises:
      DataError: a wrong layout, a file that is no image, or images of different sizes; one line that names the file.
    """
    path = Path(path)
    if not path.is_dir():
        raise DataError(f"data set {path} is no folder; allowed: a folder with {_LAYOUT}")
    classes = tuple(entry.name for entry in _entries(path / "train", folders=True))
    parts, ids = [], []
    for part in ("train", "test"):
        files, labels = _labelled(path / part, classes)
        cached = _decoded.place(cache_dir, _kept_as("folder", path.name, part, side), path, files)
        x = _kept(cached, np.array(labels, np.int32), [Picture(str(file), file) for file in files], side, progress)
        parts.append(x)
        ids.append(np.array([file.relative_to(path / part).as_posix() for file in files]))
    return _checked(str(path), parts[0], parts[1], classes, ids[0])


def hf(
    path: str | Path,
    *,
    side: int | None = None,
    cache_dir: str | Path | None = None,
    progress: Progress | None = None,
) -> OwnData:
    """Reads a Hugging Face data set that `DatasetDict.save_to_disk` wrote.

    Args:
      path: the folder. Its splits are `train` and `test` (or `validation`), with one column of images and one of labels:
        a `ClassLabel`, or whole numbers or text called `label`.
      side, cache_dir, progress: as in `folder`.

    Raises:
      DataError: `datasets` is not installed, or the folder holds something else; one line.
    """
    path = Path(path)
    try:
        import datasets
    except ImportError:
        raise DataError("datasets is not installed; allowed: pip install 'camu_jax[huggingface]'") from None
    try:
        found = datasets.load_from_disk(str(path))
    except Exception as error:  # datasets and Arrow raise many types
        reason = " ".join(str(error).split())[:160]
        raise DataError(f"data set {path} cannot be read ({reason}); allowed: what save_to_disk wrote") from None
    names = _splits(str(path), list(found) if isinstance(found, dict) else [])
    features = found[names[0]].features
    image = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
    label = [name for name, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    label = label or [name for name in ("label", "labels") if name in features]
    if len(image) != 1 or len(label) != 1:
        raise DataError(f"data set {path} has the columns {', '.join(features)}; allowed: one of images, one of labels")
    kind = features[label[0]]
    classes = tuple(kind.names) if isinstance(kind, datasets.ClassLabel) else None
    parts = []
    for name in names:
        rows = found[name].cast_column(image[0], datasets.Image(decode=False))
        files = sorted((path / name).iterdir())
        cached = _decoded.place(cache_dir, _kept_as("hf", path.name, name, side), path, files)
        parts.append(_kept(cached, np.asarray(rows[label[0]]), _of_rows(path / name, rows, image[0]), side, progress))
    return _checked(str(path), parts[0], parts[1], classes)


def _of_rows(where: Path, rows: Any, column: str) -> "_Lazy":
    """The images of a column, read from Arrow when their turn comes."""

    def picture(number: int) -> Picture:
        value = rows[number][column]
        return Picture(f"{where}, row {number}", value["bytes"] if value["bytes"] is not None else Path(value["path"]))

    return _Lazy(len(rows), picture)


class _Lazy(Sequence[Picture]):
    """Pictures that are made when they are asked for."""

    def __init__(self, count: int, picture: Any) -> None:
        self._count, self._picture = count, picture

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, number: Any) -> Any:
        if not 0 <= number < self._count:
            raise IndexError(number)
        return self._picture(number)


def tfds(
    name: str,
    data_dir: str | Path | None = None,
    *,
    side: int | None = None,
    cache_dir: str | Path | None = None,
) -> OwnData:
    """Reads an image classification set of TFDS.

    Args:
      name: as TFDS calls it, `svhn_cropped` or `name/config`; with the splits `train` and `test` (or `validation`).
      data_dir: a TFDS folder; None as in `camu_jax.data.load`. A set that is not there is downloaded and prepared.
      side, cache_dir: as in `folder`.

    Raises:
      DataError: there is no such set, it cannot be downloaded, or it holds no images with a label each; one line.
    """
    where = data.tfds_dir(data_dir, "allowed: a TFDS folder")
    prepared = data.prepared(where, name) or _prepare(name, where)
    import tensorflow_datasets

    try:
        builder = tensorflow_datasets.builder_from_directory(str(prepared))
        features = builder.info.features
        image, label = _supervised(features, builder.info.supervised_keys, tensorflow_datasets)
        names = _splits(f"tfds:{name}", list(builder.info.splits))
        parts = []
        for split in names:
            cached = _decoded.place(cache_dir, _kept_as("", name, split, side), prepared, sorted(prepared.iterdir()))
            part = _decoded.read(cached) if cached else None
            if part is None:
                source: Any = builder.as_data_source(split=split)
                rows = source.__getitems__(list(range(len(source))))
                where_from = [f"tfds:{name}, {split}, row {number}" for number in range(len(rows))]
                x = _pictures.stack(where_from, [np.asarray(row[image]) for row in rows], side)
                part = x, np.array([row[label] for row in rows], np.int32)
                if cached:
                    _decoded.write(cached, *part)
            parts.append(part)
        return _checked(f"tfds:{name}", parts[0], parts[1], tuple(features[label].names))
    except (DataError, ImportError):
        raise
    except Exception as error:  # array_record and the image decoders raise many types on damaged files
        reason = " ".join(str(error).split())[:160]
        raise DataError(f"data set tfds:{name} in {prepared} cannot be used: {reason}") from error


def _supervised(features: Any, keys: Any, library: Any) -> tuple[str, str]:
    """The names of the image and of its label."""
    kinds = (library.features.Image, library.features.ClassLabel)
    if keys is not None and len(keys) == 2 and all(isinstance(features.get(k), c) for k, c in zip(keys, kinds)):
        return keys
    image, label = ([name for name, feature in features.items() if isinstance(feature, kind)] for kind in kinds)
    if len(image) != 1 or len(label) != 1:
        raise ValueError(f"it has the features {', '.join(features)}; allowed: one image and one class label")
    return image[0], label[0]


def _prepare(name: str, where: Path) -> Path:
    """Has TFDS make the set; says at once what to do where there is no such set, or no network."""
    import difflib

    import tensorflow_datasets

    base = name.partition("/")[0].partition(":")[0]
    known = [*tensorflow_datasets.list_builders(), *(entry.name for entry in where.glob("*") if entry.is_dir())]
    if base not in known:
        close = difflib.get_close_matches(base, known, n=4, cutoff=0.5)
        likely = f"; close to it: {', '.join(dict.fromkeys(close))}" if close else "; allowed: a name of TFDS's catalog"
        raise DataError(f"data set tfds:{name} is unknown to TFDS{likely}")
    hint = f"allowed: a data_dir (or a variable TFDS_DATA_DIR) that holds {name} in the array_record format"
    return data.download(f"tfds:{name}", name, where, "storage.googleapis.com", hint)


# --- what they share ---------------------------------------------------------------------------------------------


def _kept(
    cached: Path | None, y: np.ndarray, pictures: Sequence[Picture], side: int | None, progress: Progress | None
) -> Arrays:
    """Decoded images and their labels, from the cache or for it."""
    part = _decoded.read(cached) if cached else None
    if part is None:
        try:
            part = _pictures.decode(pictures, side, progress), y
        except ValueError as error:
            raise DataError(f"data set: {error}") from None
        if cached and y.dtype.kind in "iu":
            _decoded.write(cached, *part)
    return part


def _kept_as(kind: str, name: str, part: str, side: int | None) -> str:
    """What the name of a cache opens with; images of one size are resized by nobody, whatever the side."""
    return "-".join(filter(None, (kind, name.replace("/", "-"), part, f"{side}" if side else "")))


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


def _splits(what: str, names: Iterable[str]) -> tuple[str, str]:
    """The names of the training split and of the one to measure on."""
    names = list(names)
    test = next((name for name in ("test", "validation") if name in names), None)
    if "train" not in names or test is None:
        raise DataError(f"data set {what} has the splits {', '.join(names) or 'none'}; allowed: train and test")
    return "train", test


def _inputs(x: np.ndarray) -> np.ndarray:
    """Inputs in the types that the library takes: images with their channels, floats of 32 bits."""
    if x.dtype == np.uint8 and x.ndim == 3:
        return x[..., None]
    if x.dtype.kind == "f" and x.dtype != np.float32 or x.dtype == bool:
        return x.astype(np.float32)
    return x.astype(np.int32) if x.dtype in (np.int64, np.uint32, np.uint64) else x


def _checked(
    what: str, train: Arrays, test: Arrays, classes: tuple[str, ...] | None, ids: np.ndarray | None = None
) -> OwnData:
    """The data set, after everything that could be wrong with it was looked at."""
    if train[0].dtype == test[0].dtype == np.uint8 and train[0].ndim == test[0].ndim == 4:
        x_train, x_test = _pictures.coloured([train[0], test[0]])
    else:
        x_train, x_test = train[0], test[0]
    if (x_train.dtype, x_train.shape[1:]) != (x_test.dtype, x_test.shape[1:]):
        raise DataError(
            f"data set {what}: training examples are {x_train.dtype}{x_train.shape[1:]}, test examples "
            f"{x_test.dtype}{x_test.shape[1:]}; allowed: the same"
        )
    y_train, y_test, classes = _labels(what, train[1], test[1], classes)
    found = OwnData(Examples(x_train, y_train, len(classes)), Examples(x_test, y_test, len(classes)), classes, ids)  # type: ignore[arg-type]
    try:
        found.train.validate("train")
        found.test.validate("test")
    except (TypeError, ValueError) as error:
        raise DataError(f"data set {what}: {error}") from None
    return found


def _labels(
    what: str, train: np.ndarray, test: np.ndarray, classes: tuple[str, ...] | None
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Labels as numbers, and the names of the classes."""
    train, test = (y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y for y in (train, test))
    for part, y in (("train", train), ("test", test)):
        if y.dtype.kind not in "iuU" or y.ndim != 1:
            raise DataError(
                f"data set {what}: the labels of {part} are {y.dtype}{list(y.shape)}; allowed: whole numbers or text, [N]"
            )
    if train.dtype.kind == "U":
        classes = classes or tuple(map(str, np.unique(train)))
        number = {name: i for i, name in enumerate(classes)}
        for y in (train, test):
            if unknown := sorted(set(map(str, np.unique(y))) - set(number)):
                raise DataError(f"data set {what}: label {unknown[0]!r} is no class; allowed: {', '.join(classes)}")
        train, test = (np.array([number[str(name)] for name in y], np.int32) for y in (train, test))
    for part, y in (("train", train), ("test", test)):
        if len(y) and y.min() < 0:
            row = int(np.argmax(y < 0))
            raise DataError(f"data set {what}: the label of {part} row {row} is {y[row]}; allowed: 0 or greater")
    if classes is None:
        count = max(int(y.max()) + 1 if len(y) else 0 for y in (train, test))
        classes = tuple(map(str, range(count)))
    return train.astype(np.int32), test.astype(np.int32), classes
