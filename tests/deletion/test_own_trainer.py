"""The owner's own loop in the place of ours: `--train FILE.py:NAME`."""

import jax
import numpy as np
import pytest

from camu_jax import Examples, Retrain, train
from camu_jax.deletion import delete
from experiments import UsageError, own_trainer
from tests.deletion.conftest import MODEL, TRAINING, random_labels
from tests.helpers import assert_close

CODE = """
import jax, jax.numpy as jnp

def good(seed, x, y):
    assert x.shape == (120, 16) and y.dtype == "int32"
    key = jax.random.key(seed)
    shapes = {"Dense_0": (16, 64), "Dense_1": (64, 4)}
    return {name: {"kernel": jax.random.normal(key, s), "bias": jnp.zeros(s[1:])} for name, s in shapes.items()}

def other(seed, x, y):
    return {"Dense_0": {"kernel": jnp.zeros((3, 3))}}

def fails(seed, x, y):
    raise RuntimeError("no data")
"""


@pytest.fixture
def trainer(tmp_path):
    (tmp_path / "loop.py").write_text(CODE)
    return lambda name: own_trainer.make(f"{tmp_path / 'loop.py'}:{name}", MODEL)


def test_its_weights_fit_and_follow_the_key(trainer):
    train_it = trainer("good")
    one, same, other = (train_it(jax.random.key(k), random_labels(0, 120)) for k in (1, 1, 2))
    assert_close(one, same, rtol=0, atol=0)
    assert (one["params"]["Dense_0"]["kernel"] != other["params"]["Dense_0"]["kernel"]).any()
    assert MODEL.eval(one, random_labels(0, 5).x).logits.shape == (5, 4)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("other", "loop.py:other do not fit the model; missing:"),
        ("fails", "line 14: RuntimeError: no data"),
        ("none", "there is no such function; allowed: good, other, fails"),
    ],
)
def test_what_does_not_fit_or_fails_is_one_line(trainer, name, words):
    with pytest.raises(UsageError) as error:
        trainer(name)(jax.random.key(0), random_labels(0, 120))
    assert words in str(error.value) and "\n" not in str(error.value) and str(error.value).startswith("train")


def test_models_that_never_saw_the_rows_and_retrain_are_trained_by_it(request_of, rows):
    seen = []

    def owners(key, examples: Examples):
        seen.append(np.asarray(examples.x[:]))
        return train(key, MODEL, examples, TRAINING)

    request = request_of(Retrain(epochs=1), trainer=owners, count=4)
    result, receipt = delete(request, rows)
    assert len(seen) == 6 and all(len(x) == 90 for x in seen)  # the result, the control, and four witnesses
    assert receipt["figures"]["accuracy"]["after"]["retain"] > 95  # one epoch of ours would not do
    assert receipt["work"]["witnesses"]["training"] is None and receipt["guarantee"]["kind"] == "exact"
    assert_close(result.variables, train(request.keys.method, MODEL, request.problem.retain, TRAINING), rtol=0, atol=0)
