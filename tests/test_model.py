"""The models' sizes and layers, and that any Flax module becomes the same pair of pure functions."""

import math

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from camu_jax import Outputs, camu_step, from_linen, from_nnx, init_camu, make_tuples, models
from camu_jax.model import in_bfloat16
from camu_jax.models.layers import max_pool
from camu_jax.models.resnet import BatchNorm, ResNet18
from tests.helpers import CLASSES, IMAGE, NORMED, PLAIN, WIDTH, Plain, assert_close, differ, examples, fresh

X = examples(0, 6).x


def count(tree):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize(
    ("model", "image", "parameters", "width"),
    [
        (models.cnn(10), (28, 28, 1), 449_098, 256),
        (models.cnn(10, width=2), (28, 28, 1), 1_792_138, 512),
        (models.resnet18(10), (32, 32, 3), 11_173_962, 512),
        (models.resnet18(10, (224, 224, 3), stem="imagenet"), (224, 224, 3), 11_181_642, 512),
        (models.resnet18(100), (32, 32, 3), 11_173_962 + 90 * 513, 512),
    ],
    ids=["cnn", "wide cnn", "resnet18", "imagenet stem", "100 classes"],
)
def test_sizes(model, image, parameters, width):
    variables = jax.eval_shape(model.init, jax.random.key(0))
    assert count(variables["params"]) == parameters
    for train in (True, False):
        x = jax.ShapeDtypeStruct((2, *image), jnp.float32)
        out, stats = jax.eval_shape(lambda v, x, train=train: model.apply(v, x, train=train), variables, x)
        assert out.embedding.shape == (2, width) and out.logits.shape[0] == 2
        chex.assert_trees_all_equal_shapes_and_dtypes(stats, variables["batch_stats"])


def test_stages_of_resnet18():
    """Whether a stage halves the image: 32, 16, 8, 4, and a quarter before them with the ImageNet stem."""
    for stem, side in (("3x3", 32), ("imagenet", 8)):
        module = ResNet18(10, 4, stem)
        _, seen = jax.eval_shape(
            lambda x, m=module: m.init_with_output(jax.random.key(0), x, capture_intermediates=True),
            jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32),
        )
        blocks = [seen["intermediates"][f"_Block_{i}"]["__call__"][0].shape[1:] for i in range(8)]
        assert blocks == [
            (max(side >> stage, 1), max(side >> stage, 1), 4 << stage) for stage in range(4) for _ in "ab"
        ]


def test_the_cnn_is_affine_behind_its_embedding(cnn):
    """No ReLU at or after the embedding, as in the authors' code."""
    variables = jax.jit(cnn.init)(jax.random.key(0))
    out = jax.jit(cnn.eval)(variables, examples(0, 4, image=(28, 28, 1)).x)
    assert 0.2 < float((out.embedding < 0).mean()) < 0.8
    leaves = {leaf.shape: np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(variables["params"])}
    hand = np.asarray(out.embedding, np.float64)
    for width, features in ((256, 128), (128, 10)):
        hand = hand @ leaves[width, features] + leaves[(features,)]
    assert_close(out.logits, hand)


def test_the_cnn_is_the_textbooks(cnn):
    """Its gradient is that of two convolutions of XLA with bias, ReLU and Flax's pooling, then affine layers."""
    variables = jax.jit(cnn.init)(jax.random.key(0))
    x = examples(0, 5, image=(28, 28, 1)).x

    def textbook(params, x):
        for i in range(2):
            x = nn.Conv(16 << i, (5, 5)).apply({"params": params[f"Conv_{i}"]}, x)
            x = nn.max_pool(nn.relu(x), (2, 2), strides=(2, 2))
        x = x.reshape(len(x), -1)
        for i in range(3):
            layer = params[("Linear_0", "Linear_2", "Linear_1")[i]]["Dense_0"]
            x = x @ layer["kernel"] + layer["bias"][None]
        return (x**2).sum()

    def ours(params, x):
        return (cnn.eval({**variables, "params": params}, x).logits ** 2).sum()

    found, want = (jax.jit(jax.value_and_grad(f))(variables["params"], x) for f in (ours, textbook))
    assert_close(found, want, rtol=1e-4)


