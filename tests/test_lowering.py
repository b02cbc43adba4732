"""On a CPU machine: every program lowers for a GPU or a TPU, with XLA's own convolutions; no backend is asked for."""

import dataclasses
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import camu_jax
from camu_jax import Pipeline, Predictor, Problem, camu, evaluate, init_camu, loop, make_tuples, models
from camu_jax.camu import camu_update
from camu_jax.methods import boundary
from camu_jax.optimizers import adam_l2
from camu_jax.training import TrainState, train_step
from experiments.defaults import defaults
from tests.helpers import PLAIN, SETTINGS, Plain, examples, fresh

MODELS = {"cnn": (models.cnn(10), (28, 28, 1)), "resnet18": (models.resnet18(10, (16, 16, 3), width=32), (16, 16, 3))}


def programs(model, image):
    """A training step, the CaMU update and evaluation: functions and the arguments to lower them with."""
    variables = jax.eval_shape(model.init, jax.random.key(0))
    batch = examples(0, 24, classes=10, image=image)
    state = jax.eval_shape(lambda v: TrainState.create(model, v, Pipeline(), adam_l2(1e-3)), variables)
    S = jax.eval_shape(lambda key: make_tuples(key, batch, batch), jax.random.key(0))
    params = jax.eval_shape(lambda v: init_camu(model, v), variables)
    yield lambda state, batch: train_step(state, batch, key=jax.random.key(0)), (state, batch)
    yield camu_update, (params, S)
    yield lambda v, x: Predictor((v,), model)(x), (variables, jax.ShapeDtypeStruct((24, *image), jnp.uint8))


@pytest.mark.parametrize("name", MODELS)
def test_lowered_for_other_platforms(name):
    for function, arguments in programs(*MODELS[name]):
        traced = jax.jit(function).trace(*arguments)
        count = {}
        for platform in ("cuda", "tpu", "cpu"):
            text = traced.lower(lowering_platforms=(platform,)).as_text()
            count[platform] = text.count("stablehlo.convolution")
        assert count["cuda"] == count["tpu"] > 0
        assert count["cpu"] == (count["cuda"] if models.missing() else 0)


def test_the_backend_is_asked_for_by_loops_alone():
    """Not where something is traced: `parallel` asks between two programs."""
    files = Path(camu_jax.__file__).parent.rglob("*.py")
    assert {file.name for file in files if "default_backend" in file.read_text()} == {"loop.py", "parallel.py"}


# --- every program that the library compiles, as it is called ---------------------------------------------------------

JITTED = [
    (loop, "_single"),
    (loop, "_scanned"),
    (loop, "_sent"),
    (loop, "_permutation"),
    (evaluate, "_call"),
    (evaluate, "_call_augmented"),
    (boundary, "_nearest"),
    (camu, "camu_step"),
]


@pytest.fixture
def lowered(monkeypatch):
    """Names of the programs that were called: each was lowered for CUDA, and gave zeros in place of its results."""
    names = []

    def lowering(name, jitted, *args):
        traced = jitted.trace(*args)
        names.append(name)
        traced.lower(lowering_platforms=("cuda",))
        if name == "_permutation":
            return jitted(*args)
        return jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(jitted, *args))

    for module, name in JITTED:
        monkeypatch.setattr(module, name, functools.partial(lowering, name, getattr(module, name)))
    return names


@pytest.mark.parametrize(
    ("name", "augment"), [*((name, "none") for name in SETTINGS), ("bad_teacher", "crop_flip"), ("camu", "crop_flip")]
)
def test_every_method_lowers_for_cuda(name, augment, lowered, monkeypatch):
    """Its steps, scanned and single; then its audit, which asks the model for its outputs."""
    monkeypatch.setattr(loop, "_SCAN", 2)
    monkeypatch.setattr(loop, "on_cpu", lambda: False)
    settings = defaults("tiny", "data10", "reference").settings[name]
    changes = {"epochs": 1, "batch_size": 8}
    settings = dataclasses.replace(settings, **{k: v for k, v in changes.items() if hasattr(settings, k)})
    model, data = models.cnn(10, (12, 12, 1)), stored(0, 200, (12, 12, 1))
    problem = Problem(model, fresh(model), data[:83], data[83:], Pipeline(augment=augment))
    predictor = camu_jax.unlearn(jax.random.key(0), problem, settings)
    if name != "unroll":  # a single step
        assert {"_single", "_scanned"} <= set(lowered)
    assert name != "boundary" or "_nearest" in lowered
    lowered.clear()
    camu_jax.audit(jax.random.key(1), predictor, problem, stored(1, 50, (12, 12, 1)))
    assert set(lowered) == {"_call"}


def test_the_other_programs_lower_for_cuda(lowered, monkeypatch):
    """Rows in host memory, augmented outputs, the primitive of Algorithm 2, and several models in one program."""
    data = stored(0, 12, (4, 4, 1), classes=3)
    host = jax.tree.map(np.asarray, data)
    camu_jax.train(jax.random.key(0), PLAIN, host, camu_jax.TrainSettings(epochs=1, batch_size=4))
    predictor = Predictor((fresh(PLAIN),), PLAIN, Pipeline(augment="crop_flip"))
    evaluate.outputs(predictor, data.x, augment_key=jax.random.key(0))
    floats = examples(0, 8)
    camu.camu_step(init_camu(PLAIN, fresh(PLAIN)), make_tuples(jax.random.key(0), floats[:4], floats[4:]))
    assert {"_sent", "_call_augmented", "camu_step"} <= set(lowered)


def test_models_side_by_side_lower_for_cuda():
    data = stored(0, 12, (12, 12, 1))
    model = models.cnn(10, (12, 12, 1))
    settings = camu_jax.Retrain(epochs=1, batch_size=4)

    def make_one(key):
        return camu_jax.unlearn(key, Problem(model, {}, data[:4], data[4:]), settings).members

    jax.jit(jax.vmap(make_one)).trace(jax.random.split(jax.random.key(0), 2)).lower(lowering_platforms=("cuda",))


def test_a_program_holds_the_training_set_once():
    """No copy of it, and none in float32: the largest buffers of the compiled epoch are its arguments."""
    data, batch = stored(0, 20_000, (16, 16, 1), classes=3), 8
    model = camu_jax.from_linen(Plain(), (16, 16, 1))
    state = TrainState.create(model, fresh(model), Pipeline(), adam_l2(1e-3))
    order, starts = [jnp.arange(len(data))], np.zeros((4, 1), np.int32)
    arguments = (train_step, (batch,), state, (data,), order, starts, np.arange(4, dtype=np.int32), jax.random.key(0))
    memory = loop._scanned.lower(*arguments).compile().memory_analysis()
    assert memory.argument_size_in_bytes > data.x.nbytes
    assert memory.temp_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes < data.x.nbytes / 10


def stored(seed, n, image, classes=10):
    """uint8 images with labels."""
    rng = np.random.default_rng(seed)
    x, y = rng.integers(0, 256, (n, *image), np.uint8), rng.integers(0, classes, n, np.int32)
    return camu_jax.Examples(jnp.asarray(x), jnp.asarray(y), classes)
