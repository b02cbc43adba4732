"""Problems on real digits that the tests of the baselines share."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from camu_jax import Problem, TrainSettings, train
from tests.baselines.support import BN, LINEAR, make_problem


@pytest.fixture(scope="session")
def originals(digits):
    settings = TrainSettings(epochs=10, learning_rate=3e-3)
    return {model: train(jax.random.key(0), model, digits, settings) for model in (LINEAR, BN)}


@pytest.fixture
def problem(digits, originals):
    return make_problem(digits, originals, BN)


@pytest.fixture
def linear(digits, originals):
    return make_problem(digits, originals, LINEAR)


@pytest.fixture
def class_problem(digits, originals):
    forget = np.asarray(digits.y) == 0
    parts = digits[jnp.flatnonzero(forget)], digits[jnp.flatnonzero(~forget)]
    return Problem(model=BN, original=originals[BN], forget=parts[0], retain=parts[1])