@pytest.mark.parametrize("shape", [(2, 4, 6, 3), (1, 5, 7, 2), (1, 2, 3, 1)])
def test_max_pool_equals_flax(shape):
    x = jnp.asarray(np.random.default_rng(0).permutation(math.prod(shape)).reshape(shape), jnp.float32)
    flax_pool = lambda x: nn.max_pool(x, (2, 2), strides=(2, 2))  # noqa: E731
    chex.assert_trees_all_equal(max_pool(x), flax_pool(x))
    gradients = [jax.grad(lambda x, pool=pool: (jnp.sin(pool(x))).sum())(x) for pool in (max_pool, flax_pool)]
    chex.assert_trees_all_equal(*gradients)


@pytest.mark.parametrize(("layer", "fan_in"), [("Linear_0", 1568), ("Linear_1", 128), ("Conv_0", 25), ("Conv_1", 400)])
def test_initialisation_is_pytorchs_default(cnn, layer, fan_in):
    """U(-1/sqrt(fan in), 1/sqrt(fan in)), for weights and biases."""
    bound = 1 / math.sqrt(fan_in)
    leaves = jax.tree.leaves(jax.jit(cnn.init)(jax.random.key(0))["params"][layer])
    assert sorted(leaf.ndim for leaf in leaves) in ([1, 2], [1, 4])
    for leaf in leaves:
        assert 0.6 * bound < float(jnp.abs(leaf).max()) <= bound
        assert abs(float(leaf.std()) - bound / math.sqrt(3)) < 0.3 * bound


def test_variables_are_new_for_a_new_key(model):
    first, same, other = (model.init(jax.random.key(s)) for s in (0, 0, 1))
    chex.assert_trees_all_equal(first, same)
    assert set(first) == {"params", "batch_stats"} and differ(first["params"], other["params"])


def test_without_batchnorm_batches_are_joined():
    variables, sizes = fresh(PLAIN), []

    def apply(variables, x, *, train, key=None):
        sizes.append((len(x), train))
        return PLAIN.apply(variables, x, train=train, key=key)

    outputs, stats = models_with(PLAIN, apply).train(variables, [X[:1], X[1:4], X[4:]])
    assert sizes == [(6, True)] and stats == {}
    for out, x in zip(outputs, (X[:1], X[1:4], X[4:]), strict=True):
        assert_close(out, PLAIN.eval(variables, x))


def models_with(model, apply):
    return type(model)(model.init, apply)


def test_with_batchnorm_batches_stay_apart_and_in_order():
    variables = fresh(NORMED)
    outputs, stats = NORMED.train(variables, [X[:2], 3 * X[2:]])
    by_hand = variables
    for out, x in zip(outputs, (X[:2], 3 * X[2:]), strict=True):
        expected, updated = NORMED.apply(by_hand, x, train=True)
        by_hand = {**by_hand, "batch_stats": updated}
        assert_close(out, expected)
    assert_close(stats, by_hand["batch_stats"])
    assert differ(stats, NORMED.train(variables, [3 * X[2:], X[:2]])[1])
    joined, _ = NORMED.train(variables, [jnp.concatenate([X[:2], 3 * X[2:]])])
    assert differ(joined[0].logits[:2], outputs[0].logits)


def test_running_statistics_follow_the_batch():
    variables = fresh(NORMED)
    variables = {**variables, "batch_stats": {"norm": {"mean": jnp.full(WIDTH, 2.0), "var": jnp.full(WIDTH, 3.0)}}}
    layer = variables["params"]["embed"]
    h = np.asarray(X, np.float64).reshape(6, -1) @ np.asarray(layer["kernel"]) + np.asarray(layer["bias"])
    _, stats = NORMED.train(variables, [X])
    assert_close(stats["norm"], {"mean": 0.9 * 2 + 0.1 * h.mean(0), "var": 0.9 * 3 + 0.1 * h.var(0)})


def test_resnets_running_statistics_keep_nine_tenths():
    model, black = models.resnet18(3, (8, 8, 3), width=2), jnp.zeros((2, 8, 8, 3))
    variables = jax.tree.map(lambda a: jnp.ones(a.shape), jax.eval_shape(model.init, jax.random.key(0)))
    first = jax.jit(lambda v, x: model.train(v, [x])[1]["BatchNorm_0"])(variables, black)
    assert_close(first, {"mean": np.full(2, 0.9), "var": np.full(2, 0.9)})  # the first layer has no bias


