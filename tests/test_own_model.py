"""`--model.factory`: models of every kind, and every way to get one wrong, found before any work."""

import jax
import jax.numpy as jnp
import pytest

from camu_jax import Examples, Pipeline, Predictor, Problem, TrainSettings, evaluate, train, unlearn
from camu_jax.methods.camu import Camu
from experiments import UsageError, own_model
from tests.helpers import examples

IMAGE, CLASSES = (4, 4, 1), 3
EXAMPLES = "experiments/examples"

LINEN = """
import flax.linen as nn
from layers import WIDTH

class Net(nn.Module):
    classes: int
    @nn.compact
    def __call__(self, x, train):
        h = nn.Dense(WIDTH)(x.reshape(len(x), -1))
        h = nn.Dropout(0.1, deterministic=not train)(nn.BatchNorm(use_running_average=not train, momentum=0.9)(h))
        return nn.Dense(self.classes)(h), h

def make(num_classes):
    return Net(num_classes)

def logits_only(num_classes):
    return nn.Sequential([lambda x: x.reshape(len(x), -1), nn.Dense(num_classes)])

def ours(image_shape, num_classes):
    import camu_jax
    return camu_jax.from_linen(Net(num_classes), image_shape)

def other_classes():
    return Net(7)

def fails(num_classes):
    raise RuntimeError("no such\\nthing")

def wrong(x, y):
    pass

def nothing():
    return None

def too_deep(num_classes):
    return nn.Sequential([nn.Dense(num_classes)])
"""
NNX = """
from flax import nnx
from layers import WIDTH

class Net(nnx.Module):
    def __init__(self, inputs, classes, rngs):
        self.first = nnx.Linear(inputs, WIDTH, rngs=rngs)
        self.norm = nnx.BatchNorm(WIDTH, momentum=0.9, rngs=rngs)
        self.drop = nnx.Dropout(0.1, rngs=rngs)
        self.last = nnx.Linear(WIDTH, classes, rngs=rngs)
    def __call__(self, x):
        h = self.drop(self.norm(self.first(x.reshape(len(x), -1))))
        return self.last(h), h

def make(rngs, image_shape, num_classes):
    inputs = image_shape[0] * image_shape[1] * image_shape[2]
    return Net(inputs, num_classes, rngs)

def unseeded():
    return Net(16, 3, nnx.Rngs(0))
"""
EQUINOX = """
import equinox as eqx
import jax
from layers import WIDTH

class Net(eqx.Module):
    first: eqx.nn.Linear
    drop: eqx.nn.Dropout
    last: eqx.nn.Linear
    def __call__(self, x, key=None):
        h = self.drop(jax.nn.relu(self.first(x.reshape(-1))), key=key)
        return self.last(h), h

def make(key, num_classes):
    first, last = jax.random.split(key)
    return Net(eqx.nn.Linear(16, WIDTH, key=first), eqx.nn.Dropout(0.1), eqx.nn.Linear(WIDTH, num_classes, key=last))

class Normed(eqx.Module):
    first: eqx.nn.Linear
    norm: eqx.nn.BatchNorm
    last: eqx.nn.Linear
    def __init__(self, key, num_classes):
        first, last = jax.random.split(key)
        self.first = eqx.nn.Linear(16, WIDTH, key=first)
        self.norm = eqx.nn.BatchNorm(WIDTH, axis_name="batch", mode="ema")
        self.last = eqx.nn.Linear(WIDTH, num_classes, key=last)
    def __call__(self, x, state):
        h, state = self.norm(self.first(x.reshape(-1)), state)
        return (self.last(h), h), state

def normed(key, num_classes):
    return eqx.nn.make_with_state(Normed)(key, num_classes)

def unseeded():
    return make(jax.random.key(0), 3)
"""


@pytest.fixture
def mine(tmp_path):
    """Files of a user: three kinds of modules, and what they share."""
    for name, text in {"linen": LINEN, "nets": NNX, "eqx": EQUINOX, "layers": "WIDTH = 8\n"}.items():
        (tmp_path / f"{name}.py").write_text(text)
    return tmp_path


KINDS = ["linen.py:make", "linen.py:ours", "nets.py:make", "eqx.py:make", "eqx.py:normed"]


@pytest.mark.parametrize("factory", KINDS)
def test_every_kind_of_model_is_trained_and_unlearned(mine, factory, key):
    if factory.startswith("eqx"):
        pytest.importorskip("equinox")
    model = own_model.make(f"{mine}/{factory}", IMAGE, CLASSES)
    data = examples(0, 40)
    variables = train(key, model, data, TrainSettings(epochs=30, learning_rate=1e-2))
    before = model.eval(variables, data.x).logits
    accuracy = float(jnp.mean(jnp.argmax(before, -1) == data.y))
    assert accuracy > 0.6  # of random labels, which it has learned by heart
    problem = Problem.from_rows(model, variables, data, range(8))
    unlearned = unlearn(key, problem, Camu(epochs=1))
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(unlearned.variables))
    assert bool((unlearned(data.x).logits != before).any())


