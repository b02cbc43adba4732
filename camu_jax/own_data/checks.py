"""A data set of one's own, and everything that could be wrong with one."""

import dataclasses
import functools
import hashlib
from collections.abc import Iterable
from typing import Any

import numpy as np

from camu_jax._decoded import Arrays
from camu_jax.data import DataError
from camu_jax.own_data import pictures
from camu_jax.types import Examples


@dataclasses.dataclass(frozen=True)
class OwnData:
    """A data set in host memory.

    Attributes:
      train, test: its two parts; decoded images that a cache holds are memory-mapped.
      classes: what the labels 0, 1, ... are called; numbers as text where nothing tells.
      ids: what the rows of `train` are called, where something tells: the files of a folder, the array `ids` of a
        `.npz` file; `[N]` text.
      unlabelled: numbers of the rows of `train` that have no label, where such are allowed; a class stands in its
        place.
    """

    train: Examples
    test: Examples
    classes: tuple[str, ...]
    ids: np.ndarray | None = None
    unlabelled: np.ndarray | None = None

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of inputs, labels and class names, hexadecimal; equal for equal data, however it was stored."""
        found = hashlib.sha256(repr(self.classes).encode())
        for array in (self.train.x, self.train.y, self.test.x, self.test.y):
            found.update(f"{array.dtype} {array.shape}\n".encode())
            step = max(1, 2**24 // max(1, array[:1].nbytes))
            for start in range(0, len(array), step):
                found.update(np.ascontiguousarray(array[start : start + step]).data)
        return found.hexdigest()


def checked(
    what: str,
    train: Arrays,
    test: Arrays,
    classes: tuple[str, ...] | None,
    ids: np.ndarray | None = None,
    side: int | None = None,
    *,
    unlabelled: bool = False,
) -> OwnData:
    """The data set, after everything that could be wrong with it was looked at; see `npz` for `unlabelled`."""
    y, bare = _filled(train[1]) if unlabelled else (train[1], None)
    x_train, x_test = train[0], test[0]
    if x_train.dtype == x_test.dtype == np.uint8 and x_train.ndim == x_test.ndim == 4:
        x_train, x_test = pictures.coloured(pictures.of_one_size([x_train, x_test], side))
    if (x_train.dtype, x_train.shape[1:]) != (x_test.dtype, x_test.shape[1:]):
        raise DataError(
            f"data set {what}: training examples are {x_train.dtype}{x_train.shape[1:]}, test examples "
            f"{x_test.dtype}{x_test.shape[1:]}; allowed: the same"
        )
    y_train, y_test, classes = _labels(what, y, test[1], classes)
    parts: list[Any] = [(x_train, y_train), (x_test, y_test)]
    of_train, of_test = (Examples(x, y, len(classes)) for x, y in parts)
    found = OwnData(of_train, of_test, classes, ids, bare)
    try:
        found.train.validate("train")
        found.test.validate("test")
    except (TypeError, ValueError) as error:
        raise DataError(f"data set {what}: {error}") from None
    return found


def _filled(y: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Labels with a class where there is none, -1 or an empty text; and the numbers of these rows, if there are any."""
    bare = np.isin(y.reshape(len(y), -1), ["", "-1"] if y.dtype.kind == "U" else [-1]).any(axis=1)
    if bare.all() or not bare.any():
        return y, None
    return np.where(bare.reshape(-1, *[1] * (y.ndim - 1)), y[~bare][0], y), np.flatnonzero(bare)


def splits(what: str, names: Iterable[str]) -> tuple[str, str]:
    """The names of the training split and of the one to measure on."""
    names = list(names)
    test = next((name for name in ("test", "validation") if name in names), None)
    if "train" not in names or test is None:
        found = f"the splits {', '.join(names)}" if names else "no splits"
        raise DataError(f"data set {what} has {found}; allowed: train and test")
    return "train", test


def _labels(
    what: str, train: np.ndarray, test: np.ndarray, classes: tuple[str, ...] | None
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Labels as numbers, and the names of the classes."""
    train, test = (y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y for y in (train, test))
    for part, y in (("train", train), ("test", test)):
        if y.dtype.kind not in "iuU" or y.ndim != 1:
            raise DataError(
                f"data set {what}: the labels of {part} are {y.dtype}{list(y.shape)}; allowed: whole numbers or text, "
                "[N]"
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
