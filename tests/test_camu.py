"""Algorithm 2: its objectives in float64 NumPy, its order, and that the step is pure, donated and composable."""

import dataclasses
import inspect

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.test_util import check_grads

from camu_jax import Camu, CamuLosses, Tuples, camu_step, from_linen, init_camu, make_tuples
from camu_jax.camu import ce_loss, kl_loss
from camu_jax.optimizers import adam_l2, sgd_l2
from experiments.defaults import defaults
from tests.helpers import (
    IMAGE,
    NORMED,
    PLAIN,
    Plain,
    assert_close,
    differ,
    examples,
    fresh,
    np_cross_entropy,
    np_kl,
    np_plain,
)

REFERENCE, PAPER = Camu.reference().losses, Camu.paper().losses
PRESETS = pytest.mark.parametrize("settings", [REFERENCE, PAPER], ids=["reference", "paper"])
COMPOSED = pytest.mark.parametrize(
    ("model", "settings"), [(PLAIN, PAPER), (NORMED, REFERENCE)], ids=["plain", "batchnorm"]
)
WEIGHTS = ("kl_forget", "kl_retain", "ce_forget", "ce_retain")
# Gradient descent, because Adam turns the rounding of a gradient near 0 into a full step.
SGD = dict(kl_optimizer=sgd_l2(0.05, l2=0.01), ce_optimizer=sgd_l2(0.3, l2=0.01))


@pytest.fixture(scope="module")
def S():
    """24 tuples, three minibatches."""
    return make_tuples(jax.random.key(5), examples(1, 24), examples(2, 30), labels="uniform", replace=True)


@pytest.fixture(scope="module")
def batch(S):
    return rows(S, slice(0, 8))


def rows(S, which):
    return jax.tree.map(lambda a: a[which], S)


def start(model, settings=REFERENCE, seed=0, **optimizers):
    """Parameters some way into unlearning: the current model is not the original one."""
    params = init_camu(model, fresh(model, seed), settings, **(optimizers or SGD))
    return dataclasses.replace(params, variables=jax.tree.map(jnp.copy, fresh(model, seed + 100)))


@jax.jit
def losses(params, batch):
    """Both objectives at the current parameters."""
    return kl_loss(params, params.variables["params"], batch)[0], ce_loss(params, params.variables["params"], batch)[0]


def np_objectives(params, batch, preset):
    """Eqs 3.13 and 3.14 for `Plain`, as the authors' code and as the paper's text weigh and reduce them."""
    now = {name: np_plain(params.variables, getattr(batch, name).x) for name in ("forget", "counterfactual", "retain")}
    before = {name: np_plain(params.original, getattr(batch, name).x)[1] for name in ("counterfactual", "retain")}
    logits = {name: pair[0] for name, pair in now.items()}
    embedding = {name: pair[1] for name, pair in now.items()}
    ce_forget = np_cross_entropy(logits["forget"], batch.counterfactual.y).mean()
    ce_retain = np_cross_entropy(logits["retain"], batch.retain.y).mean()
    if preset == "reference":
        kl_forget = np_kl(before["counterfactual"], embedding["forget"]).sum()
        kl_retain = np_kl(before["retain"], embedding["retain"]).sum()
        return 0.5 * kl_forget + 0.5 * kl_retain, 0.01 * ce_forget + 0.9 * ce_retain
    kl_forget = np_kl(embedding["forget"], embedding["counterfactual"]).mean()
    kl_retain = np_kl(embedding["retain"], before["retain"]).mean()
    return kl_forget + kl_retain, ce_forget + ce_retain


@pytest.mark.parametrize("preset", ["reference", "paper"])
def test_losses_equal_numpy(batch, preset):
    params = start(PLAIN, getattr(Camu, preset)().losses)
    expected = np_objectives(params, batch, preset)
    assert min(expected) > 0.1
    assert_close(losses(params, batch), expected)


