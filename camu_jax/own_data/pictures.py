"""Image files decoded side by side into one uint8 array, which the cache keeps."""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np

from camu_jax import _decoded
from camu_jax._decoded import Arrays
from camu_jax.data import DataError

Progress = Callable[[int, int], None]
"""`(done, total) -> None`, told after each image."""


class Picture(NamedTuple):
    """An image that is not decoded yet: what to call it in messages, and its file or the bytes of one."""

    name: str
    content: Path | bytes


def decode(pictures: Sequence[Picture], side: int | None = None, progress: Progress | None = None) -> np.ndarray:
    """Decodes images; Pillow's decoders run in threads.

    Args:
      pictures: one or more.
      side: images of different sizes are resized to a square of so many pixels; None refuses them.
      progress: is told how many are done.

    Returns:
      `[N, H, W, channels]` uint8, of one channel where every image is grey, else of three.

    Raises:
      ValueError: a file is no image, or sizes differ; it is named.
    """
    decoded = []
    with ThreadPoolExecutor() as threads:
        for image in threads.map(_decode, pictures):
            decoded.append(image)
            if progress is not None:
                progress(len(decoded), len(pictures))
    return stack([picture.name for picture in pictures], decoded, side)


def _decode(picture: Picture) -> np.ndarray:
    from PIL import Image

    try:
        with Image.open(BytesIO(picture.content) if isinstance(picture.content, bytes) else picture.content) as image:
            if image.mode[0] in "IF":  # which Pillow would cut off at 255
                raise ValueError(f"its pixels have more than 8 bits, mode {image.mode}")
            return np.asarray(image.convert("L" if image.mode in ("1", "L") else "RGB"))
    except Exception as error:  # Pillow raises many types on damaged files
        reason = " ".join(str(error).split())[:120]
        raise ValueError(
            f"{picture.name} is no image that can be read ({reason}); allowed: PNG or JPEG of 8 bits"
        ) from None


def stack(names: Sequence[str], images: Sequence[np.ndarray], side: int | None) -> np.ndarray:
    """Decoded images, `[h, w]` or `[h, w, channels]` uint8, as one array; see `decode`."""
    images = [image[..., None] if image.ndim == 2 else image for image in images]
    sizes = {image.shape[:2] for image in images}
    if len(sizes) > 1 and side is not None:
        images = [_resize(image, side) for image in images]
    elif len(sizes) > 1:
        odd = next(i for i, image in enumerate(images) if image.shape[:2] != images[0].shape[:2])
        (height, width), (first_height, first_width) = images[odd].shape[:2], images[0].shape[:2]
        raise ValueError(
            f"{names[odd]} is {width}x{height}, {names[0]} {first_width}x{first_height}; allowed: one size, or an "
            "image_size that all are resized to"
        )
    return np.stack(coloured(images))


def of_one_size(parts: Sequence[np.ndarray], side: int | None) -> list[np.ndarray]:
    """Parts `[N, h, w, channels]` with images of one size, where they have several and `side` tells to which."""
    if side is None or len({part.shape[1:3] for part in parts}) == 1:
        return list(parts)
    return [np.stack([_resize(image, side) for image in part]) for part in parts]


def coloured(images: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Arrays `[..., 1 or 3]` with as many channels as any of them has."""
    channels = max(image.shape[-1] for image in images)
    return [image if image.shape[-1] == channels else np.repeat(image, channels, axis=-1) for image in images]


def _resize(image: np.ndarray, side: int) -> np.ndarray:
    from PIL import Image

    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    resized = np.asarray(picture.resize((side, side), Image.Resampling.BILINEAR))
    return resized[..., None] if resized.ndim == 2 else resized


def place(
    cache_dir: str | Path | None, name: str, side: int | None, folder: Path, files: Iterable[Path]
) -> Path | None:
    """Where decoded images are kept, as `_decoded.place`; those of other sizes elsewhere."""
    name = name.replace("/", "-") + (f"-{side}" if side else "")
    return _decoded.place(cache_dir, name, folder, files)


def kept(
    cached: Path | None,
    y: np.ndarray,
    pictures: Callable[[], Sequence[Picture]],
    side: int | None,
    progress: Progress | None,
) -> Arrays:
    """Decoded images, from the cache or for it, and their labels, which may have changed since: they are of `y`."""
    part = _decoded.read(cached) if cached else None
    if part is None:
        try:
            part = decode(pictures(), side, progress), y
        except ValueError as error:
            raise DataError(f"data set: {error}") from None
        if cached and y.dtype.kind in "iu":
            _decoded.write(cached, *part)
    return part[0], y
