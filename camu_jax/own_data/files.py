"""Arrays in a `.npz` file."""

from pathlib import Path

import numpy as np

from camu_jax.data import DataError
from camu_jax.own_data.checks import OwnData, checked

_ARRAYS = ("x_train", "y_train", "x_test", "y_test")


def npz(path: str | Path, *, unlabelled: bool = False) -> OwnData:
    """Reads arrays.

    Args:
      path: a file with `x_train`, `y_train`, `x_test`, `y_test`. Inputs are uint8 images, `[N, H, W, channels]` or
        `[N, H, W]`, or floats or tokens of any shape `[N, ...]`; labels are whole numbers from 0 or the names of the
        classes, `[N]` or `[N, 1]`. It may also hold `classes`, the names by label, and `ids`, a name for each training
        example.
      unlabelled: allow training examples without a label, -1 or an empty text.

    Raises:
      DataError: the file is missing or holds something else; one line that names it.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"data set {path} is no file; allowed: a .npz file with {', '.join(_ARRAYS)}")
    try:
        with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
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
    return checked(
        str(path), found[0], found[1], classes, None if ids is None else ids.astype(str), unlabelled=unlabelled
    )


def _inputs(x: np.ndarray) -> np.ndarray:
    """Inputs in the types that the library takes: images with their channels, floats of 32 bits."""
    if x.dtype == np.uint8 and x.ndim == 3:
        return x[..., None]
    if x.dtype.kind == "f" and x.dtype != np.float32 or x.dtype == bool:
        return x.astype(np.float32)
    return x.astype(np.int32) if x.dtype in (np.int64, np.uint32, np.uint64) else x