@COMPOSED
def test_the_kl_update_comes_before_the_ce_update(model, batch, settings):
    """Both updates by hand, the second at the parameters and statistics of the first."""

    @jax.jit
    def by_hand(params, batch):
        found = []
        for loss_fn, rate in ((kl_loss, 0.05), (ce_loss, 0.3)):
            weights = params.variables["params"]
            (loss, stats), gradient = jax.value_and_grad(loss_fn, argnums=1, has_aux=True)(params, weights, batch)
            weights = jax.tree.map(lambda w, g, rate=rate: w - rate * (g + 0.01 * w), weights, gradient)
            params = dataclasses.replace(params, variables={"params": weights, "batch_stats": stats})
            found.append(loss)
        return params.variables, dict(zip(("kl", "ce"), found, strict=True))

    expected = by_hand(start(model, settings), batch)
    _, too_early = losses(start(model, settings), batch)
    params, metrics = camu_step(start(model, settings), batch)
    assert_close((params.variables, metrics), expected)
    assert abs(float(too_early) - float(metrics["ce"])) > 1e-3


def test_the_defaults_belong_to_one_preset():
    """Those of `make_tuples` and `init_camu` are those of the method's settings, and so the authors' code."""
    params = init_camu(PLAIN, fresh(PLAIN, 0))
    assert params.losses == Camu().losses == CamuLosses()
    rule = inspect.signature(make_tuples).parameters
    assert {name: rule[name].default for name in Camu().tuples} == Camu().tuples
    given = init_camu(PLAIN, fresh(PLAIN, 0), kl_optimizer=adam_l2(4e-4, 1e-4), ce_optimizer=adam_l2(5e-4, 1e-4))
    assert (params.kl_optimizer, params.ce_optimizer) == (given.kl_optimizer, given.ce_optimizer)
    assert Camu().kl_learning_rate == 4e-4 and Camu().ce_learning_rate == 5e-4 and Camu().l2 == 1e-4


def test_batch_statistics_go_through_r_f_f_r(batch):
    """As in the authors' code; with no update between, the activations are those of the first parameters."""
    params = start(NORMED, kl_optimizer=optax.set_to_zero(), ce_optimizer=optax.set_to_zero())
    layer, stats = params.variables["params"]["embed"], params.variables["batch_stats"]["norm"]
    mean, var = (np.asarray(stats[name], np.float64) for name in ("mean", "var"))
    for part in (batch.retain, batch.forget, batch.forget, batch.retain):
        h = np.asarray(part.x, np.float64).reshape(8, -1) @ np.asarray(layer["kernel"]) + np.asarray(layer["bias"])
        mean, var = 0.9 * mean + 0.1 * h.mean(0), 0.9 * var + 0.1 * h.var(0)
    found, _ = camu_step(params, batch)
    assert_close(found.variables["batch_stats"]["norm"], {"mean": mean, "var": var})


@PRESETS
def test_gradients_equal_finite_differences(model, batch, settings):
    narrow = start(model, settings), batch
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):  # Flax's BatchNorm needs it
        params, wide = jax.tree.map(
            lambda a: a.astype(jnp.float64) if jnp.issubdtype(a.dtype, jnp.floating) else a, narrow
        )

        @jax.jit
        def both(weights):
            return kl_loss(params, weights, wide)[0], ce_loss(params, weights, wide)[0]

        check_grads(both, (params.variables["params"],), order=1, modes=["rev"])


def test_no_learning_rate_no_change(model, batch):
    """With the default optimizers, whose L2 term is not 0."""
    params = init_camu(model, fresh(model, 0), kl_optimizer=adam_l2(0.0), ce_optimizer=adam_l2(0.0))
    for _ in range(3):
        params, _ = camu_step(params, batch)
    chex.assert_trees_all_equal(params.variables["params"], fresh(model, 0)["params"])


