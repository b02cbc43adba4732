"""On a CPU machine: what is lowered for a GPU or a TPU are XLA's own convolutions; the backend is never asked for."""

from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

import camu_jax
from camu_jax import Pipeline, Predictor, init_camu, make_tuples, models
from camu_jax.camu import camu_update
from camu_jax.optimizers import adam_l2
from camu_jax.training import TrainState, train_step
from tests.helpers import examples

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
