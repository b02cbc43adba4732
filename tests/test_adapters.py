"""Modules of other people: layers that draw, flags of every name, logits alone; and their own jit and scan."""

import dataclasses

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import camu_jax
from camu_jax import Camu, Examples, Outputs, Problem, Retrain, from_linen, from_nnx, make_tuples
from camu_jax.audits import population
from camu_jax.training import TrainState, train_step
from tests.helpers import CLASSES, IMAGE, PLAIN, SETTINGS, assert_close, differ, examples, fresh

X = examples(0, 6).x


class Dropping(nn.Module):
    """BatchNorm and Dropout; the flag is keyword-only and inverted."""

    @nn.compact
    def __call__(self, x, *, deterministic):
        h = nn.Dense(8)(x.reshape(x.shape[0], -1))
        h = nn.Dropout(0.5, deterministic=deterministic)(h)
        embedding = nn.BatchNorm(use_running_average=deterministic)(h)
        return nn.Dense(CLASSES)(embedding), embedding


class Noisy(nn.Module):
    """A stream of another name; logits alone; a positional flag, which `nn.remat` needs as a static argument."""

    @nn.compact
    def __call__(self, x, training: bool = False):
        h = nn.Dense(8)(x.reshape(x.shape[0], -1))
        if training:
            h = h + jax.random.normal(self.make_rng("noise"), h.shape)
        return nn.Dense(CLASSES)(h)


class Nnx(nnx.Module):
    """Layers with a mode of their own, and a variable that is neither a parameter nor BatchNorm's."""

    def __init__(self, rngs):
        self.embed = nnx.Linear(16, 8, rngs=rngs)
        self.dropout, self.norm = nnx.Dropout(0.5, rngs=rngs), nnx.BatchNorm(8, rngs=rngs)
        self.classify = nnx.Linear(8, CLASSES, rngs=rngs)
        self.scale = nnx.Variable(jnp.float32(2.0))

    def __call__(self, x):
        embedding = self.norm(self.dropout(self.embed(x.reshape(x.shape[0], -1)))) * self.scale[...]
        return self.classify(embedding), embedding


class NnxCalled(nnx.Module):
    """Flag and random streams come with the call."""

    def __init__(self, rngs):
        self.embed, self.classify = nnx.Linear(16, 8, rngs=rngs), nnx.Linear(8, CLASSES, rngs=rngs)
        self.dropout = nnx.Dropout(0.5)

    def __call__(self, x, *, is_training, rngs):
        h = self.dropout(self.embed(x.reshape(x.shape[0], -1)), deterministic=not is_training, rngs=rngs)
        return self.classify(h), h


def make_nnx(rngs):
    return Nnx(rngs)


DRAWING = {
    "linen": from_linen(Dropping(), IMAGE),
    "noise": from_linen(Noisy(), IMAGE),
    "remat": from_linen(nn.remat(Noisy, static_argnums=(2,))(), IMAGE),
    "nnx": from_nnx(make_nnx)[0],
    "nnx_called": from_nnx(lambda rngs: NnxCalled(rngs))[0],
}


@pytest.mark.parametrize("name", DRAWING)
def test_training_draws_from_the_key_and_evaluation_does_not(name):
    model = DRAWING[name]
    variables = jax.jit(model.init)(jax.random.key(1))
    chex.assert_trees_all_equal(model.eval(variables, X), model.eval(variables, X))
    assert not np.isclose(np.asarray(model.eval(variables, X).logits), 0).all(axis=1).any()

    train = jax.jit(lambda key: model.train(variables, [X, X], key))
    (first, second), stats = train(jax.random.key(0))
    (same, _), _ = train(jax.random.key(0))
    (other, _), _ = train(jax.random.key(2))
    chex.assert_trees_all_equal(first, same)
    assert differ(first, other) and differ(first, second)  # each batch has draws of its own
    chex.assert_trees_all_equal_shapes_and_dtypes(stats, variables["batch_stats"])
    with pytest.raises(ValueError, match="key is None; allowed in training"):
        model.train(variables, [X])