@COMPOSED
def test_the_original_and_the_users_variables_never_change(model, batch, settings):
    variables = jax.tree.map(jnp.copy, fresh(model, 0))
    before = jax.device_get(variables)
    params = init_camu(model, variables, settings, **SGD)
    chex.assert_trees_all_equal(params.variables, params.original, variables)
    for _ in range(3):
        params, _ = camu_step(params, batch)
    chex.assert_trees_all_equal(params.original, variables, before)
    assert differ(params.variables["params"], before["params"])


@COMPOSED
def test_params_are_donated(model, batch, settings):
    params = start(model, settings)
    camu_step(params, batch)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(params))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(batch))


def test_an_optimizer_whose_state_holds_the_parameters_may_be_donated(batch):
    """DoG remembers where it started; both states would share that buffer with the user's variables."""
    variables = fresh(PLAIN, 0)
    with jax.numpy_dtype_promotion("standard"):  # Optax needs it
        dog = optax.contrib.dog(0.1)
        params = init_camu(PLAIN, variables, kl_optimizer=dog, ce_optimizer=dog)
        params, _ = camu_step(params, batch)
    assert differ(params.variables["params"], variables["params"])


def in_turn(params, batches):
    history = []
    for batch in batches:
        params, metrics = camu_step(params, batch)
        history.append(metrics)
    return params, jax.tree.map(lambda *a: jnp.stack(a), *history)


@COMPOSED
def test_inside_jit_and_scan(model, S, settings):
    batches = [rows(S, slice(i, i + 8)) for i in (0, 8, 16)]
    stacked = jax.tree.map(lambda *a: jnp.stack(a), *batches)
    found = jax.jit(lambda p, s: jax.lax.scan(camu_step, p, s))(start(model, settings), stacked)
    assert_close(found, in_turn(start(model, settings), batches))


@COMPOSED
def test_vmap_over_seeds(model, settings):
    F, R, seeds = examples(1, 8), examples(2, 9), (0, 1, 2)
    keys = jnp.stack([jax.random.key(s) for s in seeds])
    tuples = jax.vmap(lambda k: make_tuples(k, F, R))(keys)
    separate = [camu_step(start(model, settings, s), rows(tuples, i)) for i, s in enumerate(seeds)]
    together = jax.tree.map(lambda *a: jnp.stack(a), *[start(model, settings, s) for s in seeds])
    found = jax.vmap(camu_step)(together, tuples)
    assert_close(found, jax.tree.map(lambda *a: jnp.stack(a), *separate))


POISON = {  # what a term alone reads
    "kl_forget": lambda b: dataclasses.replace(b, counterfactual_embedding=b.counterfactual_embedding * jnp.nan),
    "kl_retain": lambda b: dataclasses.replace(b, retain_embedding=b.retain_embedding * jnp.nan),
    "ce_forget": lambda b: dataclasses.replace(b, counterfactual=relabelled(b.counterfactual)),
    "ce_retain": lambda b: dataclasses.replace(b, retain=relabelled(b.retain)),
}


def relabelled(part):
    return dataclasses.replace(part, y=(part.y + 1) % 3)


def attached(params, batch):
    """A batch with the original model's embeddings."""
    embed = {name: params.model.eval(params.original, getattr(batch, name).x) for name in ("counterfactual", "retain")}
    return dataclasses.replace(batch, **{f"{name}_embedding": out.embedding for name, out in embed.items()})


@pytest.mark.parametrize("weight", WEIGHTS)
def test_weight_0_removes_its_term(batch, weight):
    def result(batch, settings):
        return losses(start(PLAIN, settings), batch)

    whole, without = attached(start(PLAIN), batch), dataclasses.replace(REFERENCE, **{weight: 0.0})
    chex.assert_trees_all_equal(result(POISON[weight](whole), without), result(whole, without))
    assert differ(result(POISON[weight](whole), REFERENCE), result(whole, REFERENCE))
    assert differ(result(whole, without), result(whole, REFERENCE))


