"""Weights come back bit by bit from each format, and what does not fit is named."""

import json
import sys

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import camu_jax
from camu_jax import Predictor, weights
from camu_jax.weights import WeightsError
from tests.helpers import NORMED, PLAIN, fresh

PATHS = ["ckpt", "weights.safetensors", "weights.npz"]
ODD = {
    "params": {"dense": {"kernel": jnp.arange(6.0).reshape(2, 3), "bias": jnp.array([-0.0, 1e-40, jnp.inf])}},
    "batch_stats": {"mean": jnp.ones(3, jnp.bfloat16), "count": jnp.int32(7)},
}


def bits(tree):
    return jax.tree.map(lambda a: (a.dtype, a.tobytes()), jax.device_get(tree))


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("variables", [ODD, fresh(PLAIN), fresh(NORMED)], ids=["odd", "plain", "batchnorm"])
def test_round_trip_is_bit_equal(tmp_path, name, variables):
    weights.save(tmp_path / name, variables)
    loaded = weights.load(tmp_path / name, jax.eval_shape(lambda: variables))
    assert bits(loaded) == bits(variables)
    assert weights.digest(loaded) == weights.digest(variables)
    assert [p.name for p in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", PATHS)
def test_saving_again_replaces(tmp_path, name):
    weights.save(tmp_path / name, fresh(PLAIN))
    weights.save(tmp_path / name, fresh(PLAIN, 1))
    chex.assert_trees_all_equal(weights.load(tmp_path / name, fresh(PLAIN)), fresh(PLAIN, 1))
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_digests_tell_values_names_and_types_apart():
    variables = fresh(PLAIN)
    others = [
        fresh(PLAIN, 1),
        {**variables, "batch_stats": {"a": jnp.zeros(1)}},
        jax.tree.map(lambda a: a.astype(jnp.bfloat16), variables),
        {"params": {"other": variables["params"]["embed"], "classify": variables["params"]["classify"]}},
    ]
    assert len({weights.digest(v) for v in [variables, *others]}) == 5


@pytest.mark.parametrize("joint", ["/", "."])
@pytest.mark.parametrize("collections", [True, False])
@pytest.mark.parametrize("model", [PLAIN, NORMED], ids=["plain", "batchnorm"])
def test_names_that_other_code_writes(tmp_path, joint, collections, model):
    variables = fresh(model)
    flat = weights.flat(variables)
    named = {(n if collections else n.partition("/")[2]).replace("/", joint): np.asarray(a) for n, a in flat.items()}
    np.savez(tmp_path / "w.npz", **named)
    chex.assert_trees_all_equal(weights.load(tmp_path / "w.npz", variables), variables)


@pytest.mark.parametrize("joint", ["/", "."])
@pytest.mark.parametrize("collections", [True, False])
@pytest.mark.parametrize("name", PATHS[1:])
def test_new_weights_take_the_names_of_others(tmp_path, name, joint, collections):
    """The code that wrote the original reads the result: names, and dtypes; no optimizer's state is carried over."""
    old, new = fresh(NORMED), fresh(NORMED, 1)
    flat = weights.flat(old)
    named = {(n if collections else n.partition("/")[2]).replace("/", joint): a for n, a in flat.items()}
    named = {n: a.astype(jnp.float16) if n.endswith("bias") else a for n, a in named.items()}
    extra = {f"opt_state{joint}mu": jnp.zeros(3)} if collections else {}
    weights._WRITERS[weights.format_of(name)](tmp_path / name, named | extra)
    weights.save(tmp_path / f"new-{name}", new, like=tmp_path / name)
    found = weights._READERS[weights.format_of(name)](tmp_path / f"new-{name}")
    assert {n: a.dtype for n, a in found.items()} == {n: a.dtype for n, a in named.items()}
    loaded = weights.load(tmp_path / f"new-{name}", new)
    chex.assert_trees_all_close(loaded, new, atol=1e-3)  # float16
    chex.assert_trees_all_equal(loaded["batch_stats"]["norm"]["mean"], new["batch_stats"]["norm"]["mean"])


def test_new_weights_take_the_tree_of_an_nnx_state(tmp_path):
    old, module = Net(nnx.Rngs(3)), Net(nnx.Rngs(4))
    _, variables = camu_jax.from_nnx(Net, module)
    state = nnx.state(old, nnx.Not(nnx.RngState))
    orbax(tmp_path / "ckpt", state)
    weights.save(tmp_path / "new", variables, like=tmp_path / "ckpt")
    import orbax.checkpoint.experimental.v1 as ocp

    nnx.update(old, ocp.load((tmp_path / "new").resolve(), jax.tree.map(jnp.zeros_like, state)))
    chex.assert_trees_all_equal(nnx.to_pure_dict(nnx.state(old, nnx.Param)), variables["params"])


def test_weights_like_those_of_another_model_are_refused(tmp_path):
    weights.save(tmp_path / "a.npz", fresh(PLAIN))
    with pytest.raises(WeightsError, match="do not fit the model"):
        weights.save(tmp_path / "b.npz", fresh(NORMED), like=tmp_path / "a.npz")
    with pytest.raises(FileNotFoundError, match="are not there"):
        weights.save(tmp_path / "b.npz", fresh(PLAIN), like=tmp_path / "none.npz")
    assert [p.name for p in tmp_path.iterdir()] == ["a.npz"]


def test_floats_of_another_precision_are_converted(tmp_path):
    variables = jax.tree.map(lambda a: jnp.round(a * 8) / 8, fresh(PLAIN))
    weights.save(tmp_path / "w.safetensors", jax.tree.map(lambda a: a.astype(jnp.bfloat16), variables))
    chex.assert_trees_all_equal(weights.load(tmp_path / "w.safetensors", variables), variables)


def orbax(path, tree):
    import orbax.checkpoint as ocp

    with ocp.StandardCheckpointer() as writer:
        writer.save(path.resolve(), tree)


def test_a_training_state_of_orbax(tmp_path):
    """The optimizer's state and the step are not the model's."""
    variables = fresh(NORMED)
    state = {**variables, "opt_state": {"mu": variables["params"]}, "step": jnp.int32(3)}
    orbax(tmp_path / "ckpt", state)
    chex.assert_trees_all_equal(weights.load(tmp_path / "ckpt", variables), variables)


class Net(nnx.Module):
    """A list, BatchNorm and Dropout."""

    def __init__(self, rngs):
        self.layers = nnx.List([nnx.Linear(16, 5, rngs=rngs), nnx.Linear(5, 3, rngs=rngs)])
        self.norm = nnx.BatchNorm(5, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        embedding = self.drop(self.norm(self.layers[0](x.reshape(len(x), -1))))
        return self.layers[1](embedding), embedding


@pytest.mark.parametrize("pure", [True, False])
def test_the_state_of_an_nnx_module(tmp_path, pure):
    """As `nnx.state(module)` and as pure dicts; the keys of Dropout are no weights."""
    module = Net(nnx.Rngs(3))
    model, variables = camu_jax.from_nnx(Net, module)
    state = nnx.state(module, nnx.Not(nnx.RngState))
    orbax(tmp_path / "ckpt", nnx.to_pure_dict(state) if pure else state)
    like = jax.eval_shape(model.init, jax.random.key(0))
    chex.assert_trees_all_equal(weights.load(tmp_path / "ckpt", like), variables)


def test_what_camu_jax_saves(tmp_path):
    variables = fresh(NORMED)
    camu_jax.save(tmp_path / "ckpt", Predictor((variables,), NORMED))
    chex.assert_trees_all_equal(weights.load(tmp_path / "ckpt", variables), variables)
    camu_jax.save(tmp_path / "two", Predictor((variables, variables), NORMED))
    with pytest.raises(WeightsError, match="those of 2 models"):
        weights.load(tmp_path / "two", variables)


def test_steps_of_a_checkpoint_manager(tmp_path):
    import orbax.checkpoint as ocp

    variables = fresh(PLAIN)
    with ocp.CheckpointManager((tmp_path / "ckpt").resolve()) as manager:
        for step in (1, 20):
            manager.save(step, args=ocp.args.StandardSave(variables))
    with pytest.raises(WeightsError, match=r"holds the steps \[1, 20\]; allowed: one of them"):
        weights.load(tmp_path / "ckpt", variables)
    chex.assert_trees_all_equal(weights.load(tmp_path / "ckpt" / "20", variables), variables)


@pytest.mark.parametrize("name", PATHS)
def test_what_does_not_fit_is_listed(tmp_path, name):
    found = {
        "params": {"embed": {"kernel": jnp.zeros((3, 5)), "bias": jnp.zeros(5)}, "odd": jnp.zeros(2)},
        "batch_stats": {},
    }
    found["params"]["classify"] = {"kernel": jnp.zeros((5, 3), jnp.int32)}
    weights.save(tmp_path / name, found)
    with pytest.raises(WeightsError) as raised:
        weights.load(tmp_path / name, fresh(PLAIN))
    message = str(raised.value)
    assert "\n" not in message and f"weights {tmp_path / name} do not fit the model" in message
    for part in (
        "missing: params/classify/bias (3,)",
        "of another shape: params/embed/kernel (3, 5) where the model has (16, 5)",
        "of another dtype: params/classify/kernel int32 where the model has float32",
        "not in the model: params/odd (2,)",
    ):
        assert part in message


def test_a_long_list_is_cut(tmp_path):
    class Deep(nn.Module):
        @nn.compact
        def __call__(self, x):
            for _ in range(20):
                x = nn.Dense(2)(x)
            return x

    like = camu_jax.from_linen(Deep(), (2,)).init(jax.random.key(0))
    weights.save(tmp_path / "w.npz", {"params": {}, "batch_stats": {}})
    with pytest.raises(WeightsError, match="and 34 more$"):
        weights.load(tmp_path / "w.npz", like)


@pytest.mark.parametrize("name", PATHS[1:])
@pytest.mark.parametrize("share", [0, 0.5, 0.99])
def test_a_damaged_file_is_one_line(tmp_path, name, share):
    weights.save(tmp_path / name, fresh(PLAIN))
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(WeightsError) as raised:
        weights.load(tmp_path / name, fresh(PLAIN))
    assert "cannot be read as" in str(raised.value) and "\n" not in str(raised.value)


def test_a_folder_of_something_else_is_one_line(tmp_path):
    (tmp_path / "ckpt").mkdir()
    (tmp_path / "ckpt" / "notes.json").write_text(json.dumps({}))
    with pytest.raises(WeightsError) as raised:
        weights.load(tmp_path / "ckpt", fresh(PLAIN))
    assert "cannot be read as orbax" in str(raised.value) and "\n" not in str(raised.value)


def test_names_of_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="are not there"):
        weights.load(tmp_path / "nowhere", fresh(PLAIN))
    with pytest.raises(WeightsError, match="ending '.pt'; allowed: a folder, .safetensors or .npz"):
        weights.save(tmp_path / "w.pt", fresh(PLAIN))
    assert [weights.format_of(tmp_path / name) for name in PATHS] == ["orbax", "safetensors", "npz"]


def test_without_safetensors(tmp_path, monkeypatch):
    weights.save(tmp_path / "w.safetensors", fresh(PLAIN))
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(WeightsError, match="safetensors is not installed; allowed: pip install"):
        weights.load(tmp_path / "w.safetensors", fresh(PLAIN))