@pytest.mark.parametrize("factory", KINDS)
def test_a_fresh_model_of_another_key_is_another(mine, factory):
    if factory.startswith("eqx"):
        pytest.importorskip("equinox")
    model = own_model.make(f"{mine}/{factory}", IMAGE, CLASSES)
    a, b, c = (jax.tree.leaves(jax.jit(model.init)(jax.random.key(k))["params"]) for k in (0, 0, 1))
    assert all(bool((x == y).all()) for x, y in zip(a, b, strict=True))
    assert any(bool((x != y).any()) for x, y in zip(a, c, strict=True))


def test_the_same_file_gives_equal_models(mine):
    """So that no step compiles twice."""
    made = [own_model.make(f"{mine}/linen.py:make", IMAGE, CLASSES) for _ in range(2)]
    assert made[0] == made[1]


WRONG = {
    "no name": ("linen.py", "allowed: FILE.py:NAME"),
    "no file": ("nowhere.py:make", "nowhere.py is no file"),
    "no function": ("linen.py:mak", "allowed: make, logits_only"),
    "syntax": ("bad.py:make", "bad.py:make, line 2: SyntaxError"),
    "import": ("odd.py:make", "line 1: ModuleNotFoundError: No module named 'nowhere'"),
    "raises": ("linen.py:fails", "RuntimeError: no such thing"),
    "arguments": ("linen.py:wrong", "takes x, y; allowed: image_shape, num_classes, rngs, key"),
    "None": ("linen.py:nothing", "returns a NoneType; allowed: a Flax Linen or NNX module"),
    "classes": ("linen.py:other_classes", "logits of shape (2, 7)"),
    "rank": ("linen.py:too_deep", "logits of shape (2, 4, 4, 3)"),
    "unseeded NNX": ("nets.py:unseeded", "takes no rngs"),
    "unseeded Equinox": ("eqx.py:unseeded", "takes no key"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_one_line(mine, case):
    factory, words = WRONG[case]
    if factory.startswith("eqx"):
        pytest.importorskip("equinox")
    (mine / "bad.py").write_text("x = 1\ndef make(:\n")
    (mine / "odd.py").write_text("import nowhere\n")
    with pytest.raises(UsageError) as raised:
        own_model.make(f"{mine}/{factory}", IMAGE, CLASSES)
    message = str(raised.value)
    assert words in message and "model.factory" in message and "\n" not in message


def test_images_that_the_model_does_not_take(mine):
    pytest.importorskip("equinox")
    with pytest.raises(UsageError, match=r"model.factory .*eqx.py:make, line \d+: "):
        own_model.make(f"{mine}/eqx.py:make", (5, 5, 1), CLASSES)


def test_the_digest_is_that_of_the_code(mine):
    factory = f"{mine}/linen.py:make"
    first = own_model.digest(factory)
    (mine / "unrelated.py").write_text("x = 1")
    assert own_model.digest(factory) == first
    assert own_model.digest(f"{mine}/linen.py:ours") != first
    (mine / "layers.py").write_text("WIDTH = 9\n")
    second = own_model.digest(factory)
    (mine / "linen.py").write_text(LINEN + "\n")
    assert len({first, second, own_model.digest(factory)}) == 3
    last = own_model.digest(factory)
    (mine / "moved").mkdir()
    for name in ("linen.py", "layers.py"):
        (mine / name).rename(mine / "moved" / name)
    assert own_model.digest(f"{mine}/moved/linen.py:make") == last


# --- the examples -------------------------------------------------------------------------------------------------


def size(model):
    return sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(model.init, jax.random.key(0))["params"]))


def test_vit_s16_has_the_size_that_the_literature_gives():
    assert size(own_model.make(f"{EXAMPLES}/vit.py:vit_s16", (224, 224, 3), 1000)) == 22_050_664


@pytest.mark.parametrize("name", ["mlp.py:make", "vit.py:small"])
@pytest.mark.slow
def test_the_examples_learn_the_digits(tiny, name, key):
    """Real digits, 400 of them: far more of the unseen ones than a guess."""
    model = own_model.make(f"{EXAMPLES}/{name}", (28, 28, 1), 10)
    variables = train(key, model, tiny[0][:400], TrainSettings(epochs=6))
    test: Examples = tiny[1][:200]
    logits = model.eval(variables, test.x.astype(jnp.float32) / 255).logits
    assert float(jnp.mean(jnp.argmax(logits, -1) == test.y)) > 0.7


@pytest.mark.slow
def test_vit_s16_on_digits(tiny):
    """One forward pass of real digits, enlarged to the size that it takes."""

    model = own_model.make(f"{EXAMPLES}/vit.py:vit_s16", (224, 224, 1), 10)
    predictor = Predictor((jax.jit(model.init)(jax.random.key(0)),), model, Pipeline(image_size=224))
    outputs = evaluate.outputs(predictor, tiny[0].x[:2])
    assert outputs.logits.shape == (2, 10) and outputs.embedding.shape == (2, 384)
    assert bool(jnp.isfinite(outputs.logits).all()) and float(jnp.std(outputs.embedding)) > 0.1
