"""Boundary Shrink and Expand."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from camu_jax import Pipeline, evaluate, loop
from camu_jax.methods import boundary
from camu_jax.optimizers import sgd_l2
from camu_jax.training import TrainState, train_step
from tests.baselines.support import BN, CLASSES, KEY, LINEAR, PIXELS, WIDTH, close, quick, same, unlearn


def test_boundary_never_reinforces_unless_asked(problem):
    """With a step too short to cross, the official labels are y: training on them teaches the forget set again."""
    labels, crossed = boundary.nearest_labels(BN, problem.original, Pipeline(), problem.forget, epsilon=0.0)
    assert not (labels == problem.forget.y).any()
    official, _ = boundary.nearest_labels(
        BN, problem.original, Pipeline(), problem.forget, epsilon=0.0, keep_uncrossed=True
    )
    assert (official == problem.forget.y).mean() > 0.9
    assert float(unlearn("boundary", problem, epsilon=0.0).info["crossed"]) == float(crossed.mean()) < 0.1
    assert float(unlearn("boundary", problem, epsilon=0.3).info["crossed"]) > 0.5


@pytest.mark.parametrize("name", ["boundary", "boundary:expand"])
def test_boundary_reads_nothing_but_clean_forget_images(name, problem):
    retain = dataclasses.replace(problem.retain, x=jnp.zeros_like(problem.retain.x), y=jnp.zeros_like(problem.retain.y))
    blank = dataclasses.replace(problem, retain=retain, pipeline=Pipeline(augment="crop_flip"))
    assert same(unlearn(name, problem).variables, unlearn(name, blank).variables)


def test_boundary_shrink_is_training_on_the_labels(problem):
    labels, _ = boundary.nearest_labels(BN, problem.original, Pipeline(), problem.forget)
    settings = quick("boundary")
    state = TrainState.create(
        BN, problem.original, Pipeline(), sgd_l2(settings.learning_rate, settings.momentum, settings.l2)
    )
    stream = loop.Stream(dataclasses.replace(problem.forget, y=labels), 16)
    expected = loop.run(train_step, state, stream, key=jax.random.split(KEY)[1], epochs=2)
    assert same(unlearn("boundary", problem).variables, expected.variables)


def test_boundary_labels_do_not_depend_on_the_minibatches(linear, digits):
    many = digits[jnp.tile(jnp.arange(320), 2)]
    labels, crossed = boundary.nearest_labels(LINEAR, linear.original, Pipeline(), many)
    assert labels.shape == crossed.shape == (640,)
    np.testing.assert_array_equal(labels[:320], labels[320:])


def test_boundary_takes_floating_images_as_they_are(linear):
    images = linear.forget.x.astype(jnp.float32) / 255
    as_float, _ = boundary.nearest_labels(
        LINEAR, linear.original, Pipeline(), dataclasses.replace(linear.forget, x=images), epsilon=0.0
    )
    stored, _ = boundary.nearest_labels(LINEAR, linear.original, Pipeline(), linear.forget, epsilon=0.0)
    np.testing.assert_array_equal(as_float, stored)


def test_boundary_expand_adds_a_class_and_drops_it(problem):
    x = problem.pipeline.clean(problem.forget.x)
    image = jax.ShapeDtypeStruct((1, *x.shape[1:]), x.dtype)
    variables = boundary.expand(KEY, BN, problem.original, image)
    before, after = BN.eval(problem.original, x), boundary.expanded(BN, image).eval(variables, x)
    assert after.logits.shape == (32, CLASSES + 1)
    np.testing.assert_array_equal(after.logits[:, :CLASSES], before.logits)
    shadow = variables["params"]["shadow"]["kernel"]
    close(after.logits[:, CLASSES:], before.embedding @ shadow, atol=1e-5)
    scale = math.sqrt(2 / (WIDTH + CLASSES + 1))  # Xavier
    wide = boundary.expanded(LINEAR, image).init(KEY)["params"]["shadow"]["kernel"]
    assert float(jnp.std(wide)) == pytest.approx(math.sqrt(2 / (PIXELS + CLASSES + 1)), rel=0.1)
    assert 0.4 < float(jnp.std(shadow)) / scale < 1.6
    assert evaluate.outputs(unlearn("boundary:expand", problem), problem.forget.x).logits.shape == (32, CLASSES)
    assert same(unlearn("boundary:expand", problem, learning_rate=0.0).variables["params"], problem.original["params"])
