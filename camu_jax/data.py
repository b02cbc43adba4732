"""Data sets as uint8 arrays: the paper's four through TFDS, and `tiny`, the digits that ship with scikit-learn."""

import dataclasses
import os
import socket
import urllib.request
from pathlib import Path
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np

from camu_jax import _decoded, _validate
from camu_jax._decoded import Arrays
from camu_jax.types import Examples


@dataclasses.dataclass(frozen=True)
class DataSet:
    """A data set of the paper.

    Attributes:
      tfds_name: name in TFDS; None for `tiny`.
      host: where TFDS downloads it from.
      num_classes: C.
      image_shape: of a stored image.
      train_size, test_size: lengths of the two splits.
    """

    tfds_name: str | None
    host: str | None
    num_classes: int
    image_shape: tuple[int, int, int]
    train_size: int
    test_size: int


_FASHION_HOST = "fashion-mnist.s3-website.eu-central-1.amazonaws.com"
Name = Literal["digit", "fashion", "c10", "c100", "tiny"]
DATASETS: dict[Name, DataSet] = {
    "digit": DataSet("mnist", "storage.googleapis.com", 10, (28, 28, 1), 60_000, 10_000),
    "fashion": DataSet("fashion_mnist", _FASHION_HOST, 10, (28, 28, 1), 60_000, 10_000),
    "c10": DataSet("cifar10", "www.cs.toronto.edu", 10, (32, 32, 3), 50_000, 10_000),
    "c100": DataSet("cifar100", "www.cs.toronto.edu", 100, (32, 32, 3), 50_000, 10_000),
    "tiny": DataSet(None, None, 10, (28, 28, 1), 1_437, 360),
}
"""The paper's names for its data sets, and `tiny`."""


class DataError(ValueError):
    """A data set is missing, incomplete or unreadable; the message is one line."""


def load(
    name: Name,
    *,
    data_dir: str | Path | None = None,
    limit: int | None = None,
    cache_dir: str | Path | None = None,
    on_device: bool = True,
) -> tuple[Examples, Examples]:
    """Loads training and test set.

    Args:
      name: a key of `DATASETS`.
      data_dir: a TFDS folder; None is TFDS's own variable `TFDS_DATA_DIR`, then its default. A data set that is not
        there is downloaded and prepared by TFDS.
      limit: take only the first `limit` training examples, and at most as many test examples.
      cache_dir: where decoded images are kept, to be memory-mapped the next time; None decodes every time. They do
        without the TFDS folder and TFDS: carry them to a machine that has neither.
      on_device: put the images on the device; else they stay in host memory (with `cache_dir`: on disk, memory-mapped),
        for data that is larger than the device's memory.

    Returns:
      Training and test set, uint8 images.

    Raises:
      DataError: the data set is missing and cannot be downloaded, or its files are damaged.
      ValueError: unknown name, or `limit` out of range.
    """
    if name not in DATASETS:
        raise ValueError(f"dataset is {name!r}; allowed: {', '.join(DATASETS)}")
    info = DATASETS[name]
    if limit is not None:
        _validate.between(2, info.train_size, limit=limit)
    parts = _tiny() if info.tfds_name is None else _tfds(name, info, data_dir, limit, cache_dir)
    place: Any = jnp.asarray if on_device else np.asarray
    train, test = (Examples(place(x[:limit]), place(y[:limit]), info.num_classes) for x, y in parts)
    return train, test


def _tiny() -> list[Arrays]:
    """The 1 797 8x8 digits of scikit-learn, enlarged to 28x28, shuffled once; the last fifth is the test set."""
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    images = np.round(digits.images[order] * (255 / 16)).astype(np.uint8)
    x = np.stack([np.asarray(Image.fromarray(i).resize((28, 28), Image.Resampling.BILINEAR)) for i in images])[
        ..., None
    ]
    y = digits.target[order].astype(np.int32)
    size = DATASETS["tiny"].train_size
    return [(x[:size], y[:size]), (x[size:], y[size:])]