@pytest.mark.parametrize("name", DRAWING)
def test_drawing_inside_scan_grad_and_vmap(name):
    model = DRAWING[name]
    variables = model.init(jax.random.key(1))
    keys = jax.random.split(jax.random.key(0), 3)

    def loss(params, stats, key):
        (out,), stats = model.train({"params": params, "batch_stats": stats}, [X], key)
        return jnp.mean(out.logits**2), stats

    def body(carry, key):
        params, stats = carry
        gradient, stats = jax.grad(loss, has_aux=True)(params, stats, key)
        return (jax.tree.map(lambda p, g: p - 0.01 * g, params, gradient), stats), None

    start = variables["params"], variables["batch_stats"]
    end, _ = jax.jit(lambda carry: jax.lax.scan(body, carry, keys))(start)
    assert differ(end, start)
    losses, _ = jax.vmap(lambda key: loss(*start, key))(keys)
    assert len(set(losses.tolist())) == 3


def test_equal_nnx_modules_compile_a_step_once():
    traced = []

    def step(state, batch, key):
        traced.append(1)
        return train_step(state, batch, key=key)

    jitted = jax.jit(step)
    for seed in (1, 2):
        model, variables = from_nnx(make_nnx, Nnx(nnx.Rngs(seed)))
        state = TrainState.create(model, variables, camu_jax.Pipeline(), camu_jax.training.adam_l2(1e-3))
        jitted(state, examples(0, 6), jax.random.key(0))
    assert len(traced) == 1


def test_variables_of_other_kinds_are_state_and_no_constants():
    model, variables = from_nnx(make_nnx, Nnx(nnx.Rngs(1)))
    assert variables["batch_stats"]["scale"] == 2
    doubled = {**variables, "batch_stats": {**variables["batch_stats"], "scale": jnp.float32(4.0)}}
    np.testing.assert_allclose(model.eval(doubled, X).embedding, 2 * model.eval(variables, X).embedding, rtol=1e-6)


@pytest.mark.parametrize("method", SETTINGS)
@pytest.mark.parametrize("name", ["linen", "noise"])
def test_every_method_takes_them(name, method):
    """With logits alone all but CaMU, which says what it needs."""
    model = DRAWING[name]
    problem = Problem.from_rows(model, model.init(jax.random.key(0)), examples(3, 40), forget=[3, 17, 22])
    settings = SETTINGS[method](**({} if method == "unroll" else {"epochs": 1}))
    if method == "camu" and name == "noise":
        with pytest.raises(ValueError, match="model returns no embedding; allowed: .logits, embedding."):
            camu_jax.unlearn(jax.random.key(0), problem, settings)
        return
    found = camu_jax.unlearn(jax.random.key(0), problem, settings)
    out = found(problem.forget.x)
    assert out.logits.shape == (3, CLASSES) and bool(jnp.isfinite(out.logits).all())
    chex.assert_trees_all_equal(out, found(problem.forget.x))


F, R = examples(1, 5), examples(2, 9)


def test_tuples_are_made_in_other_peoples_jit_and_scan():
    """F and R are closed over: they are concrete, but what is computed of them there would be traced."""
    expected = make_tuples(jax.random.key(3), F, R)
    chex.assert_trees_all_equal(jax.jit(lambda key: make_tuples(key, F, R))(jax.random.key(3)), expected)
    keys = jnp.stack([jax.random.key(3), jax.random.key(4)])
    _, found = jax.lax.scan(lambda _, key: (None, make_tuples(key, F, R)), None, keys)
    chex.assert_trees_all_equal(jax.tree.map(lambda a: a[0], found), expected)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (Examples(F.x, F.y + 3, CLASSES), "F.y holds the label"),
        (Examples(F.x.at[2].set(jnp.nan), F.y, CLASSES), "F.x holds NaN or infinity .first in example 2"),
    ],
)
def test_contents_are_looked_at_there_too(wrong, message):
    with pytest.raises(ValueError, match=message):
        jax.jit(lambda key: make_tuples(key, wrong, R))(jax.random.key(0))


def test_several_seeds_in_one_program():
    variables = fresh(PLAIN)
    keys = jax.random.split(jax.random.key(0), 2)
    for settings in (Retrain(epochs=1), Camu(epochs=1)):

        def unlearned(key, settings=settings):
            return camu_jax.unlearn(key, Problem(PLAIN, variables, F, R), settings)

        alone = [unlearned(key) for key in keys]
        for a, b in zip(population.make(unlearned, [(key,) for key in keys], at_once=2), alone, strict=True):
            assert_close(a.members, b.members, atol=1e-5)


def test_outputs_may_lack_an_embedding():
    model = from_linen(Noisy(), IMAGE)
    out = model.eval(model.init(jax.random.key(0)), X)
    assert isinstance(out, Outputs) and out.embedding is None
    assert dataclasses.replace(out, embedding=out.logits).embedding is not None
