"""Normalisation against NumPy, and what each augmentation may and may not do to an image."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from camu_jax import Pipeline
from tests.helpers import assert_close

RNG = np.random.default_rng(0)
training = jax.jit(Pipeline.training, static_argnums=0)
STORED = jnp.asarray(RNG.integers(0, 256, (3, 8, 6, 3), np.uint8))
CIFAR = dict(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


@pytest.mark.parametrize("settings", [{}, {"mean": (0.5,), "std": (0.25,)}, CIFAR], ids=["plain", "grey", "colour"])
def test_clean_equals_numpy(settings):
    pipeline = Pipeline(**settings)
    found = pipeline.clean(STORED)
    chex.assert_type(found, jnp.float32)
    expected = (np.asarray(STORED, np.float64) / 255 - np.array(pipeline.mean)) / np.array(pipeline.std)
    assert_close(found, expected)
    assert_close(pipeline.normalise(STORED.astype(jnp.float32) / 255), expected)


@pytest.mark.parametrize("augment", ["none", "crop_flip", "resized_crop"])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_floating_images_pass_unchanged(key, augment, dtype):
    pipeline, x = Pipeline(**CIFAR, augment=augment, image_size=4), STORED.astype(dtype)
    for found in (pipeline.clean(x), pipeline.training(key, x)):
        chex.assert_trees_all_equal(found, x)
        chex.assert_type(found, dtype)


@pytest.mark.parametrize(("size", "shape"), [(None, (8, 6, 3)), (8, (8, 8, 3)), (16, (16, 16, 3)), (4, (4, 4, 3))])
@pytest.mark.parametrize("augment", ["none", "crop_flip"])
def test_image_size(key, size, shape, augment):
    pipeline = Pipeline(image_size=size, augment=augment)
    assert pipeline.image_shape((8, 6, 3)) == shape
    chex.assert_shape([pipeline.clean(STORED), pipeline.training(key, STORED)], (3, *shape))


def test_resizing_keeps_a_constant_and_the_order_of_a_ramp():
    constant = Pipeline(image_size=5).clean(jnp.full((1, 8, 8, 1), 51, jnp.uint8))
    assert_close(constant, np.full((1, 5, 5, 1), 0.2))
    ramp = jnp.broadcast_to(jnp.arange(0, 240, 30, dtype=jnp.uint8).reshape(1, 1, 8, 1), (1, 8, 8, 1))
    rows = np.asarray(Pipeline(image_size=16).clean(ramp))[0, :, :, 0]
    assert (np.diff(rows, axis=1) >= 0).all() and (rows == rows[:1]).all() and rows[0, 0] < rows[0, -1]


def test_normalise_is_differentiable():
    gradient = jax.grad(lambda x: Pipeline(**CIFAR).normalise(x).sum())(STORED.astype(jnp.float32) / 255)
    assert_close(gradient, np.broadcast_to(1 / np.array(CIFAR["std"]), STORED.shape))


def windows(image):
    """Every 9 x 9 shifted window of the padded image, and its mirror image, by (y, x, flipped)."""
    h, w, _ = image.shape
    padded = np.pad(image, ((4, 4), (4, 4), (0, 0)))
    for y in range(9):
        for x in range(9):
            window = padded[y : y + h, x : x + w]
            yield (y, x, False), window
            yield (y, x, True), window[:, ::-1]


def test_crop_flip_only_moves_pixels(key):
    """Each result is one window of its own image; every shift and both directions come up."""
    image = np.arange(1, 8 * 6 * 3 + 1, dtype=np.uint8).reshape(8, 6, 3)
    count = 400
    x = jnp.broadcast_to(jnp.asarray(image), (count, 8, 6, 3))
    results = np.asarray(training(Pipeline(augment="crop_flip"), key, x) * 255).round().astype(np.uint8)
    where = {window.tobytes(): place for place, window in windows(image)}
    assert len(where) == 9 * 9 * 2
    places = [where[result.tobytes()] for result in results]  # a KeyError is a result that is no window
    ys, xs, flipped = (np.array(part) for part in zip(*places, strict=True))
    assert set(ys) == set(xs) == set(range(9))
    assert np.bincount(ys).min() > count / 9 / 2 and np.bincount(xs).min() > count / 9 / 2
    assert 0.4 < flipped.mean() < 0.6 and len(set(places)) > 100


def test_each_image_gets_its_own_window(key):
    """The batch is augmented image by image: none takes pixels from another."""
    x = jnp.stack([jnp.full((8, 8, 1), value, jnp.uint8) for value in (50, 100, 150)])
    results = np.asarray(training(Pipeline(augment="crop_flip"), key, x) * 255).round()
    assert [set(np.unique(result)) <= {0, value} for result, value in zip(results, (50, 100, 150), strict=True)]
    assert [result.max() for result in results] == [50, 100, 150]


@pytest.mark.parametrize("size", [None, 12])
def test_resized_crop(key, size):
    x = jnp.asarray(RNG.integers(60, 200, (32, 8, 8, 3), np.uint8))
    results = training(Pipeline(augment="resized_crop", image_size=size), key, x)
    chex.assert_shape(results, (32, size or 8, size or 8, 3))
    chex.assert_type(results, jnp.float32)
    assert float(results.min()) >= 60 / 255 - 1e-6 and float(results.max()) <= 199 / 255 + 1e-6
    flat = training(Pipeline(augment="resized_crop", image_size=size), key, jnp.full_like(x, 77))
    assert_close(flat, np.full(flat.shape, 77 / 255))


def test_resized_crop_takes_areas_of_8_to_100_percent_at_either_side(key):
    """On a ramp from left to right the spread of a row tells the crop's width, its mean the place and direction."""
    ramp = jnp.broadcast_to(jnp.arange(0, 256, 4, dtype=jnp.uint8).reshape(1, 1, 64, 1), (200, 64, 64, 1))
    rows = np.asarray(training(Pipeline(augment="resized_crop"), key, ramp))[:, 0, :, 0] * 255 / 4
    width = np.abs(rows[:, -1] - rows[:, 0]) + 1
    assert 64 * np.sqrt(0.08 * 3 / 4) - 3 < width.min() < 25 and width.max() > 55
    mirrored = rows[:, -1] < rows[:, 0]
    assert 0.35 < mirrored.mean() < 0.65
    assert rows.mean(1).min() < 20 and rows.mean(1).max() > 44


@pytest.mark.parametrize("augment", ["crop_flip", "resized_crop"])
def test_the_key_alone_decides(key, augment):
    first, same, other = (training(Pipeline(augment=augment), k, STORED) for k in (key, key, jax.random.key(1)))
    chex.assert_trees_all_equal(first, same)
    assert bool((first != other).any())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(augment="flip"), "augment is 'flip'; allowed: none, crop_flip, resized_crop"),
        (dict(std=(0.5, 0.0)), "std is 0.0; allowed: a finite number > 0"),
        (dict(std=(float("nan"),)), "std is nan"),
        (dict(image_size=0), "image_size is 0; allowed: a finite number >= 1"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        Pipeline(**settings)
