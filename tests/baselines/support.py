"""Models small enough to check by hand, and quick settings of the six baselines."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

import camu_jax
from camu_jax import Model, Outputs, Pipeline, Problem, evaluate, loop
from camu_jax.optimizers import sgd_l2
from camu_jax.training import TrainState
from tests.helpers import SETTINGS

KEY = jax.random.key(7)
PIXELS, WIDTH, CLASSES = 28 * 28, 12, 10
BASELINES = ("neggrad", "boundary", "bad_teacher", "scrub", "sisa", "unroll")
QUICK = {  # compiling takes nearly all the time of these tests: 32 forget and 288 retain examples make whole batches
    "neggrad": dict(epochs=1, learning_rate=0.01, momentum=0.0, alpha=0.95),
    "boundary": dict(epochs=2, batch_size=16),
    "boundary:expand": dict(variant="expand", epochs=2, batch_size=16),
    "bad_teacher": dict(batch_size=32, learning_rate=1e-3, retain_share=1 / 3),
    "bad_teacher:retrained": dict(batch_size=32, learning_rate=1e-3, retain_share=1 / 3, teachers="retrained"),
    "scrub": dict(epochs=2, msteps=1, forget_batch_size=16, learning_rate=1e-3),
    "scrub:rewind": dict(
        epochs=4, msteps=3, forget_batch_size=16, learning_rate=1e-3, rewind=True, validation_share=1 / 9
    ),
    "sisa": dict(epochs=3, shards=2, slices=2),
    "unroll": dict(),
    "unroll:single_gradient": dict(variant="single_gradient"),
}


def _flat(x):
    return x.reshape(x.shape[0], -1)


def linear_init(key):
    kernel = 0.05 * jax.random.normal(key, (PIXELS, CLASSES))
    return {"params": {"kernel": kernel, "bias": jnp.zeros(CLASSES)}, "batch_stats": {}}


def linear_apply(variables, x, *, train, key=None):
    p = variables["params"]
    return Outputs(_flat(x) @ p["kernel"] + p["bias"].reshape(1, -1), _flat(x)), {}


def _bn_init(key):
    first, last = jax.random.split(key)
    params = {
        "first": jax.random.normal(first, (PIXELS, WIDTH)) / math.sqrt(PIXELS),
        "scale": jnp.ones(WIDTH),
        "shift": jnp.zeros(WIDTH),
        "last": jax.random.normal(last, (WIDTH, CLASSES)) / math.sqrt(WIDTH),
    }
    return {"params": params, "batch_stats": {"mean": jnp.zeros(WIDTH), "var": jnp.ones(WIDTH)}}


def _bn_apply(variables, x, *, train, key=None):
    p, stats = variables["params"], variables["batch_stats"]
    h = _flat(x) @ p["first"]
    mean, var = (h.mean(0), h.var(0)) if train else (stats["mean"], stats["var"])
    h = (h - mean.reshape(1, -1)) * jax.lax.rsqrt(var + 1e-5).reshape(1, -1)
    embedding = jax.nn.relu(h * p["scale"].reshape(1, -1) + p["shift"].reshape(1, -1))
    if train:
        stats = {"mean": 0.9 * stats["mean"] + 0.1 * mean, "var": 0.9 * stats["var"] + 0.1 * var}
    return Outputs(embedding @ p["last"], embedding), stats


LINEAR, BN = Model(linear_init, linear_apply), Model(_bn_init, _bn_apply)


def make_problem(digits, originals, model, **changes):
    return Problem(model=model, original=originals[model], forget=digits[:32], retain=digits[32:], **changes)


def quick(name, **changes):
    """Settings of `QUICK`, changed."""
    return SETTINGS[name.partition(":")[0]](**{**QUICK[name], **changes})


def unlearn(name, problem, key=KEY, progress=None, **changes):
    return camu_jax.unlearn(key, problem, quick(name, **changes), progress=progress)


def same(a, b):
    return all(jax.tree.leaves(jax.tree.map(lambda p, q: bool((p == q).all()), a, b)))


def close(a, b, atol=1e-6):
    jax.tree.map(lambda p, q: np.testing.assert_allclose(p, q, rtol=1e-4, atol=atol), a, b)


def differ(a, b):
    return max(jax.tree.leaves(jax.tree.map(lambda p, q: float(jnp.abs(p - q).max()), a, b)))


def student(model, variables, learning_rate=0.1):
    return TrainState.create(model, variables, Pipeline(), sgd_l2(learning_rate))


def whole(examples):
    return loop.Stream(examples, 32)


def accuracy(predictor, examples):
    return evaluate.accuracy(evaluate.outputs(predictor, examples.x).logits, examples.y)


def listen(run):
    """What `run(listener)` returns, and what the progress listener was told."""
    told = []
    return run(told.append), told


jitted = functools.cache(jax.jit)


def np_softmax(z):
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def np_model(variables, examples):
    """Images, logits and one-hot labels in float64."""
    x = np.asarray(examples.x, np.float64).reshape(len(examples), -1) / 255
    kernel, bias = (np.asarray(variables["params"][k], np.float64) for k in ("kernel", "bias"))
    return x, x @ kernel + bias, np.eye(CLASSES)[np.asarray(examples.y)]