def test_resnets_running_variance_is_the_unbiased_one_as_pytorchs():
    """A batch of 8 has 8/7 of its own variance recorded; an average over the pixels of more is nearer to 1."""
    norm = BatchNorm(use_running_average=False)
    x = 1 + 2 * jax.random.normal(jax.random.key(0), (8, 3))
    variables = norm.init(jax.random.key(1), x)
    assert_close(variables["batch_stats"], {"mean": np.zeros(3), "var": np.ones(3)})
    _, after = jax.jit(lambda v, x: norm.apply(v, x, mutable=["batch_stats"]))(variables, x)
    recorded = 0.9 + 0.1 * np.asarray(x, np.float64).var(0, ddof=1)
    assert_close(after["batch_stats"], {"mean": 0.1 * np.asarray(x).mean(0), "var": recorded})
    kept = BatchNorm(use_running_average=True).apply(variables, x, mutable=["batch_stats"])[1]
    chex.assert_trees_all_equal(kept, {"batch_stats": variables["batch_stats"]})


def test_evaluation_uses_the_recorded_statistics_and_keeps_them():
    variables = fresh(NORMED)
    whole, stats = NORMED.apply(variables, X, train=False)
    chex.assert_trees_all_equal(stats, variables["batch_stats"])
    assert_close(NORMED.eval(variables, X[:1]), jax.tree.map(lambda a: a[:1], whole))
    moved = {**variables, "batch_stats": jax.tree.map(lambda a: a + 1, variables["batch_stats"])}
    assert differ(NORMED.eval(moved, X), whole)


def test_linen_modules_give_their_own_outputs(model):
    module = {PLAIN: Plain(), NORMED: None}[model]
    out = model.eval(fresh(model), X)
    assert isinstance(out, Outputs)
    chex.assert_shape([out.logits, out.embedding], [(6, CLASSES), (6, WIDTH)])
    if module is not None:
        logits, embedding = module.apply(module.init(jax.random.key(0), X), X)
        chex.assert_trees_all_equal(out, Outputs(logits, embedding))


def test_equal_linen_modules_are_one_model():
    again = from_linen(Plain(), IMAGE)
    assert again is not PLAIN and again == PLAIN and hash(again) == hash(PLAIN)
    assert from_linen(Plain(), (2, 2, 1)) != PLAIN and from_linen(Plain(4), IMAGE) != PLAIN


class NnxPlain(nnx.Module):
    def __init__(self, rngs):
        self.embed = nnx.Linear(16, WIDTH, rngs=rngs)
        self.classify = nnx.Linear(WIDTH, CLASSES, rngs=rngs)

    def __call__(self, x):
        embedding = self.embed(x.reshape(x.shape[0], -1))
        return self.classify(embedding), embedding


def test_a_lone_example_under_batchnorm_is_a_warning(key):
    """Its variance is 0 where a channel has one value; layers without BatchNorm do not mind."""
    x = jnp.ones((3, *IMAGE))
    NORMED.train(fresh(NORMED), [x])
    PLAIN.train(fresh(PLAIN), [x, x[:1]])
    with pytest.warns(UserWarning, match="a batch of one example"):
        NORMED.train(fresh(NORMED), [x, x[:1]])


class NnxNormed(NnxPlain):
    def __init__(self, rngs):
        super().__init__(rngs)
        self.norm = nnx.BatchNorm(WIDTH, momentum=0.9, rngs=rngs)

    def __call__(self, x):
        embedding = jnp.tanh(self.norm(self.embed(x.reshape(x.shape[0], -1))))
        return Outputs(self.classify(embedding), embedding)


NNX = pytest.mark.parametrize("make", [NnxPlain, NnxNormed], ids=["plain", "batchnorm"])


@NNX
def test_nnx_modules_give_their_own_outputs(make):
    module = make(nnx.Rngs(3))
    model, variables = from_nnx(make, module)
    module.eval()
    for train in (False, True):
        if train:
            module.train()
        out, stats = model.apply(variables, X, train=train)
        own = module(X)
        own = own if isinstance(own, Outputs) else Outputs(*own)
        assert_close(out, own)
        assert_close(stats, nnx.to_pure_dict(nnx.state(module, nnx.BatchStat)))
    assert bool(stats) == (make is NnxNormed)


