"""The ablations of CaMU, and what the baselines needed of the library."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from camu_jax import Camu, Predictor, evaluate, loop, unlearn
from camu_jax.methods.camu import ABLATIONS
from camu_jax.training import train_step
from tests.baselines.support import KEY, LINEAR, same, student, whole


def test_ablations_remove_their_terms(linear, monkeypatch):
    heard = {}

    def run(step, state, *streams, key, **_):
        batches = [jax.tree.map(lambda a: a[:32], stream.rows) for stream in streams]
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


def test_info_is_no_part_of_the_prediction(linear):
    plain = Predictor((linear.original,), LINEAR)
    told = dataclasses.replace(plain, info={"crossed": jnp.float32(0.5)})
    programs = evaluate._call._cache_size()
    outputs = [evaluate.outputs(p, linear.forget.x).logits for p in (plain, told)]
    np.testing.assert_array_equal(*outputs)
    assert evaluate._call._cache_size() <= programs + 1
