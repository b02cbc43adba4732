"""Every method in other people's code: 64 bits, strict promotion, checks of NaN and of leaks, their own jit."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import camu_jax
from camu_jax import Examples, Problem, from_linen, loop
from camu_jax.methods import method_of
from tests.helpers import CLASSES, SETTINGS, examples

IMAGE, TOTAL = (4, 4, 1), 40
METHODS = {  # two minibatches of each set in the first pass
    **{name: settings(**({} if name == "unroll" else {"epochs": 1})) for name, settings in SETTINGS.items()},
    "boundary:expand": SETTINGS["boundary"](epochs=1, variant="expand"),
    "bad_teacher:retrained": SETTINGS["bad_teacher"](epochs=1, teachers="retrained", teacher_epochs=1),
    "scrub:rewind": SETTINGS["scrub"](epochs=1, rewind=True),
    "unroll:single_gradient": SETTINGS["unroll"](variant="single_gradient"),
    "camu:paper": SETTINGS["camu"].paper(epochs=1),
}
TRACEABLE = [name for name, settings in METHODS.items() if not method_of(settings).one_by_one(settings)]
"""The others decide something outside of JAX."""


class MLP(nn.Module):
    """Two layers; they compute in the dtype of their parameters."""

    @nn.compact
    def __call__(self, x):
        embedding = nn.relu(nn.Dense(8)(x.reshape(x.shape[0], -1)))
        return nn.Dense(CLASSES)(embedding), embedding


MODEL = from_linen(MLP(), IMAGE)


def problem(dtype=np.uint8, **options):
    x, y = examples(0, TOTAL).x, np.asarray(examples(0, TOTAL).y)
    x = (255 * np.asarray(x)).astype(np.uint8) if dtype == np.uint8 else np.asarray(x, dtype)
    variables = jax.jit(MODEL.init)(jax.random.key(0))
    train = Examples(jnp.asarray(x), jnp.asarray(y), CLASSES)
    return Problem.from_rows(MODEL, variables, train, range(8), **options)


def finite(predictor, like):
    """Whether a model can be used and its types are those of the original."""
    for member in predictor.members:
        chex.assert_trees_all_equal_shapes_and_dtypes(member, like.original)
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(predictor))
    accuracies = camu_jax.accuracies(predictor, like.forget, like.retain, like.retain, forget_classes=(0,))
    assert all(0 <= value <= 100 for value in accuracies.values())


def every_method_in_64_bits():
    """Stored images minibatch by minibatch, and floats of 64 bits in a scan, whose carry must not change its types."""
    assert jax.config.jax_enable_x64
    for dtype, scans in ((np.uint8, False), (np.float64, True)):
        loop.on_cpu = lambda scans=scans: not scans
        given = problem(dtype)
        assert given.forget.x.dtype == dtype
        for name, settings in METHODS.items():
            try:
                finite(camu_jax.unlearn(jax.random.key(1), given, settings), given)
            except Exception as error:
                raise AssertionError(f"{name}, {given.forget.x.dtype} images") from error


@pytest.mark.slow
def test_64_bits():
    """In a process of its own, as the setting is global."""
    program = "from tests.test_in_other_code import every_method_in_64_bits as run; run()"
    root = Path(__file__).parent.parent
    variables = {**os.environ, "JAX_ENABLE_X64": "1", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=root, env=variables, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("scans", [False, True], ids=["steps", "scan"])
def test_strict_promotion_and_debug_nans(name, scans, monkeypatch):
    monkeypatch.setattr(loop, "on_cpu", lambda: not scans)
    with jax.numpy_dtype_promotion("strict"), jax.debug_nans(True):
        finite(camu_jax.unlearn(jax.random.key(1), problem(), METHODS[name]), problem())


@pytest.mark.parametrize("name", TRACEABLE)
def test_nothing_leaks(name):
    """Nor is there an error where the caller traces the whole method, with everything in its closure."""
    settings = METHODS[name]
    given = problem(np.float32)
    expected = camu_jax.unlearn(jax.random.key(1), given, settings).members
    with jax.checking_leaks():
        found = jax.jit(lambda key: camu_jax.unlearn(key, given, settings).members)(jax.random.key(1))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found, expected)


@pytest.mark.parametrize("name", TRACEABLE)
def test_everything_as_an_argument_of_their_jit(name):
    settings = METHODS[name]
    given = problem(np.float32)

    @jax.jit
    def traced(key, original, forget, retain):
        inner = dataclasses.replace(given, original=original, forget=forget, retain=retain)
        return camu_jax.unlearn(key, inner, settings).members

    expected = camu_jax.unlearn(jax.random.key(1), given, settings).members
    found = traced(jax.random.key(1), given.original, given.forget, given.retain)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found, expected)