@NNX
def test_nnx_variables_are_new_for_a_new_key(make):
    model, variables = from_nnx(make)
    first, same, other = (model.init(jax.random.key(s)) for s in (0, 0, 1))
    chex.assert_trees_all_equal_shapes_and_dtypes(first, variables)
    chex.assert_trees_all_equal(first, same)
    assert differ(first["params"], other["params"])


@NNX
def test_unlearning_an_nnx_module_in_place(make):
    module = make(nnx.Rngs(3))
    model, variables = from_nnx(make, module)
    before = jax.device_get(variables)
    S = make_tuples(jax.random.key(0), examples(1, 8), examples(2, 9))
    params = init_camu(model, variables)
    losses = []
    for _ in range(30):
        params, metrics = camu_step(params, S)
        losses.append(float(metrics["ce"]))
    assert losses[-1] < losses[0]
    module.eval()
    chex.assert_trees_all_equal(variables, before)
    unlearned = params.variables
    nnx.update(module, unlearned["params"], unlearned["batch_stats"])
    own = module(X)
    assert_close(own.logits if isinstance(own, Outputs) else own[0], model.eval(unlearned, X).logits)


def test_unlearning_a_linen_module(model):
    """What a user does with a plain Flax module and its variables."""
    variables = fresh(model)
    S = make_tuples(jax.random.key(0), examples(1, 8), examples(2, 9))
    params = init_camu(model, variables, kl_optimizer=optax.sgd(0.01), ce_optimizer=optax.sgd(0.3))
    losses = []
    for _ in range(30):
        params, metrics = camu_step(params, S)
        losses.append(float(metrics["ce"]))
    assert losses[-1] < losses[0]
    chex.assert_trees_all_equal_shapes_and_dtypes(params.variables, variables)


class Odd(nn.Module):
    """Returns a triple, or a list."""

    what: str

    @nn.compact
    def __call__(self, x):
        z = nn.Dense(CLASSES)(x.reshape(x.shape[0], -1))
        return {"triple": (z, z, z), "list": [z, z]}[self.what]


@pytest.mark.parametrize(("what", "named"), [("triple", "tuple"), ("list", "list")])
def test_a_module_that_returns_something_else_is_refused(what, named):
    model = from_linen(Odd(what), IMAGE)
    variables = model.init(jax.random.key(0))
    for train in (True, False):
        with pytest.raises(TypeError, match=rf"returned a {named}; allowed: logits, the pair \(logits, embedding\)"):
            model.apply(variables, X, train=train)


class Flagged(nn.Module):
    """A flag that stands behind another argument."""

    @nn.compact
    def __call__(self, x, mask=None, training=False):
        assert mask is None and isinstance(training, bool)  # no tracer
        return nn.Dense(CLASSES)(nn.Dropout(0.5, deterministic=not training)(x.reshape(x.shape[0], -1)))


class Positional(nn.Module):
    @nn.compact
    def __call__(self, x, use_running_average, /):
        return nn.Dense(CLASSES)(nn.Dropout(0.5, deterministic=use_running_average)(x.reshape(x.shape[0], -1)))


@pytest.mark.parametrize("module", [Flagged(), nn.remat(Flagged, static_argnums=(2, 3))(), Positional()])
def test_flags_reach_the_module(module):
    model = from_linen(module, IMAGE)
    variables, key = model.init(jax.random.key(0)), jax.random.key(1)
    w = variables["params"]["Dense_0"]
    assert_close(model.eval(variables, X).logits, X.reshape(6, -1) @ w["kernel"] + w["bias"][None])

    def loss(params):
        (out,), _ = model.train({**variables, "params": params}, [X], key)
        return (out.logits**2).sum()

    assert differ(jax.jit(jax.grad(loss))(variables["params"]), variables["params"])
    assert differ(model.train(variables, [X], key)[0][0], model.eval(variables, X))


