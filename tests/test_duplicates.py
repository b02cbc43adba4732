"""Duplicates of forgotten rows in the retain set: copies, near ones, and no more false alarms than are stated."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from camu_jax import Examples, Predictor, duplicates
from tests.helpers import PLAIN, fresh


def test_the_worked_example():
    places = np.cumsum(np.linspace(1, 2, 200))[:, None]
    forget = places[[150]] + 0.4
    pairs, distance, threshold = duplicates.near(forget, places, level=0.01)
    assert pairs.tolist() == [[0, 150]] and np.isclose(distance[0], 0.4) and 1 < threshold < 1.02


def test_too_few_rows_say_nothing_and_a_wrong_level_is_named():
    rows = np.random.default_rng(0).normal(size=(50, 3))
    pairs, distance, threshold = duplicates.near(rows[:1], rows, level=0.01)
    assert threshold is None and pairs.shape == (0, 2) and distance.shape == (0,)
    with pytest.raises(ValueError, match="level is 0; allowed: between 0 and 1"):
        duplicates.near(rows, rows, level=0)


@pytest.mark.parametrize("level", [0.01, 0.05])
def test_false_alarms_are_as_many_as_stated(level):
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(9000, 4)) * rng.chisquare(3, (9000, 1)) ** -0.5  # of very different density
    pairs, _, _ = duplicates.near(rows[:3000], rows[3000:], level=level)
    alarms = len(np.unique(pairs[:, 0])) / 3000
    assert alarms < level + 4 * (level / 3000) ** 0.5 and alarms > level / 2


def test_copies_and_near_ones_among_real_digits(digits):
    """Copies whatever their labels; a copy with a little noise; both are found, and are told from each other."""
    x, y = np.asarray(digits.x), np.asarray(digits.y)
    noisy = np.clip(x[1].astype(np.int16) + np.random.default_rng(0).integers(-2, 3, x[1].shape), 0, 255)
    retain_x = np.concatenate([x[3:], x[:1], noisy[None].astype(np.uint8)])
    retain = Examples(jnp.asarray(retain_x), jnp.asarray([*y[3:], (y[0] + 1) % 10, y[1]], jnp.int32), 10)
    predictor = Predictor(({"params": {}, "batch_stats": {}},), _pixels())
    found = duplicates.find(predictor, digits[:3], retain)
    last = len(retain) - 1
    assert found.exact.tolist() == [[0, last - 1]] and found.near.tolist() == [[1, last]]
    assert 0 < found.distance[0] < found.threshold


def _pixels():
    """A model whose embedding is the image."""
    from camu_jax import Model, Outputs

    def apply(variables, x, *, train, key=None):
        flat = x.reshape(len(x), -1)
        return Outputs(flat[:, :10], flat), {}

    return Model(lambda key: {"params": {}, "batch_stats": {}}, apply)


def test_many_copies_in_the_retain_set_do_not_blind_it():
    rng = np.random.default_rng(0)
    x = rng.random((300, 4, 4, 1), np.float32)
    retain = Examples(jnp.asarray(np.concatenate([x[1:], x[1:]])), jnp.zeros(598, jnp.int32), 3)
    forget = Examples(jnp.asarray(x[:1] * 0 + x[1:2] + np.float32(1e-4)), jnp.zeros(1, jnp.int32), 3)
    found = duplicates.find(Predictor((fresh(PLAIN),), PLAIN), forget, retain)
    assert found.threshold > 0 and found.near.tolist()[0] == [0, 0] and len(found.exact) == 0
    assert jax.tree.all(jax.tree.map(np.isfinite, found.distance.tolist()))
