"""An Equinox module as a `Model` computes what the module itself computes."""

import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import camu_jax
from camu_jax import weights
from tests.helpers import examples

eqx = pytest.importorskip("equinox")
IMAGE, CLASSES = (4, 4, 1), 3


class Net(eqx.Module):
    """A list of layers, Dropout between them, and an array that is not trained."""

    layers: list
    drop: eqx.nn.Dropout
    order: jax.Array

    def __init__(self, key):
        first, last = jax.random.split(key)
        self.layers = [eqx.nn.Linear(16, 5, key=first), eqx.nn.Linear(5, CLASSES, key=last)]
        self.drop, self.order = eqx.nn.Dropout(0.5), jnp.arange(16)[::-1]

    def __call__(self, x, key=None):
        embedding = self.drop(self.layers[0](x.reshape(-1)[self.order]), key=key)
        return self.layers[1](embedding), embedding


class Normed(eqx.Module):
    """BatchNorm, whose statistics are state."""

    first: eqx.nn.Linear
    norm: eqx.nn.BatchNorm
    last: eqx.nn.Linear

    def __init__(self, key, mode="batch"):
        first, last = jax.random.split(key)
        self.first, self.last = eqx.nn.Linear(16, 5, key=first), eqx.nn.Linear(5, CLASSES, key=last)
        self.norm = eqx.nn.BatchNorm(5, axis_name="batch", mode=mode)

    def __call__(self, x, state):
        h, state = self.norm(self.first(x.reshape(-1)), state)
        return self.last(h), state


def normed(key, mode="batch"):
    return eqx.nn.make_with_state(Normed)(key, mode)


@pytest.fixture
def x():
    return examples(0, 12, image=IMAGE).x


def test_evaluation_is_the_modules_own(key, x):
    trained = Net(jax.random.key(5))
    model, variables = camu_jax.from_equinox(Net, trained)
    logits, embedding = jax.vmap(eqx.nn.inference_mode(trained))(x)
    outputs = jax.jit(model.eval)(variables, x)
    chex.assert_trees_all_close((outputs.logits, outputs.embedding), (logits, embedding), rtol=1e-5)
    chex.assert_trees_all_equal_shapes_and_dtypes(model.init(key), variables)
    assert list(weights.flat(variables))[:2] == ["batch_stats/order", "params/layers/0/bias"]


def test_training_draws_from_the_key(key, x):
    model, variables = camu_jax.from_equinox(Net)
    one, again, other = (model.apply(variables, x, train=True, key=jax.random.key(k))[0].logits for k in (1, 1, 2))
    assert bool((one == again).all()) and bool((one != other).any())
    rows = model.apply(variables, jnp.broadcast_to(x[:1], x.shape), train=True, key=key)[0].embedding
    assert len(np.unique(np.asarray(rows), axis=0)) > 1  # each example draws its own
    with pytest.raises(ValueError, match="key is None; allowed in training"):
        model.apply(variables, x, train=True)
    assert bool((model.eval(variables, x).logits == model.eval(variables, x).logits).all())


@pytest.mark.parametrize("mode", ["batch", "ema"])
def test_the_state_is_that_of_the_module(x, mode):
    module, state = normed(jax.random.key(3), mode)
    model, variables = camu_jax.from_equinox(lambda key: normed(key, mode), (module, state))
    for _ in range(3):
        outputs, stats = jax.jit(lambda v: model.apply(v, x, train=True))(variables)
        expected, state = jax.vmap(module, (0, None), (0, None), axis_name="batch")(x, state)
        chex.assert_trees_all_close(outputs.logits, expected, rtol=1e-4, atol=1e-5)
        variables = {**variables, "batch_stats": stats}
    chex.assert_trees_all_close(list(stats.values()), jax.tree.leaves(state), rtol=1e-5, atol=1e-6)
    still = eqx.nn.inference_mode(module)
    expected, _ = jax.vmap(still, (0, None), (0, None), axis_name="batch")(x, state)
    chex.assert_trees_all_close(model.eval(variables, x).logits, expected, rtol=1e-4, atol=1e-5)
    assert outputs.embedding is None


def test_the_trained_module_comes_back(x):
    """What was unlearned, in the owner's own module."""
    trained = Net(jax.random.key(5))
    _, variables = camu_jax.from_equinox(Net, trained)
    names = weights.flat(eqx.filter(trained, eqx.is_inexact_array))
    doubled = {name: 2 * array for name, array in variables["params"].items()}
    params, rest = eqx.partition(trained, eqx.is_inexact_array)
    found = eqx.combine(jax.tree.unflatten(jax.tree.structure(params), [doubled[name] for name in names]), rest)
    chex.assert_trees_all_equal(found.layers[0].weight, 2 * trained.layers[0].weight)


def test_equal_modules_are_equal_models():
    assert camu_jax.from_equinox(Net)[0] == camu_jax.from_equinox(Net)[0]


def test_something_else_is_refused(monkeypatch):
    with pytest.raises(TypeError, match="make returned a list; allowed: an Equinox module"):
        camu_jax.from_equinox(lambda key: [1])
    monkeypatch.setitem(sys.modules, "equinox", None)
    with pytest.raises(ImportError, match="equinox is not installed; allowed: pip install"):
        camu_jax.from_equinox(Net)
