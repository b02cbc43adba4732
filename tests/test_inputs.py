"""Inputs of every kind: each works with every method, or one error says what is allowed."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import camu_jax
from camu_jax import Camu, Examples, Model, Pipeline, Problem, make_tuples
from camu_jax.methods import camu
from camu_jax.model import as_variables
from tests.helpers import CLASSES, PLAIN, SETTINGS, Plain, examples, fresh

TOKENS, WORDS, TOTAL = 6, 20, 40
RNG = np.random.default_rng(0)
Y = RNG.integers(0, CLASSES, TOTAL, np.int32)
METHODS = {
    **{name: settings(**({} if name == "unroll" else {"epochs": 1})) for name, settings in SETTINGS.items()},
    "boundary:expand": SETTINGS["boundary"](epochs=1, variant="expand"),
    "scrub:rewind": SETTINGS["scrub"](epochs=1, rewind=True),
}


class Text(nn.Module):
    """A text classifier: the mean of its words' embeddings."""

    @nn.compact
    def __call__(self, tokens):
        words = nn.Embed(WORDS, 8)(tokens)
        embedding = nn.tanh(nn.Dense(8)(words.mean(axis=1)))
        return nn.Dense(CLASSES)(embedding), embedding


def from_module(module, like):
    """A model of a module without BatchNorm, for inputs of any dtype."""

    def apply(variables, x, *, train, key=None):
        return camu_jax.Outputs(*module.apply({"params": variables["params"]}, x)), {}

    return Model(lambda key: as_variables(module.init(key, like)), apply)


def forget_some(model, x, y, settings, **options):
    """Forgets 8 of the examples and returns the logits of all of them."""
    variables = jax.jit(model.init)(jax.random.key(0))
    problem = Problem.from_rows(model, variables, Examples(x, y, CLASSES), range(8), **options)
    return camu_jax.unlearn(jax.random.key(1), problem, settings)(x).logits


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32, np.uint16])
@pytest.mark.parametrize("name", METHODS)
@pytest.mark.slow
def test_tokens(name, dtype):
    """Any integer type but that of stored images; settings for images change nothing."""
    x = jnp.asarray(RNG.integers(0, WORDS, (TOTAL, TOKENS)).astype(dtype))
    model = from_module(Text(), x[:1])
    refused = {"camu": "with Camu: .*, as a counterfactual is an input plus noise"}
    refused["boundary"] = "with Boundary's shrink: .*, as it takes a step along their gradient .expand does not."
    if name in refused:
        with pytest.raises(TypeError, match=f"forget.x has dtype {np.dtype(dtype)}; allowed {refused[name]}"):
            forget_some(model, x, Y, METHODS[name])
        return
    logits = forget_some(model, x, Y, METHODS[name])
    assert logits.shape == (TOTAL, CLASSES) and bool(jnp.isfinite(logits).all())
    for_images = Pipeline(mean=(0.5, 0.5, 0.5), image_size=3, augment="crop_flip")
    np.testing.assert_array_equal(for_images.training(jax.random.key(0), x), x)
    if name in ("neggrad", "boundary:expand"):
        np.testing.assert_array_equal(forget_some(model, x, Y, METHODS[name], pipeline=for_images), logits)


def test_algorithm_1_needs_arithmetic():
    tokens = Examples(np.zeros((TOTAL, TOKENS), np.int32), Y, CLASSES)
    with pytest.raises(TypeError, match="F.x has dtype int32; allowed: a floating type"):
        make_tuples(jax.random.key(0), tokens, tokens)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, np.float32, np.float64])
@pytest.mark.parametrize("name", METHODS)
def test_tables_of_floats(name, dtype):
    x = RNG.random((TOTAL, 5)).astype(dtype)
    x = x if dtype == np.float64 else jnp.asarray(x)
    model = from_module(Plain(), jnp.zeros((1, 5)))
    with jax.numpy_dtype_promotion("standard"):  # the model's parameters are float32
        logits = forget_some(model, x, Y, METHODS[name])
    assert logits.shape == (TOTAL, CLASSES) and bool(jnp.isfinite(logits).all())


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64])
@pytest.mark.parametrize("name", METHODS)
def test_labels_of_every_width(name, dtype):
    """Those of the host as well as of the device."""
    x = examples(0, TOTAL).x
    expected = forget_some(PLAIN, x, jnp.asarray(Y), METHODS[name])
    for y in (Y.astype(dtype), jnp.asarray(Y.astype(dtype))):
        np.testing.assert_allclose(forget_some(PLAIN, x, y, METHODS[name]), expected, atol=1e-6)


def test_a_shadow_class_beyond_what_labels_can_hold():
    """128 classes fill a signed byte; Boundary's expand trains on a label more."""
    model = camu_jax.from_linen(Plain(128), (4, 4, 1))
    x = examples(0, TOTAL).x
    found = []
    for dtype in (np.int8, np.int32):
        y = (np.arange(TOTAL) + 88).astype(dtype)
        problem = Problem.from_rows(model, fresh(model), Examples(x, y, 128), range(8))
        found.append(camu_jax.unlearn(jax.random.key(0), problem, METHODS["boundary:expand"])(x).logits)
    np.testing.assert_array_equal(*found)


