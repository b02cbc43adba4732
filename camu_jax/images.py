"""From stored uint8 images to a model's input, as pure functions that run inside the jitted step.

Whatever is not uint8 (floats, the tokens of a text) is a model's input as it is: nothing here changes it.
"""

import dataclasses
from typing import Literal, get_args

import jax
import jax.numpy as jnp

from camu_jax import _validate

Augmentation = Literal["none", "crop_flip", "resized_crop"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pipeline:
    """How images stored as uint8 reach the model. Inputs of another dtype pass unchanged, whatever is set here.

    Attributes:
      mean: per-channel mean of pixels in [0, 1], one entry or one a channel.
      std: per-channel standard deviation, likewise.
      image_size: side of the square the images are resized to; None keeps them.
      augment: in training, `none`; `crop_flip`, a random crop after 4 pixels of zero padding and a random
        horizontal flip; `resized_crop`, a random crop of 8 to 100% of the area and aspect ratio 3/4 to 4/3, resized,
        and a random flip (the authors' CIFAR pipeline, at image_size 224).
    """

    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    image_size: int | None = None
    augment: Augmentation = "none"

    def __post_init__(self) -> None:
        _validate.one_of(get_args(Augmentation), augment=self.augment)
        for value in self.std:
            _validate.above(0, std=value)
        if self.image_size is not None:
            _validate.at_least(1, image_size=self.image_size)

    def image_shape(self, stored: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of one model input, for images stored as `stored`."""
        return stored if self.image_size is None else (self.image_size, self.image_size, stored[2])

    def clean(self, x: jax.Array) -> jax.Array:
        """Resizes and normalises: `[B, h, w, c]` uint8 -> `[B, *image]` float32. Other inputs pass unchanged.

        Raises:
          ValueError: `mean` or `std` has neither one entry nor one a channel.
        """
        x = jnp.asarray(x)  # of `Picked` rows
        if x.dtype != jnp.uint8:
            return x
        return self.normalise(x.astype(jnp.float32) / 255)

    def normalise(self, x: jax.Array) -> jax.Array:
        """As `clean`, for pixels in [0, 1], `[B, h, w, c]` floating; differentiable."""
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, x.shape[3]):
                raise ValueError(
                    f"pipeline.{name} is {values}; allowed: 1 or {x.shape[3]} numbers, as images have {x.shape[3]} "
                    "channels"
                )
        shape = self.image_shape(x.shape[1:])
        if x.shape[1:] != shape:
            x = jax.image.resize(x, (x.shape[0], *shape), "linear")
        mean, std = (jnp.asarray(v, jnp.float32).reshape(1, 1, 1, -1) for v in (self.mean, self.std))
        return (x - mean) / std

    def training(self, key: jax.Array, x: jax.Array) -> jax.Array:
        """As `clean`, after one random augmentation of each stored image. Other inputs pass unchanged."""
        x = jnp.asarray(x)
        if self.augment == "none" or x.dtype != jnp.uint8:
            return self.clean(x)
        one = _crop_flip if self.augment == "crop_flip" else _resized_crop
        shape = self.image_shape(x.shape[1:])
        keys = jax.random.split(key, x.shape[0])
        return self.clean(jax.vmap(lambda k, image: one(k, image, shape))(keys, x))


def _flip(key: jax.Array, image: jax.Array) -> jax.Array:
    return jnp.where(jax.random.bernoulli(key), image[:, ::-1], image)


def _crop_flip(key: jax.Array, image: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    del shape  # crops keep the stored size
    crop_key, flip_key = jax.random.split(key)
    padded = jnp.pad(image, ((4, 4), (4, 4), (0, 0)))
    y, x = jax.random.randint(crop_key, (2,), 0, 9)
    return _flip(flip_key, jax.lax.dynamic_slice(padded, (y, x, 0), image.shape))


def _resized_crop(key: jax.Array, image: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    h, w, _ = image.shape
    area_key, ratio_key, at_key, flip_key = jax.random.split(key, 4)
    area = h * w * jax.random.uniform(area_key, minval=0.08, maxval=1.0)
    ratio = jnp.exp(jax.random.uniform(ratio_key, minval=jnp.log(3 / 4), maxval=jnp.log(4 / 3)))
    size = jnp.minimum(jnp.sqrt(jnp.stack([area / ratio, area * ratio])), jnp.array([h, w], jnp.float32))
    corner = jax.random.uniform(at_key, (2,)) * (jnp.array([h, w], jnp.float32) - size)
    scale = jnp.array(shape[:2], jnp.float32) / size
    resized = jax.image.scale_and_translate(
        image.astype(jnp.float32), shape, (0, 1), scale, -corner * scale, "linear", antialias=True
    )
    return _flip(flip_key, jnp.clip(jnp.round(resized), 0, 255).astype(jnp.uint8))
