"""Data sets as uint8 arrays: the paper's four through TFDS, and `tiny`, the digits that ship with scikit-learn."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from camu_jax.types import Examples


@dataclasses.dataclass(frozen=True)
class DataSet:
    """A data set of the paper.

    Attributes:
      tfds_name: name in TFDS; None for `tiny`.
      num_classes: C.
      image_shape: of a stored image.
      train_size, test_size: lengths of the two splits.
    """

    tfds_name: str | None
    num_classes: int
    image_shape: tuple[int, int, int]
    train_size: int
    test_size: int


DATASETS: dict[str, DataSet] = {
    "digit": DataSet("mnist", 10, (28, 28, 1), 60_000, 10_000),
    "fashion": DataSet("fashion_mnist", 10, (28, 28, 1), 60_000, 10_000),
    "c10": DataSet("cifar10", 10, (32, 32, 3), 50_000, 10_000),
    "c100": DataSet("cifar100", 100, (32, 32, 3), 50_000, 10_000),
    "tiny": DataSet(None, 10, (28, 28, 1), 1_437, 360),
}
"""The paper's names for its data sets, and `tiny`."""


class DataError(ValueError):
    """A data set is missing, incomplete or unreadable; the message is one line for the user."""


def load(name: str, *, data_dir: str | Path | None = None, limit: int | None = None) -> tuple[Examples, Examples]:
    """Loads training and test set.

    Args:
      name: a key of `DATASETS`.
      data_dir: a TFDS folder; None is TFDS's own variable `TFDS_DATA_DIR`, then its default. A data set that is not
        there is downloaded and prepared by TFDS.
      limit: take only the first `limit` training examples, and at most as many test examples.

    Returns:
      Training and test set, uint8 images on the device.

    Raises:
      DataError: the data set is missing and cannot be downloaded, or its files are damaged.
      ValueError: unknown name, or `limit` out of range.
    """
    if name not in DATASETS:
        raise ValueError(f"dataset is {name!r}; allowed: {', '.join(DATASETS)}")
    info = DATASETS[name]
    if limit is not None and not 2 <= limit <= info.train_size:
        raise ValueError(f"limit is {limit}; allowed: 2 to {info.train_size}, the training examples of {name}")
    parts = _tiny() if info.tfds_name is None else _tfds(name, info, data_dir, limit)
    train, test = (Examples(jnp.asarray(x[:limit]), jnp.asarray(y[:limit]), info.num_classes) for x, y in parts)
    return train, test


def _tiny() -> list[tuple[np.ndarray, np.ndarray]]:
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
    name: str, info: DataSet, data_dir: str | Path | None, limit: int | None
) -> list[tuple[np.ndarray, np.ndarray]]:
    import tensorflow_datasets as tfds

    where = Path(data_dir or tfds.core.constants.DATA_DIR).expanduser()
    if data_dir is not None and not where.is_dir():
        raise DataError(f"data_dir {where} is not a folder; {_hint(info)}")
    builder = _builder(name, info, where, tfds)
    parts = []
    for split, size in (("train", info.train_size), ("test", info.test_size)):
        try:
            source: Any = builder.as_data_source(split=split)
            if len(source) != size:
                raise ValueError(f"{len(source)} records where {size} belong")
            rows = source.__getitems__(list(range(min(size, limit or size))))
            x = np.stack([row["image"] for row in rows])
            y = np.array([row["label"] for row in rows], np.int32)
        except ImportError:
            raise
        except Exception as error:  # array_record and the decoders raise many types on damaged files
            reason = " ".join(str(error).split())[:200]
            raise DataError(
                f"data set {name} ({info.tfds_name}) in {where} is damaged or incomplete: {reason}"
            ) from error
        if x.shape[1:] != info.image_shape or x.dtype != np.uint8 or y.min() < 0 or y.max() >= info.num_classes:
            raise DataError(
                f"data set {name} in {where} holds {x.dtype}{x.shape[1:]} images; {info.image_shape} belong"
            )
        parts.append((x, y))
    return parts


def _builder(name: str, info: DataSet, where: Path, tfds: Any) -> Any:
    """The builder of a prepared data set, downloading it where it is missing."""
    folder = where / str(info.tfds_name)
    versions = sorted(folder.glob("*.*.*")) if folder.is_dir() else []
    ready = [v for v in versions if (v / "dataset_info.json").is_file() and any(v.glob("*.array_record*"))]
    if ready:
        return _or_data_error(
            lambda: tfds.builder_from_directory(str(ready[-1])), f"data set {name} in {ready[-1]} cannot be opened"
        )
    missing = f"data set {name} ({info.tfds_name}) is not in {where} and could not be downloaded; {_hint(info)}"
    builder = _or_data_error(
        lambda: tfds.builder(info.tfds_name, data_dir=str(where), file_format="array_record"), missing
    )
    _or_data_error(builder.download_and_prepare, missing)
    return builder


def _hint(info: DataSet) -> str:
    return (
        f"point --data_dir or TFDS_DATA_DIR at a TFDS folder that holds {info.tfds_name} in the array_record format, "
        "or take --dataset=tiny, which needs none"
    )


def _or_data_error(action: Callable[[], Any], message: str) -> Any:
    try:
        return action()
    except Exception as error:  # TFDS, its downloader and TensorFlow raise many types
        raise DataError(f"{message} [{type(error).__name__}]") from error
