"""Adam and gradient descent with L2 as PyTorch defines them, written out in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from camu_jax.optimizers import adam_l2, sgd_l2
from tests.helpers import assert_close

START = np.array([0.5, -2.0, 3.0])
GRADIENTS = np.random.default_rng(0).normal(size=(5, 3))


def np_adam(w, lr, l2):
    m = v = np.zeros(3)
    for t, g in enumerate(GRADIENTS, 1):
        g = g + l2 * w
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        w = w - lr * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
    return w


def np_sgd(w, lr, l2, momentum):
    velocity = np.zeros(3)
    for g in GRADIENTS:
        velocity = momentum * velocity + g + l2 * w
        w = w - lr * velocity
    return w


@pytest.mark.parametrize(
    ("optimizer", "expected"),
    [
        (adam_l2(0.1, 0.0), np_adam(START, 0.1, 0.0)),
        (adam_l2(0.1, 0.5), np_adam(START, 0.1, 0.5)),
        (adam_l2(0.01), np_adam(START, 0.01, 1e-4)),
        (sgd_l2(0.1), np_sgd(START, 0.1, 0.0, 0.0)),
        (sgd_l2(0.1, 0.9, 0.5), np_sgd(START, 0.1, 0.5, 0.9)),
        (sgd_l2(0.1, l2=0.5), np_sgd(START, 0.1, 0.5, 0.0)),
    ],
)
def test_updates_equal_numpy(optimizer, expected):
    w = jnp.asarray(START, jnp.float32)
    state = optimizer.init(w)
    for g in GRADIENTS:
        updates, state = optimizer.update(jnp.asarray(g, jnp.float32), state, w)
        w = optax.apply_updates(w, updates)
    assert_close(w, expected)


def test_a_schedule_is_a_learning_rate(key):
    params = {"w": jax.random.normal(key, (4,))}
    halved = sgd_l2(lambda count: 0.1 / 2**count)
    state = halved.init(params)
    for rate in (0.1, 0.05, 0.025):
        updates, state = halved.update(params, state, params)
        assert_close(updates, jax.tree.map(lambda w, rate=rate: -rate * w, params))