IMAGES = np.zeros((TOTAL, 4, 4, 1), np.uint8)
ALLOWED = r"allowed: stored images \[N, H, W, channels\] .give images of one channel an axis"
BAD = {
    "images without a channel": (IMAGES[..., 0], ValueError, rf"x is uint8 of shape \(40, 4, 4\); {ALLOWED}"),
    "table of bytes": (IMAGES[:, 0, :, 0], ValueError, r"x is uint8 of shape \(40, 4\); .* and tables as floats"),
    "film": (IMAGES[:, None], ValueError, "x is uint8 of shape"),
    "bits": (IMAGES > 0, TypeError, r"x has dtype bool; allowed: uint8 .stored images., a floating type, or another"),
    "complex": (IMAGES.astype(np.complex64), TypeError, "x has dtype complex64; allowed"),
    "words": (np.array(["a"] * TOTAL)[:, None], TypeError, "x has dtype <U1; allowed"),
    "numbers": (np.zeros(TOTAL, np.float32), ValueError, r"x has shape \(40,\); allowed: \[N, \*image\]"),
    "no pixel": (IMAGES[:, :0], ValueError, r"x has shape \(40, 0, 4, 1\); allowed: no axis of length 0"),
    "no feature": (
        np.zeros((TOTAL, 0), np.float32),
        ValueError,
        r"x has shape \(40, 0\); allowed: no axis",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_other_inputs_are_refused_by_name(case):
    x, error, message = BAD[case]
    with pytest.raises(error, match=message) as raised:
        Problem.from_rows(PLAIN, fresh(PLAIN), Examples(x, Y, CLASSES), [1])
    assert str(raised.value).startswith("train") and "; allowed: " in str(raised.value)


def test_the_number_of_classes_may_come_from_numpy():
    part = Examples(IMAGES, Y, Y.max() + 1)
    part.validate("part")
    assert type(part.num_classes) is int and part.num_classes == CLASSES
    for wrong in (3.0, np.float64(3), True, np.True_, "3"):
        with pytest.raises(TypeError, match="part.num_classes is .*; allowed: a Python int"):
            Examples(IMAGES, Y, wrong).validate("part")


@pytest.mark.parametrize("name", ["mean", "std"])
@pytest.mark.parametrize("channels", [1, 3])
def test_pipelines_that_do_not_fit_the_channels(name, channels):
    """Three means for one channel would make three channels of it."""
    images, wrong = np.repeat(IMAGES, channels, axis=3), (0.5,) * (4 - channels if channels == 1 else 2)
    model = camu_jax.from_linen(Plain(), (4, 4, channels))
    message = rf"pipeline.{name} is \(.*\); allowed: 1 or {channels} numbers, as images have {channels} channels"
    with pytest.raises(ValueError, match=f"^{message}"):
        Problem.from_rows(model, fresh(model), Examples(images, Y, CLASSES), [1], pipeline=Pipeline(**{name: wrong}))
    for right in ((0.5,), (0.5,) * channels):
        forget_some(model, jnp.asarray(images), Y, METHODS["neggrad"], pipeline=Pipeline(**{name: right}))


# --- CaMU's mask --------------------------------------------------------------------------------------------------


def test_the_mask_has_the_range_that_is_asked_for():
    F = examples(0, 600)
    S = {scale: make_tuples(jax.random.key(0), F, F, mask_scale=scale) for scale in (1.0, 255.0, 0.01)}
    unit = S[1.0].counterfactual.x - S[1.0].retain.x
    for scale, found in S.items():
        mask = found.counterfactual.x - found.retain.x
        np.testing.assert_allclose(mask, scale * unit, atol=2e-5 * max(1, scale))
        assert 0.99 * scale < float(mask.max()) < scale * (1 + 1e-5)
    np.testing.assert_array_equal(make_tuples(jax.random.key(0), F, F).counterfactual.x, S[1.0].counterfactual.x)
    assert Camu(mask_scale=7.0).tuples["mask_scale"] == 7


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_a_mask_that_is_none_is_refused(scale):
    F = examples(0, 3)
    for make in (lambda: make_tuples(jax.random.key(0), F, F, mask_scale=scale), lambda: Camu(mask_scale=scale)):
        with pytest.raises(ValueError, match=f"mask_scale is {scale}; allowed: a finite number > 0"):
            make()


def test_camu_warns_of_inputs_beside_which_the_mask_is_nothing(key):
    def problem(factor):
        part = examples(0, TOTAL)
        return Problem.from_rows(PLAIN, fresh(PLAIN), Examples(part.x * factor, part.y, CLASSES), range(8))

    def unlearn(problem, **changes):
        return camu_jax.unlearn(key, problem, Camu(epochs=1, **changes))

    wide = problem(255)

    message = "mask_scale is 1 and the standard deviation of the inputs 7[0-9].*set mask_scale to .* about 25[0-9]"
    with pytest.warns(UserWarning, match=message) as warned:
        unlearn(wide)
    assert len(warned) == 1 and warned[0].filename.endswith("test_inputs.py")
    with pytest.warns(UserWarning, match="mask_scale is 1 "):
        jax.jit(lambda _: camu.unlearn(key, wide, Camu(epochs=1)).members).trace(0)  # they are concrete there as well
    unlearn(wide, mask_scale=255.0)  # warnings are errors in these tests
    unlearn(problem(20))