@pytest.mark.parametrize("update", ["kl", "ce"])
def test_both_weights_0_remove_the_update(batch, update):
    settings = dataclasses.replace(REFERENCE, **{f"{update}_forget": 0.0, f"{update}_retain": 0.0})
    adam = dict(kl_optimizer=adam_l2(0.1), ce_optimizer=adam_l2(0.1))
    before = jax.device_get(start(PLAIN, settings, **adam))
    found, metrics = camu_step(start(PLAIN, settings, **adam), batch)
    other = {"kl": "ce", "ce": "kl"}[update]
    assert set(metrics) == {other}
    chex.assert_trees_all_equal(getattr(found, f"{update}_state"), getattr(before, f"{update}_state"))
    assert differ(getattr(found, f"{other}_state"), getattr(before, f"{other}_state"))
    assert differ(found.variables["params"], before.variables["params"])


def test_all_weights_0_change_nothing(model, batch):
    settings = dataclasses.replace(REFERENCE, **dict.fromkeys(WEIGHTS, 0.0))
    before = jax.device_get(start(model, settings).variables)
    found, metrics = camu_step(start(model, settings), batch)
    assert metrics == {}
    chex.assert_trees_all_equal(found.variables, before)


@PRESETS
def test_attached_embeddings_give_the_same(model, batch, settings):
    params = start(model, settings)
    assert_close(losses(params, attached(params, batch)), losses(params, batch))


@pytest.mark.parametrize("name", ["forget", "retain", "counterfactual"])
def test_nan_is_not_swallowed(batch, name):
    part = getattr(batch, name)
    bad = dataclasses.replace(batch, **{name: dataclasses.replace(part, x=part.x.at[0].set(jnp.nan))})
    params, metrics = camu_step(start(PLAIN, PAPER), bad)
    assert bool(jnp.isnan(metrics["kl"])) and bool(jnp.isnan(params.variables["params"]["embed"]["kernel"]).any())


def test_equal_settings_compile_once(batch):
    def run(rate=0.0123, **changes):
        model = from_linen(Plain(), IMAGE)  # an equal module and equal optimizers, not the same
        losses = CamuLosses(ce_forget=0.0, ce_retain=0.0, **changes)
        with jax.numpy_dtype_promotion("standard"):  # Optax's Adam needs it
            params = init_camu(
                model, fresh(model, 0), losses, kl_optimizer=optax.adam(rate), ce_optimizer=optax.adam(rate)
            )
            camu_step(params, batch)
        return camu_step._cache_size()

    once = run()
    assert run() == once
    assert run(kl_forget=0.25) == once + 1 and run(rate=0.5) == once + 2


def test_a_state_keeps_its_dtypes(batch):
    """bfloat16 parameters and statistics, in a scan, whose carry must not change."""
    half = jax.tree.map(lambda a: a.astype(jnp.bfloat16), fresh(NORMED, 0))
    with jax.numpy_dtype_promotion("standard"):
        params = init_camu(NORMED, half, kl_optimizer=optax.sgd(0.1), ce_optimizer=optax.sgd(0.1))
        stacked = jax.tree.map(lambda a: jnp.stack([a, a]), batch)
        found, _ = jax.jit(lambda p, s: jax.lax.scan(camu_step, p, s))(params, stacked)
    chex.assert_trees_all_equal_shapes_and_dtypes(found.variables, half)


def test_defaults_are_the_authors_code():
    """Section 8 of the notes on the reference code, for MNIST and random removal."""
    expected = dict(epochs=10, batch_size=32, kl_learning_rate=4e-4, ce_learning_rate=5e-4, l2=1e-4)
    expected |= dict(kl_forget=0.5, kl_retain=0.5, ce_forget=0.01, ce_retain=0.9, kl_reduction="sum")
    expected |= dict(kl_direction="target_model", counterfactual_embedding="frozen", labels="retain", replace=False)
    expected |= dict(pairing="independent", repeat=1, mask_scale=1.0)
    assert dataclasses.asdict(Camu.reference()) == dataclasses.asdict(Camu()) == expected


