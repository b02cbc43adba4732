"""Unroll adds back what it took."""

import numpy as np
import pytest

from camu_jax import loop
from camu_jax.methods import unroll
from camu_jax.training import train_step
from tests.baselines.support import BN, KEY, LINEAR, close, differ, np_model, np_softmax, student, unlearn, whole


@pytest.mark.parametrize("batch_size", [8, 32])
def test_unroll_returns_to_the_original_without_a_retain_set(problem, batch_size):
    state = unroll.UnrollState.create(student(BN, problem.original, 0.05))
    state = loop.run(unroll.forget_step, state, loop.Stream(problem.forget, batch_size), key=KEY, epochs=3)
    assert differ(state.student.variables["params"], problem.original["params"]) > 1e-3
    close(state.added_back(0.05)["params"], problem.original["params"], atol=1e-5)


def test_unroll_without_adding_back_is_incremental_training(linear):
    predictor = unlearn("unroll", linear, sigma=0.0)
    state = student(LINEAR, linear.original, 0.01)
    for number, part in enumerate((linear.forget, linear.retain)):  # the forget set comes first
        state = loop.run(train_step, state, whole(part), key=KEY, epochs=1, first_epoch=number)
    close(predictor.variables, state.variables)


def test_unroll_variants_take_the_same_gradient_of_a_single_batch(linear):
    """The first recorded gradient is that at the original's parameters; later epochs differ."""
    once = [unlearn(name, linear).variables for name in ("unroll", "unroll:single_gradient")]
    close(*once)
    twice = [unlearn(name, linear, epochs=2, sigma=1.0).variables for name in ("unroll", "unroll:single_gradient")]
    assert differ(*twice) > 1e-4


def test_unroll_single_gradient_counts_every_epoch(linear):
    plain, undone = (
        unlearn("unroll:single_gradient", linear, sigma=sigma, epochs=3).variables["params"] for sigma in (0.0, 0.5)
    )
    x, z, y = np_model(linear.original, linear.forget)
    gradient = x.T @ (np_softmax(z) - y) / 32
    np.testing.assert_allclose(undone["kernel"] - plain["kernel"], 3 * 0.5 * gradient, atol=1e-6)
