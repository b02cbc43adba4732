"""What `--dataset` names: the paper's data sets, `tiny`, and data of your own."""

import dataclasses
import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import jax.numpy as jnp
import numpy as np

from camu_jax import Examples, _validate, data, loop, own_data
from camu_jax.own_data import OwnData
from experiments import UsageError, console, store

OWN = ("npz", "folder", "tfds", "hf")
"""Kinds of data of one's own, as in `npz:FILE`."""

ALLOWED = f"{', '.join(get_args(data.Name))}, npz:FILE, folder:DIR, tfds:NAME, hf:DIR"


@dataclasses.dataclass(frozen=True)
class Source:
    """A data set that can be loaded.

    Attributes:
      title: for headings.
      name: for folders and files.
      classes: what the labels are called; numbers as text where nothing tells.
      image_shape: of a stored image, or of another input.
      dtype: of the inputs as stored: `uint8` images, floats, or tokens.
      train_size: length of the training set.
      digest: SHA-256 of the content of one's own data; None for a set whose name says it all.
      ids: what the rows of the training set are called, where something tells, `[N]` text.
      unlabelled: numbers of its rows that have no label, where such are allowed.
      read: `(limit, on_device) -> (train, test)`.
    """

    title: str
    name: str
    classes: tuple[str, ...]
    image_shape: tuple[int, ...]
    dtype: str
    train_size: int
    digest: str | None
    ids: np.ndarray[tuple[int, ...], np.dtype[np.str_]] | None
    unlabelled: np.ndarray[tuple[int, ...], np.dtype[np.int64]] | None
    read: Callable[[int | None, bool], tuple[Examples, Examples]]

    @property
    def num_classes(self) -> int:
        """C."""
        return len(self.classes)

    @property
    def settings(self) -> store.Settings:
        """What tells results on this data from those on other data."""
        return {"dataset": self.name} | ({} if self.digest is None else {"data_digest": self.digest})

    def load(self, limit: int | None = None, *, on_device: bool = True) -> tuple[Examples, Examples]:
        """Training and test set.

        Args:
          limit: only so many training examples, and at most as many test examples: the first ones; of one's own data,
            which may be in the order of its classes, evenly spaced ones.
          on_device: put the images on the device; else they stay in host memory.

        Raises:
          ValueError: `limit` is out of range.
        """
        if limit is not None:
            _validate.between(2, self.train_size, limit=limit)
        return self.read(limit, on_device)


def check(dataset: str) -> None:
    """Refuses a `--dataset` of no known form.

    Raises:
      UsageError: in one line.
    """
    kind, colon, where = dataset.partition(":")
    if dataset not in data.DATASETS and not (kind in OWN and colon and where):
        raise UsageError(f"dataset is {dataset!r}; allowed: {ALLOWED}")


def find(
    dataset: str,
    data_dir: str | None = None,
    *,
    cache_dir: str | Path | None = None,
    side: int | None = None,
    unlabelled: bool = False,
) -> Source:
    """The source behind a `--dataset`. One's own data is read, and checked, right away.

    Args:
      dataset: a name of `camu_jax.data`, or `npz:FILE`, `folder:DIR`, `tfds:NAME`, `hf:DIR`.
      data_dir: a TFDS folder.
      cache_dir: where decoded images are kept.
      side: what own images of different sizes are resized to.
      unlabelled: allow rows without a label in the training set of a `.npz` file.

    Raises:
      UsageError, camu_jax.data.DataError: in one line.
    """
    check(dataset)
    if dataset in data.DATASETS:
        return _of_the_paper(dataset, data_dir, cache_dir)
    kind, _, where = dataset.partition(":")
    with console.progress_bar(f"reading {dataset}") as listener:

        def progress(done: int, total: int) -> None:
            listener(loop.Progress(done, total, {}))

        if kind == "npz":
            own = own_data.npz(where, unlabelled=unlabelled)
        elif kind == "tfds":
            own = own_data.tfds(where, data_dir, side=side, cache_dir=cache_dir)
        else:
            read = own_data.folder if kind == "folder" else own_data.hf
            own = read(where, side=side, cache_dir=cache_dir, progress=progress)
    return _of_ones_own(kind, where, own)


def _of_the_paper(name: data.Name, data_dir: str | None, cache_dir: str | Path | None) -> Source:
    info = data.DATASETS[name]

    def read(limit: int | None, on_device: bool) -> tuple[Examples, Examples]:
        return data.load(name, data_dir=data_dir, limit=limit, cache_dir=cache_dir, on_device=on_device)

    classes = tuple(map(str, range(info.num_classes)))
    return Source(name, name, classes, info.image_shape, "uint8", info.train_size, None, None, None, read)


def _of_ones_own(kind: str, where: str, own: OwnData) -> Source:
    called = where if kind == "tfds" else Path(where).resolve().name
    stem = called.removesuffix(".npz")
    name = f"{kind}-{re.sub(r'[^A-Za-z0-9_.+-]+', '-', stem)}"[:100]
    x = own.train.x
    return Source(
        f"{kind}:{called}",
        name,
        own.classes,
        tuple(x.shape[1:]),
        str(x.dtype),
        len(own.train),
        own.digest,
        own.ids,
        own.unlabelled,
        functools.partial(_read_own, own),
    )


def _read_own(own: OwnData, limit: int | None, on_device: bool) -> tuple[Examples, Examples]:
    place = jnp.asarray if on_device else np.asarray

    def part(examples: Examples) -> Examples:
        if limit is not None and limit < len(examples):
            examples = examples[np.linspace(0, len(examples) - 1, limit).astype(np.int64)]  # type: ignore[index]
        return Examples(place(examples.x), place(examples.y), examples.num_classes)  # type: ignore[arg-type]

    return part(own.train), part(own.test)
