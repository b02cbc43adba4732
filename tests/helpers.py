"""The one tolerance, float64 references, and small models and data."""

import functools

import flax.linen as nn
import jax
import jax.extend
import jax.numpy as jnp
import numpy as np

from camu_jax import Examples, Outputs, from_linen
from camu_jax.methods import METHODS

IMAGE, CLASSES, WIDTH = (4, 4, 1), 3, 5


SETTINGS = {method.name: cls for cls, method in METHODS.items()}
"""The settings class of each method by its name."""


def assert_close(actual, expected, *, rtol=1e-5, atol=1e-6):
    """Equal up to float32 rounding; leaf by leaf for trees."""
    jax.tree.map(lambda a, e: np.testing.assert_allclose(a, e, rtol=rtol, atol=atol), actual, expected)


def differ(a, b):
    """Whether any leaf of two trees differs."""
    return any(bool((p != q).any()) for p, q in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def arrays(jaxpr):
    """Shapes and types of all that a program computes, its inner programs included; its constants are none of them."""
    for equation in jaxpr.eqns:
        inner = list(jax.extend.core.jaxprs_in_params(equation.params))
        for program in inner:
            yield from arrays(program)
        if not inner:
            yield from (variable.aval for variable in equation.outvars)


def np_log_softmax(z):
    z = np.asarray(z, np.float64)
    z = z - z.max(-1, keepdims=True)
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


def np_kl(first, second):
    """KL(softmax(first) || softmax(second)), `[..., D]` -> `[...]`."""
    p, q = np_log_softmax(first), np_log_softmax(second)
    return (np.exp(p) * (p - q)).sum(-1)


def np_cross_entropy(logits, y):
    return -np.take_along_axis(np_log_softmax(logits), np.asarray(y)[..., None], -1)[..., 0]


def np_plain(variables, x):
    """`Plain` in float64: logits and embedding."""
    first, last = (variables["params"][layer] for layer in ("embed", "classify"))
    flat = np.asarray(x, np.float64).reshape(len(x), -1)
    embedding = flat @ np.asarray(first["kernel"], np.float64) + np.asarray(first["bias"], np.float64)
    return embedding @ np.asarray(last["kernel"], np.float64) + np.asarray(last["bias"], np.float64), embedding


class Plain(nn.Module):
    """Affine, with an affine embedding."""

    classes: int = CLASSES

    @nn.compact
    def __call__(self, x):
        embedding = nn.Dense(WIDTH, name="embed")(x.reshape(x.shape[0], -1))
        return nn.Dense(self.classes, name="classify")(embedding), embedding


class Normed(nn.Module):
    """Smooth, with BatchNorm."""

    classes: int = CLASSES

    @nn.compact
    def __call__(self, x, train):
        h = nn.Dense(WIDTH, name="embed")(x.reshape(x.shape[0], -1))
        embedding = nn.tanh(nn.BatchNorm(use_running_average=not train, momentum=0.9, name="norm")(h))
        return Outputs(nn.Dense(self.classes, name="classify")(embedding), embedding)


PLAIN, NORMED = from_linen(Plain(), IMAGE), from_linen(Normed(), IMAGE)


@functools.cache
def fresh(model, seed=0):
    """The same variables every time: to be copied where a test donates them."""
    return jax.jit(model.init)(jax.random.key(seed))


def examples(seed, n, *, classes=CLASSES, image=IMAGE):
    """Normalised images with labels."""
    rng = np.random.default_rng(seed)
    x, y = rng.random((n, *image), np.float32), rng.integers(0, classes, n, np.int32)
    return Examples(jnp.asarray(x), jnp.asarray(y), classes)
