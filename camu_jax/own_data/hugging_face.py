"""Data sets of the library `datasets`, as it saves them to disk."""

import functools
from pathlib import Path
from typing import Any

import numpy as np

from camu_jax.data import DataError
from camu_jax.own_data.checks import OwnData, checked, splits
from camu_jax.own_data.pictures import Picture, Progress, kept, place


def hf(
    path: str | Path,
    *,
    side: int | None = None,
    cache_dir: str | Path | None = None,
    progress: Progress | None = None,
) -> OwnData:
    """Reads a Hugging Face data set that `DatasetDict.save_to_disk` wrote.

    Args:
      path: the folder. Its splits are `train` and `test` (or `validation`), with one column of images and one of
        labels: a `ClassLabel`, or whole numbers or text called `label`.
      side: as in `folder`.
      cache_dir: as in `folder`.
      progress: as in `folder`.

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
    names = splits(str(path), list(found) if isinstance(found, dict) else [])
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
        rows: Any = found[name].cast_column(image[0], datasets.Image(decode=False))
        cached = place(cache_dir, f"hf-{path.resolve().name}-{name}", side, path, sorted((path / name).iterdir()))
        pictures = functools.partial(_pictures, path / name, rows, image[0])
        parts.append(kept(cached, np.asarray(rows[label[0]]), pictures, side, progress))
    return checked(str(path), parts[0], parts[1], classes, side=side)


def _pictures(where: Path, rows: Any, column: str) -> list[Picture]:
    """The images of a column, as the files that they are kept as."""
    return [
        Picture(f"{where}, row {number}", Path(value["path"]) if value["bytes"] is None else value["bytes"])
        for number, value in enumerate(rows[column])
    ]
