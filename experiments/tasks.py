"""Unlearning tasks as the command line names them: which training examples shall be forgotten (section 4.1.3)."""

import dataclasses
import re
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import jax
import numpy as np

from camu_jax import Examples, splits

Kind = Literal["data", "class", "indices"]


@dataclasses.dataclass(frozen=True)
class Task:
    """A parsed task.

    Attributes:
      name: as the user wrote it; `indices:FILE` becomes `indices-<stem>`, so that it can name a folder.
      kind: `data` (random examples), `class` (whole classes) or `indices` (given examples).
      percent: of a `data` task.
      classes: of a `class` task, ascending.
      rows: of an `indices` task, ascending.
    """

    name: str
    kind: Kind
    percent: int = 0
    classes: tuple[int, ...] = ()
    rows: tuple[int, ...] = ()

    def split(self, key: jax.Array, train: Examples) -> tuple[Examples, Examples]:
        """Splits the training set into forget and retain set.

        Args:
          key: a `jax.random` key; used by `data` tasks only.
          train: the training set D.

        Returns:
          F and R; together they are D, both in D's order.

        Raises:
          ValueError: F or R would be empty (a class that the training set does not hold, say).
        """
        try:
            return splits.split(train, self._rows(key, train))
        except ValueError as error:
            raise ValueError(f"task {self.name}: {error}") from None

    def without(self, held: splits.Rows) -> "Task":
        """The task on the training set without some rows, by the numbers that the others have then.

        Raises:
          ValueError: all rows of an `indices` task are among them.
        """
        if not self.rows:
            return self
        left = np.setdiff1d(self.rows, np.asarray(held))
        if not len(left):
            raise ValueError(f"task {self.name}: all of its rows are held out for validation; allowed: some must stay")
        return dataclasses.replace(self, rows=tuple((left - np.searchsorted(np.sort(np.asarray(held)), left)).tolist()))

    def names(self, classes: Sequence[str]) -> list[str]:
        """What the removed classes of a `class` task are called; empty where they have only numbers."""
        return [] if tuple(classes) == tuple(map(str, range(len(classes)))) else [classes[k] for k in self.classes]

    def title(self, classes: Sequence[str]) -> str:
        """The name for headings: `class3 (Dress)` where the classes have names."""
        names = self.names(classes)
        return f"{self.name} ({', '.join(names)})" if names else self.name

    def _rows(self, key: jax.Array, train: Examples) -> splits.Rows:
        if self.kind == "data":
            return splits.random_rows(key, len(train), round(len(train) * self.percent / 100))
        if self.kind == "class":
            return np.isin(np.asarray(train.y), self.classes)
        return np.array(self.rows)


ALLOWED = "dataP with P from 1 to 90, classK or classK,L, indices:FILE (.npy or .txt)"


def kind_of(text: str) -> Kind:
    """The kind of a task that is not checked yet."""
    return "class" if text.startswith("class") else "indices" if text.startswith("indices:") else "data"


def percent_of(text: str) -> int | None:
    """P of a `dataP` task with P from 1 to 90; None for every other task."""
    match = re.fullmatch("data0*([1-9][0-9]?)", text)
    return int(match[1]) if match and int(match[1]) <= 90 else None


def parse_task(text: str, num_classes: int, num_examples: int) -> Task:
    """Reads a task and checks it against the data set.

    Args:
      text: `dataP`, `classK`, `classK,L,...` or `indices:FILE`.
      num_classes: C of the data set.
      num_examples: length of the training set.

    Returns:
      The task.

    Raises:
      ValueError: unknown form; P, a class or an index out of range; duplicates; every class removed; an index file
        that is missing, empty, unreadable or names every training example.
    """
    if match := re.fullmatch(r"data(-?[0-9]{1,9})", text):
        percent = int(match[1])
        if not 1 <= percent <= 90:
            raise ValueError(f"task {text}: P is {percent}; allowed: 1 to 90")
        if not 0 < round(num_examples * percent / 100) < num_examples:
            raise ValueError(f"task {text}: {percent}% of {num_examples} examples leaves F or R empty")
        return Task(text, "data", percent=percent)
    if match := re.fullmatch(r"class(-?[0-9]{1,9}(?:,-?[0-9]{1,9})*)", text):
        classes = [int(k) for k in match[1].split(",")]
        for k in classes:
            if not 0 <= k < num_classes:
                raise ValueError(f"task {text}: class {k} is out of range; allowed: 0 to {num_classes - 1}")
        if len(set(classes)) < len(classes):
            raise ValueError(f"task {text}: a class stands twice; allowed: each class once")
        if len(classes) == num_classes:
            raise ValueError(f"task {text}: every class is removed; allowed: at most {num_classes - 1} of them")
        return Task(text, "class", classes=tuple(sorted(classes)))
    if text.startswith("indices:"):
        path = Path(text.removeprefix("indices:"))
        if len(f"indices-{path.stem}".encode(errors="replace")) > _LONGEST_NAME:
            raise ValueError(f"task {text}: the file's name is too long for a folder; allowed: {_LONGEST_NAME} bytes")
        rows = _read_indices(path, num_examples)
        return Task(f"indices-{path.stem}", "indices", rows=tuple(sorted(rows)))
    raise ValueError(f"task is {text!r}; allowed: {ALLOWED}")


_LONGEST_NAME = 255  # bytes of a folder's name
_WIDEST, _HEADER = 64, 2**16  # bytes of an index file: for each number at most, and beside them


def _read_indices(path: Path, num_examples: int) -> list[int]:
    """The numbers of training examples in a .npy or .txt file, checked."""
    if path.suffix not in (".npy", ".txt"):
        raise ValueError(f"task: index file {path} has the ending {path.suffix!r}; allowed: .npy or .txt")
    try:
        status = path.stat()
        if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):  # a pipe has no end
            raise ValueError("it is no regular file")
        if status.st_size > _WIDEST * num_examples + _HEADER:
            raise ValueError(f"it holds {status.st_size} bytes, more than {num_examples} numbers take")
        if path.suffix == ".npy":
            values = np.load(path, allow_pickle=False)
        else:
            values = np.array([int(word) for word in path.read_text().split()], np.int64)
    except OSError as error:
        raise ValueError(f"task: index file {path} cannot be read ({error.strerror or error})") from None
    except Exception as error:  # NumPy raises many types where a file's header is not what it should be
        raise ValueError(
            f"task: index file {path} cannot be read as numbers ({error}); allowed: whole numbers"
        ) from None
    if not isinstance(values, np.ndarray) or not np.issubdtype(values.dtype, np.integer) or values.ndim != 1:
        raise ValueError(f"task: index file {path} is not one list of whole numbers; allowed: integers, shape [N]")
    if not len(values):
        raise ValueError(f"task: index file {path} is empty; allowed: at least one number")
    if values.min() < 0 or values.max() >= num_examples:
        bad = int(values[(values < 0) | (values >= num_examples)][0])
        raise ValueError(f"task: index file {path} holds {bad}; allowed: 0 to {num_examples - 1}")
    unique, counts = np.unique(values, return_counts=True)
    if (counts > 1).any():
        raise ValueError(f"task: index file {path} holds {int(unique[counts > 1][0])} twice; allowed: each number once")
    if len(values) == num_examples:
        raise ValueError(f"task: index file {path} names every training example; allowed: fewer than {num_examples}")
    return [int(v) for v in values]