def _tfds(
    name: Name, info: DataSet, data_dir: str | Path | None, limit: int | None, cache_dir: str | Path | None
) -> list[Arrays]:
    where = tfds_dir(data_dir, _hint(info))
    sizes = {"train": info.train_size, "test": info.test_size}
    folder = prepared(where, str(info.tfds_name))
    if folder is None and (carried := _carried(cache_dir, info, sizes)):
        return [(x[:limit], y[:limit]) for x, y in carried]
    folder = folder or download(f"{name} ({info.tfds_name})", str(info.tfds_name), where, str(info.host), _hint(info))
    parts = []
    for split, size in sizes.items():
        count = min(size, limit or size)
        cached = _decoded.place(cache_dir, f"{info.tfds_name}-{split}", folder, sorted(folder.iterdir()))
        part = _decoded.read(cached) if cached else None
        if part is None:
            part = _decode(name, info, folder, split, size, count)
            if cached and count == size:
                _decoded.write(cached, *part)
        parts.append((part[0][:count], part[1][:count]))
    return parts


def _decode(name: Name, info: DataSet, folder: Path, split: str, size: int, count: int) -> Arrays:
    """Reads and checks the first `count` records of a split."""
    import tensorflow_datasets as tfds

    damaged = f"data set {name} in {folder} is damaged or incomplete (allowed: a whole copy)"
    try:
        source: Any = tfds.builder_from_directory(str(folder)).as_data_source(split=split)
        if len(source) != size:
            raise ValueError(f"{split} holds {len(source)} records, {size} belong")
        rows = source.__getitems__(list(range(count)))
        x = np.stack([row["image"] for row in rows])
        y = np.array([row["label"] for row in rows], np.int32)
    except ImportError:
        raise
    except Exception as error:  # array_record and the image decoders raise many types on damaged files
        raise DataError(f"{damaged}: {' '.join(str(error).split())[:160]}") from error
    if x.shape[1:] != info.image_shape or x.dtype != np.uint8 or y.min() < 0 or y.max() >= info.num_classes:
        raise DataError(f"{damaged}: its images are {x.dtype}{x.shape[1:]}, uint8{info.image_shape} belong")
    return x, y


def tfds_dir(data_dir: str | Path | None, hint: str) -> Path:
    """The TFDS folder that is meant: the one given, TFDS_DATA_DIR's, or TFDS's default."""
    if data_dir is not None and not Path(data_dir).expanduser().is_dir():
        raise DataError(f"data_dir {data_dir} is not a folder; {hint}")
    return Path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()


def prepared(where: Path, tfds_name: str) -> Path | None:
    """The newest prepared version of a data set in the array_record format, if there is one."""
    for version in sorted((where / tfds_name).glob("*.*.*"), reverse=True):
        if (version / "dataset_info.json").is_file() and any(version.glob("*.array_record*")):
            return version
    return None


def download(what: str, tfds_name: str, where: Path, host: str, hint: str) -> Path:
    """Lets TFDS download and prepare a data set; says at once what to do where there is no network."""
    missing = f"data set {what} is not in {where}"
    if _offline(host):
        raise DataError(f"{missing}, and {host} cannot be reached to download it; {hint}")
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder(tfds_name, data_dir=str(where), file_format="array_record")
        builder.download_and_prepare()
    except Exception as error:  # TFDS, its downloader and TensorFlow raise many types
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
        raise DataError(f"{missing}, and downloading it failed ({reason}); {hint}") from error
    return Path(builder.data_dir)


def _offline(host: str) -> bool:
    """Whether a host's name is unknown here: TFDS would retry for minutes. A proxy may know it all the same."""
    if urllib.request.getproxies():
        return False
    try:
        socket.getaddrinfo(host, 443)
    except OSError:
        return True
    return False


def _hint(info: DataSet) -> str:
    return (
        f"allowed: a data_dir (or a variable TFDS_DATA_DIR) that is a TFDS folder and holds {info.tfds_name} in the "
        "array_record format; the data set tiny needs none"
    )


def _carried(cache_dir: str | Path | None, info: DataSet, sizes: dict[str, int]) -> list[Arrays]:
    """The images that a cache holds whole, decoded from whichever folder it was; empty where a split is missing."""
    found = []
    for split, size in sizes.items() if cache_dir is not None else ():
        for cached in sorted(Path(str(cache_dir)).glob(f"{info.tfds_name}-{split}-*")):
            part = _decoded.read(cached)
            if part is not None and len(part[0]) == len(part[1]) == size:
                found.append(part)
                break
    return found if len(found) == len(sizes) else []
