"""The ablations of CaMU, and what the baselines needed of the library."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from camu_jax import Camu, Problem, from_linen, loop, unlearn
from camu_jax.methods.camu import ABLATIONS
from camu_jax.rows import is_picked
from camu_jax.training import train_step
from tests.baselines.support import CLASSES, KEY, LINEAR, QUICK, quick, same, student, whole
from tests.helpers import Normed, fresh


def test_ablations_remove_their_terms(linear, monkeypatch):
    heard = {}

    def run(step, state, *streams, key, **_):
        batches = [jax.tree.map(lambda a: a[:32], stream.rows, is_leaf=is_picked) for stream in streams]
        heard[name] = set(jax.eval_shape(lambda *args: step(*args, key=key), state, *batches)[1])
        return state

    monkeypatch.setattr(loop, "run", run)
    for name, changes in {"full": {}, **ABLATIONS}.items():  # noqa: B007  # `run` reads the name
        unlearn(KEY, linear, dataclasses.replace(Camu(epochs=1), **changes))
    assert heard.pop("finetune") == {"ce"} and all(losses == {"kl", "ce"} for losses in heard.values())


def test_loop_goes_on_where_it_stopped(linear):
    state = student(LINEAR, linear.original, 0.01)
    at_once = loop.run(train_step, state, whole(linear.retain), key=KEY, epochs=3)
    half = loop.run(train_step, state, whole(linear.retain), key=KEY, epochs=1)
    resumed = loop.run(train_step, half, whole(linear.retain), key=KEY, epochs=2, first_epoch=1)
    assert same(resumed.variables, at_once.variables)


@pytest.mark.parametrize("shuffle", [True, False])
def test_loop_runs_over_a_subset(linear, shuffle):
    rows = jnp.asarray([5, 2, 100, 7, 42, 8, 9])
    state = student(LINEAR, linear.original, 0.01)
    subset = loop.Stream(linear.retain, 3, shuffle, rows)
    assert len(subset) == 7 and subset.batches == 3
    expected = loop.run(train_step, state, loop.Stream(linear.retain[rows], 3, shuffle), key=KEY, epochs=2)
    assert same(loop.run(train_step, state, subset, key=KEY, epochs=2).variables, expected.variables)


@pytest.mark.parametrize("name", [*QUICK, "camu"])
def test_every_state_keeps_its_types(name, digits, monkeypatch):
    """Shapes, dtypes and weak types, also of a model in bfloat16: what `jax.lax.scan` asks of a carry."""

    def run(step, state, *streams, key, **_):
        batches = [jax.tree.map(lambda a: a[:16], stream.rows, is_leaf=is_picked) for stream in streams]
        with jax.numpy_dtype_promotion("standard"):
            before = jax.eval_shape(lambda s: s, state)
            after = jax.eval_shape(lambda s: step(s, *batches, key=key)[0], state)
        assert jax.tree.structure(after) == jax.tree.structure(before)
        for (at, old), new in zip(jax.tree.leaves_with_path(before), jax.tree.leaves(after), strict=True):
            types = [(leaf.shape, leaf.dtype, leaf.weak_type) for leaf in (old, new)]
            assert types[0] == types[1], jax.tree_util.keystr(at)
        steps.append(step)
        return state

    steps = []
    monkeypatch.setattr(loop, "run", run)
    model = from_linen(Normed(CLASSES), (28, 28, 1))
    settings = Camu(epochs=1) if name == "camu" else quick(name)
    for dtype in (jnp.float32, jnp.bfloat16):
        original = jax.tree.map(lambda a, dtype=dtype: a.astype(dtype), fresh(model))
        with jax.numpy_dtype_promotion("standard"):
            unlearn(KEY, Problem(model, original, digits[:32], digits[32:]), settings)
    assert steps
