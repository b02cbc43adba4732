"""The rows that a request names: by number, by a mask, or by ids that stand in a column of a CSV file."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from camu_jax import splits
from experiments import UsageError

ENDINGS = (".csv", ".npy", ".txt")
_LARGEST = 2**31  # bytes of a file: more rows than any training set has


class Named(NamedTuple):
    """Rows that were named.

    Attributes:
      numbers: in the training set, ascending, each once.
      ids: what names each in the request, in the same order; None where it gave numbers or a mask.
    """

    numbers: list[int]
    ids: list[str] | None


def read(file: str, total: int, *, id_column: str | None = None, ids: Sequence[str] | None = None) -> Named:
    """Reads which rows a request names.

    Args:
      file: `.npy`, row numbers or a mask of all rows; `.txt`, a number a line; `.csv`, with a header, numbers in its
        first column, or in `id_column` ids.
      total: rows of the training set.
      id_column: the column of the CSV file that holds ids.
      ids: the id of each row of the training set; several rows may have the same one. Needed with `id_column`.

    Returns:
      The rows.

    Raises:
      UsageError: the file cannot be read or is of another form; an id or number is unknown or named twice; it names no
        row, or all of them.
    """
    path = Path(file)
    if path.suffix not in ENDINGS:
        raise UsageError(f"rows is {file}; allowed: a file that ends in {', '.join(ENDINGS)}")
    if id_column is not None and path.suffix != ".csv":
        raise UsageError(f"id_column is {id_column!r} and rows {file}; allowed with id_column: a .csv file")
    if id_column is not None and ids is None:
        raise UsageError(f"id_column is {id_column!r}, but the training rows have no ids; give them with --ids=FILE")
    try:
        if path.stat().st_size > _LARGEST:
            raise ValueError(f"it is larger than {_LARGEST} bytes")
        if path.suffix == ".npy":
            found = splits.mask(np.load(path, allow_pickle=False), total)
        else:
            words = _column(path, id_column) if path.suffix == ".csv" else path.read_text("utf-8").split()
            if id_column is not None and ids is not None:
                return _by_id(file, words, ids)
            found = splits.mask(np.array([_number(word) for word in words], np.int64), total)
    except (OSError, ValueError, TypeError, EOFError, csv.Error) as error:
        raise UsageError(f"rows: {file} {_reason(error)}") from None
    return Named(_some(file, np.flatnonzero(found), total), None)


def read_ids(file: str, total: int, column: str | None) -> list[str]:
    """The id of each training row.

    Args:
      file: `.csv` with a column of ids, `.npy`, or `.txt` with one a line; as many as there are training rows.
      total: rows of the training set.
      column: of the CSV file; None is the first.

    Raises:
      UsageError: it cannot be read, or holds another number of ids.
    """
    path = Path(file)
    try:
        if path.suffix == ".npy":
            ids = [str(value) for value in np.load(path, allow_pickle=False).reshape(-1).tolist()]
        elif path.suffix == ".csv":
            ids = _column(path, column)
        else:
            ids = path.read_text("utf-8").splitlines()
    except (OSError, ValueError, EOFError, csv.Error) as error:
        raise UsageError(f"ids: {file} {_reason(error)}") from None
    if len(ids) != total:
        raise UsageError(f"ids: {file} holds {len(ids)} ids; allowed: {total}, one a training row")
    return ids


def _by_id(file: str, wanted: list[str], ids: Sequence[str]) -> Named:
    places: dict[str, list[int]] = {}
    for number, name in enumerate(ids):
        places.setdefault(name, []).append(number)
    seen: set[str] = set()
    for name in wanted:
        if name not in places:
            raise UsageError(
                f"rows: {file} names the id {name!r}, which no training row has; allowed: ids that are there"
            )
        if name in seen:
            raise UsageError(f"rows: {file} names the id {name!r} twice; allowed: each once")
        seen.add(name)
    numbers = _some(file, np.array([n for name in wanted for n in places[name]], np.int64), len(ids))
    return Named(numbers, [ids[n] for n in numbers])


def _column(path: Path, name: str | None) -> list[str]:
    """A column of a CSV file, without its header; the first where none is named."""
    with open(path, newline="", encoding="utf-8-sig") as opened:
        lines = csv.reader(opened)
        header = next(lines, [])
        if not header:
            raise ValueError("is empty; allowed: a header, and a line a row")
        if name is not None and name not in header:
            raise ValueError(f"has no column {name!r}; allowed: {', '.join(header)}")
        place = 0 if name is None else header.index(name)
        found = []
        for line in lines:
            if not any(line):
                continue
            if len(line) <= place:
                raise ValueError(f"has no value in column {header[place]!r} of line {lines.line_num}")
            found.append(line[place])
        return found


def _number(word: str) -> int:
    if not (word.isascii() and word.lstrip("-").isdecimal()) or len(word) > 18:
        raise ValueError(f"holds {word[:40]!r}; allowed: row numbers (ids need --id_column)")
    return int(word)


def _some(file: str, numbers: np.ndarray, total: int) -> list[int]:
    if not 0 < len(numbers) < total:
        which = "every training row" if len(numbers) else "no row"
        raise UsageError(f"rows: {file} names {which}; allowed: 1 to {total - 1} of {total}")
    return sorted(int(number) for number in numbers)


def _reason(error: Exception) -> str:
    if isinstance(error, OSError):
        return f"cannot be read ({error.strerror})"
    if isinstance(error, UnicodeDecodeError):
        return "cannot be read (it is no UTF-8)"
    return str(error).removeprefix("rows ")  # of `splits.mask`
