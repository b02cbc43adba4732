"""A model that knows labels by heart which nobody could guess, and requests to delete some of them."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from camu_jax import Camu, Examples, Problem, Retrain, TrainSettings, from_linen, train
from camu_jax.deletion import Request

SHAPE, CLASSES = (16,), 4
TRAINING = TrainSettings(epochs=40, batch_size=16, learning_rate=1e-2, l2=0.0)


class Net(nn.Module):
    """Wide enough for that."""

    @nn.compact
    def __call__(self, x):
        embedding = nn.relu(nn.Dense(64)(x))
        return nn.Dense(CLASSES)(embedding), embedding


MODEL = from_linen(Net(), SHAPE)


def random_labels(seed, count):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, *SHAPE)).astype(np.float32)
    return Examples(jnp.asarray(x), jnp.asarray(rng.integers(0, CLASSES, count, np.int32)), CLASSES)


@pytest.fixture(scope="session")
def rows():
    return list(range(0, 120, 4))


@pytest.fixture(scope="session")
def data():
    return random_labels(0, 120), random_labels(1, 150)


@pytest.fixture(scope="session")
def original(data):
    return train(jax.random.key(5), MODEL, data[0], TRAINING)


@pytest.fixture(scope="session")
def request_of(data, original, rows):
    """Makes a request with other settings."""

    def make(settings=None, *, forget=None, **changes):
        problem = Problem.from_rows(MODEL, original, data[0], rows if forget is None else forget)
        defaults = dict(key=jax.random.key(1), problem=problem, test=data[1], training=TRAINING, count=6)
        settings = settings or Retrain(**dataclasses.asdict(TRAINING))
        return Request(**{**defaults, "settings": settings, **changes})

    return make


NOTHING = Camu(epochs=1, kl_learning_rate=0.0, ce_learning_rate=0.0)
"""Deletes nothing at all."""