class AlwaysDrawing(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(CLASSES)(nn.Dropout(0.5, deterministic=False)(x.reshape(x.shape[0], -1)))


def test_drawing_in_evaluation_is_refused():
    model = from_linen(AlwaysDrawing(), IMAGE)
    variables = {"params": {"Dense_0": {"kernel": jnp.ones((16, CLASSES)), "bias": jnp.ones(CLASSES)}}}
    model.train({**variables, "batch_stats": {}}, [X], jax.random.key(0))
    with pytest.raises(ValueError, match="module draws random numbers in evaluation; allowed: in training alone"):
        model.eval({**variables, "batch_stats": {}}, X)


class Moded(nnx.Module):
    """A mode that is an attribute of its own, a closure, random state that nothing draws from, and a counter."""

    def __init__(self, rngs, scale=1.0):
        self.classify = nnx.Linear(16, CLASSES, rngs=rngs)
        self.scaled = lambda x: scale * x
        self.dropout = nnx.Dropout(0.0, rngs=rngs)
        self.training = True
        self.calls = nnx.Variable(jnp.int32(0))

    def __call__(self, x):
        self.calls[...] += 1
        logits = self.scaled(self.classify(self.dropout(x.reshape(x.shape[0], -1))))
        return logits + 1 if self.training else logits


def test_attributes_of_nnx_modules_are_switched():
    module = Moded(nnx.Rngs(0))
    model, variables = from_nnx(Moded, module)
    (out,), stats = model.train(variables, [X])  # draws nothing, and so needs no key
    assert_close(out.logits, model.eval(variables, X).logits + 1)
    assert stats == {"calls": 1} and module.training and not module.dropout.deterministic and module.calls[...] == 0


def test_nnx_modules_with_fresh_closures_are_one_model():
    first, same, other = (
        from_nnx(lambda rngs: Moded(rngs, 1.0), Moded(nnx.Rngs(seed), scale))[0]
        for seed, scale in ((0, 1.0), (1, 1.0), (0, 2.0))
    )
    assert first.apply == same.apply != other.apply


@pytest.mark.parametrize(
    ("model", "image"), [(models.cnn(3, (8, 8, 1)), (8, 8, 1)), (models.resnet18(3, (8, 8, 3), width=2), (8, 8, 3))]
)
def test_models_in_64_bits(model, image):
    """Parameters are float32 there as well; images of either precision are taken."""
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        variables = jax.eval_shape(model.init, jax.random.key(0))
        assert {str(leaf.dtype) for leaf in jax.tree.leaves(variables)} == {"float32"}
        for dtype in (jnp.float32, jnp.float64):
            x = jax.ShapeDtypeStruct((2, *image), dtype)
            out, stats = jax.eval_shape(lambda v, x: model.apply(v, x, train=True), variables, x)
            assert out.logits.dtype == dtype
            chex.assert_trees_all_equal_dtypes(stats, variables["batch_stats"])


class Cached(nn.Module):
    @nn.compact
    def __call__(self, x):
        self.variable("cache", "seen", lambda: x)
        return x, x


def test_other_collections_are_refused():
    with pytest.raises(ValueError, match=r"variables holds \['cache'\]|has no 'params'"):
        from_linen(Cached(), IMAGE).init(jax.random.key(0))


def test_half_precision_keeps_every_states_dtype():
    """Parameters of any dtype, and states that are counted."""
    model, variables = from_nnx(Moded)
    (out,), stats = in_bfloat16(model).train(variables, [X])
    assert out.logits.dtype == jnp.float32 and stats["calls"].dtype == jnp.int32

    half = jax.tree.map(lambda a: a.astype(jnp.bfloat16), fresh(NORMED))

    def body(stats, x):
        return NORMED.apply({**half, "batch_stats": stats}, x, train=True)[1], None

    with jax.numpy_dtype_promotion("standard"):
        stats, _ = jax.lax.scan(body, half["batch_stats"], jnp.stack([X, X]))
    chex.assert_trees_all_equal_dtypes(stats, half["batch_stats"])


def test_bfloat16_computes_in_half_and_keeps_in_single():
    """Parameters, statistics, outputs and gradients are float32; what happens between them is not."""
    model = NORMED
    half, variables, x = in_bfloat16(model), fresh(model), examples(1, 16).x

    def loss(params, model):
        out, stats = model.apply({**variables, "params": params}, x, train=True)
        return jnp.mean(out.logits**2), (out, stats)

    found, expected = (
        jax.jit(jax.grad(lambda params, m=m: loss(params, m), has_aux=True))(variables["params"]) for m in (half, model)
    )
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(found)} == {"float32"}
    assert_close(found, expected, rtol=0.1, atol=0.05)
    assert differ(found, expected)
    program = str(jax.make_jaxpr(lambda params: loss(params, half))(variables["params"]))
    products = [line for line in program.splitlines() if " dot_general[" in line]
    assert products and all("bf16" in line for line in products)
    assert in_bfloat16(model) == half
