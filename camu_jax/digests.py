"""Digests: SHA-256 of JSON, arrays and files, so that a receipt can say exactly what it speaks of.

Each is 64 hexadecimal digits. That of an array covers shape, type and contents, and so is the same whatever file the
array came from; that of a file or folder covers its bytes.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from camu_jax.types import Examples

_PIECE = 2**26  # bytes that are read together: what lies on disk need not fit into memory


def of_json(value: Any) -> str:
    """Of a JSON value, whatever the order of its keys.

    Raises:
      ValueError: it holds NaN or infinity, which JSON does not know.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def of_arrays(*arrays: Any) -> str:
    """Of arrays, in their order; memory-mapped and picked ones (`camu_jax.rows`) are read piece by piece."""
    found = hashlib.sha256()
    for array in arrays:
        found.update(f"{np.dtype(array.dtype).str}{tuple(array.shape)}".encode())
        for piece in _pieces(array):
            found.update(piece.tobytes())
    return found.hexdigest()


def of_examples(*parts: Examples) -> str:
    """Of inputs, labels and number of classes of several sets of examples."""
    return of_json([[of_arrays(part.x, part.y), part.num_classes] for part in parts])


def of_named(arrays: Mapping[str, Any]) -> str:
    """Of arrays with their names, in whatever order."""
    return of_json({name: of_arrays(array) for name, array in arrays.items()})


def of_tree(tree: Any) -> str:
    """Of a pytree of arrays, such as a model's variables, and where each lies in it."""
    return of_named({jax.tree_util.keystr(at): np.asarray(leaf) for at, leaf in jax.tree.leaves_with_path(tree)})


def of_each_row(x: Any) -> list[str]:
    """Of the contents of each row of an array, `[N, ...]`, a list of N."""
    digests = []
    for piece in _pieces(x):
        digests += [hashlib.sha256(row.tobytes()).hexdigest() for row in piece]
    return digests


def of_path(path: str | Path) -> str:
    """Of a file, or of a folder: of the names and contents of all files within.

    Raises:
      OSError: it is not there, or cannot be read.
    """
    path = Path(path)
    if not path.is_dir():
        return _of_file(path)
    files = sorted(file for file in path.rglob("*") if file.is_file())
    return of_json([[file.relative_to(path).as_posix(), _of_file(file)] for file in files])


def _of_file(path: Path) -> str:
    with open(path, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _pieces(array: Any) -> Iterator[np.ndarray]:
    """The array in C order, some rows at a time; one without axes as a whole."""
    if not array.shape:
        yield np.ascontiguousarray(array)
        return
    of_a_row = max(1, int(np.prod(array.shape[1:])) * np.dtype(array.dtype).itemsize)
    rows = max(1, _PIECE // of_a_row)
    for start in range(0, array.shape[0], rows):
        yield np.ascontiguousarray(array[start : start + rows])