def test_paper_is_the_text():
    """Weights 1, means, KL(model, target), current embeddings of F*, uniform labels, draws with replacement, tuples."""
    changes = {
        name: value for name, value in dataclasses.asdict(Camu.paper()).items() if value != getattr(Camu(), name)
    }
    expected = dict(kl_forget=1.0, kl_retain=1.0, ce_forget=1.0, ce_retain=1.0, kl_reduction="mean", replace=True)
    expected |= dict(kl_direction="model_target", counterfactual_embedding="current", labels="uniform", pairing="tuple")
    assert changes == expected
    assert Camu.paper(kl_forget=2.0, epochs=3).kl_forget == 2 and Camu.reference(repeat=4).repeat == 4


@pytest.mark.parametrize("preset", ["reference", "paper"])
@pytest.mark.parametrize(
    ("dataset", "task", "epochs", "ce", "kl", "repeat"),
    [
        ("digit", "data10", 10, 5e-4, 4e-4, 1),
        ("fashion", "class0", 2, 1e-3, 4e-4, 1),
        ("c10", "data10", 10, 1e-4, 1e-5, 1),
        ("c10", "class0", 2, 5e-5, 1e-5, 1),
        ("c100", "class0", 2, 5e-5, 1e-5, 10),
        *(("digit", f"data{p}", epochs, 5e-4, 4e-4, 1) for p, epochs in [(1, 10), (15, 7), (20, 5), (30, 3), (90, 1)]),
        ("digit", "indices:rows.txt", 10, 5e-4, 4e-4, 1),
    ],
)
def test_the_authors_table_of_settings(dataset, task, epochs, ce, kl, repeat, preset):
    found = defaults(dataset, task, preset).settings["camu"]
    expected = dict(epochs=epochs, ce_learning_rate=ce, kl_learning_rate=kl, repeat=repeat)
    assert found == getattr(Camu, preset)(**expected)


@pytest.mark.parametrize(
    ("dataset", "task", "epochs", "batch"),
    [
        *(("digit", f"data{p}", *of) for p, *of in [(5, 10, 512), (10, 10, 512), (15, 7, 768), (20, 5, 1024)]),
        ("tiny", "data20", 5, 128),
        ("fashion", "class0", 10, 512),
    ],
)
def test_the_baselines_make_as_many_updates_on_the_forget_set_as_at_10_percent(dataset, task, epochs, batch):
    settings = defaults(dataset, task, "reference").settings
    assert settings["boundary"].epochs == epochs and settings["scrub"].forget_batch_size == batch


NUMBERS = ("kl_learning_rate", "ce_learning_rate", "l2", *WEIGHTS)
BAD = [
    *((name, value, "a finite number >= 0") for name in NUMBERS for value in (-1e-9, float("nan"), float("inf"))),
    *((name, 0, "a finite number >= 1") for name in ("epochs", "batch_size", "repeat")),
    ("kl_reduction", "max", "sum, mean"),
    ("kl_direction", "both", "target_model, model_target"),
    ("counterfactual_embedding", "none", "frozen, current"),
    ("labels", "own", "uniform, retain"),
    ("pairing", "none", "independent, tuple"),
]


@pytest.mark.parametrize(("name", "value", "allowed"), BAD)
def test_bad_settings_are_named(name, value, allowed):
    with pytest.raises(ValueError, match=f"{name} is .*{value}.*; allowed: {allowed}"):
        Camu(**{name: value})


@pytest.mark.parametrize("variables", [{}, {"batch_stats": {}}, None, {"params": {}, "cache": {}}])
def test_variables_of_another_kind_are_refused(variables):
    with pytest.raises(ValueError, match="variables .*allowed"):
        init_camu(PLAIN, variables)


def test_tuples_are_a_pytree_of_arrays(S):
    assert isinstance(S, Tuples) and len(jax.tree.leaves(S)) == 6
    chex.assert_tree_shape_prefix(S, (24,))
