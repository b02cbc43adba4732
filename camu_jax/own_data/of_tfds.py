"""Any image classification set of TFDS."""

import difflib
from pathlib import Path
from typing import Any

import numpy as np

from camu_jax import _decoded, data
from camu_jax.data import DataError
from camu_jax.own_data import pictures
from camu_jax.own_data.checks import OwnData, checked, splits


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
      side: as in `folder`.
      cache_dir: as in `folder`.

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
        names = splits(f"tfds:{name}", list(builder.info.splits))
        parts = []
        for split in names:
            cached = pictures.place(cache_dir, f"{name}-{split}", side, prepared, sorted(prepared.iterdir()))
            part = _decoded.read(cached) if cached else None
            if part is None:
                source: Any = builder.as_data_source(split=split)
                rows = source.__getitems__(list(range(len(source))))
                where_from = [f"tfds:{name}, {split}, row {number}" for number in range(len(rows))]
                x = pictures.stack(where_from, [np.asarray(row[image]) for row in rows], side)
                part = x, np.array([row[label] for row in rows], np.int32)
                if cached:
                    _decoded.write(cached, *part)
            parts.append(part)
        return checked(f"tfds:{name}", parts[0], parts[1], tuple(features[label].names), side=side)
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
    import tensorflow_datasets

    base = name.partition("/")[0].partition(":")[0]
    known = [*tensorflow_datasets.list_builders(), *(entry.name for entry in where.glob("*") if entry.is_dir())]
    if base not in known:
        close = difflib.get_close_matches(base, known, n=4, cutoff=0.5)
        likely = f"; close to it: {', '.join(dict.fromkeys(close))}" if close else "; allowed: a name of TFDS's catalog"
        raise DataError(f"data set tfds:{name} is unknown to TFDS{likely}")
    hint = f"allowed: a data_dir (or a variable TFDS_DATA_DIR) that holds {name} in the array_record format"
    return data.download(f"tfds:{name}", name, where, "storage.googleapis.com", hint)
