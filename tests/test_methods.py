"""CaMU and Retrain as methods, on real digits: what every method promises, and that the forget set is forgotten."""

import dataclasses
import inspect

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import camu_jax
from camu_jax import Camu, Pipeline, Predictor, Problem, Retrain, TrainSettings, evaluate, from_linen, loop, train
from camu_jax.methods import METHODS, camu
from camu_jax.methods.camu import ABLATIONS
from tests.helpers import Normed, Plain, assert_close, differ

MODELS = {"plain": from_linen(Plain(10), (28, 28, 1)), "batchnorm": from_linen(Normed(10), (28, 28, 1))}
SETTINGS = {
    "camu": Camu(epochs=2),
    "camu:paper": Camu.paper(epochs=2),
    "retrain": Retrain(epochs=1),
}


@pytest.fixture(scope="module")
def problems(digits):
    """The first 32 of 96 digits to forget, by model."""

    def make(model):
        original = train(jax.random.key(0), model, digits[:96], TrainSettings(epochs=3))
        return Problem(model=model, original=original, forget=digits[:32], retain=digits[32:96])

    return {name: make(model) for name, model in MODELS.items()}


@pytest.fixture
def problem(problems):
    return problems["plain"]


def unlearn(problem, settings, seed=0, progress=None):
    return camu_jax.unlearn(jax.random.key(seed), problem, settings, progress=progress).variables


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("method", SETTINGS)
def test_the_key_alone_decides_and_the_original_stays(problems, name, method):
    problem = problems[name]
    before = jax.device_get(problem.original)
    first, same, other = (unlearn(problem, SETTINGS[method], seed) for seed in (0, 0, 1))
    chex.assert_trees_all_equal(first, same)
    chex.assert_trees_all_equal_shapes_and_dtypes(first, problem.original)
    assert differ(first["params"], other["params"]) and differ(first["params"], problem.original["params"])
    chex.assert_trees_all_equal(problem.original, before)


@pytest.mark.parametrize("method", ["camu", "camu:paper"])
def test_camu_leaves_streamed_examples_in_host_memory(monkeypatch, problem, method):
    """NumPy images: what it prepares is sent minibatch by minibatch too; the result is the same but for rounding."""
    want = unlearn(problem, SETTINGS[method])
    streamed = dataclasses.replace(
        problem, **{name: jax.device_get(getattr(problem, name)) for name in ("forget", "retain")}
    )
    run, rows = loop.run, []

    def spy(step, state, *streams, **options):
        rows.extend(jax.tree.leaves([stream.rows for stream in streams]))
        return run(step, state, *streams, **options)

    monkeypatch.setattr(loop, "run", spy)
    assert_close(unlearn(streamed, SETTINGS[method]), want)
    assert len(rows) >= 6 and all(isinstance(a, np.ndarray) for a in rows)


@pytest.mark.parametrize("ablation", ABLATIONS)
def test_ablations(problem, ablation):
    whole = SETTINGS["camu"]
    settings = dataclasses.replace(whole, **ABLATIONS[ablation])
    assert differ(unlearn(problem, settings), unlearn(problem, whole))


def test_the_ablations_of_the_paper():
    """Section 4.3: CE on R* alone; without F*; without R* -> E*."""
    left = {
        name: [term for term in ("kl_forget", "kl_retain", "ce_forget", "ce_retain") if changes.get(term, 1)]
        for name, changes in ABLATIONS.items()
    }
    assert left == {
        "finetune": ["ce_retain"],
        "no_counterfactual": ["kl_retain", "ce_retain"],
        "no_retain_embedding": ["kl_forget", "ce_forget", "ce_retain"],
    }


def test_finetuning_never_sees_the_forget_set(problem):
    """With the forget terms off, other forget images (as many) change nothing."""
    settings = dataclasses.replace(SETTINGS["camu"], **ABLATIONS["finetune"])
    other = dataclasses.replace(problem, forget=problem.retain[:32])
    chex.assert_trees_all_equal(unlearn(problem, settings), unlearn(other, settings))


@pytest.mark.parametrize(
    "changes",
    [dict(pairing="tuple"), dict(labels="uniform"), dict(counterfactual_embedding="current"), dict(repeat=2)],
    ids=lambda changes: next(iter(changes)),
)
def test_every_choice_matters(problem, changes):
    found = unlearn(problem, dataclasses.replace(SETTINGS["camu"], **changes))
    assert differ(found, unlearn(problem, SETTINGS["camu"]))


@pytest.fixture
def prepared(monkeypatch):
    """Prepares a run: forget, counterfactual and retain examples, the two embeddings, and the number of streams."""

    def prepare(problem, **changes):
        streams = []
        monkeypatch.setattr(camu.loop, "run", lambda step, state, *given, **options: streams.extend(given) or state)
        unlearn(problem, dataclasses.replace(SETTINGS["camu"], **changes))
        if len(streams) == 1:
            S = streams[0].rows
            return S.forget, S.counterfactual, S.retain, S.counterfactual_embedding, S.retain_embedding, 1
        (forget, counterfactual, embedding), (retain, retain_embedding) = (stream.rows for stream in streams)
        return forget, counterfactual, retain, embedding, retain_embedding, 2

    return prepare


@pytest.mark.parametrize(("pairing", "count"), [("independent", 2), ("tuple", 1)])
def test_what_a_run_prepares(prepared, problem, pairing, count):
    """One stream keeps the retain examples with their counterfactuals, two are shuffled apart."""
    forget, counterfactual, retain, embedding, retain_embedding, streams = prepared(problem, pairing=pairing)
    clean = problem.pipeline.clean
    assert streams == count
    chex.assert_trees_all_equal(forget, dataclasses.replace(problem.forget, x=clean(problem.forget.x)))
    mask = counterfactual.x - clean(retain.x)
    assert float(mask.min()) >= -1e-6 and float(mask.max()) <= 1 + 1e-6 and float(mask.std()) > 0.2
    assert_close(embedding, problem.model.eval(problem.original, counterfactual.x).embedding, atol=1e-5)
    assert_close(retain_embedding, problem.model.eval(problem.original, clean(retain.x)).embedding, atol=1e-5)


def times_drawn(part):
    return sorted(np.unique(np.asarray(part.x).reshape(len(part), -1), axis=0, return_counts=True)[1])


@pytest.mark.parametrize("repeat", [1, 3])
def test_repeat_and_replace(prepared, problem, repeat):
    """96 tuples from 64 retain examples: without replacement every one comes once, and 32 of them twice."""
    forget, _, retain, *_ = prepared(problem, repeat=repeat)
    assert times_drawn(forget) == [repeat] * 32
    assert times_drawn(retain) == ([1] * 32 if repeat == 1 else [1] * 32 + [2] * 32)
    _, _, again, *_ = prepared(problem, repeat=repeat, replace=True)
    assert len(again) == 32 * repeat and times_drawn(again)[-1] > times_drawn(retain)[-1]


def test_augmentation_is_once_for_pairs_and_anew_for_retain_images(prepared, problem):
    augmented = dataclasses.replace(problem, pipeline=Pipeline(augment="crop_flip"))
    forget, counterfactual, retain, embedding, retain_embedding, _ = prepared(augmented)
    assert forget.x.dtype == counterfactual.x.dtype == jnp.float32 and retain.x.dtype == jnp.uint8
    assert differ(forget.x, problem.pipeline.clean(problem.forget.x))
    assert embedding is not None and retain_embedding is None  # of images that no two steps share


@pytest.mark.parametrize("method", ["camu", "retrain"])
def test_progress_is_called_after_every_step(problem, method):
    told = []
    unlearn(problem, SETTINGS[method], progress=told.append)
    assert [p.step for p in told] == list(range(1, told[0].steps + 1)) and len(told) == 2


@pytest.mark.parametrize("method", ["camu", "retrain"])
def test_a_bad_problem_is_refused(problem, method):
    with pytest.raises(ValueError, match="forget is empty"):
        unlearn(dataclasses.replace(problem, forget=problem.forget[:0]), SETTINGS[method])


def test_retrain_is_training_on_the_retain_set(problem):
    """It depends on neither the original model nor the forget set."""
    found = unlearn(problem, SETTINGS["retrain"], 3)
    chex.assert_trees_all_equal(found, train(jax.random.key(3), problem.model, problem.retain, SETTINGS["retrain"]))
    assert not METHODS[Retrain].uses_original and METHODS[Camu].uses_original


def test_the_registry():
    names = [method.name for method in METHODS.values()]
    assert names == "retrain neggrad boundary bad_teacher scrub sisa unroll camu".split()
    for settings, method in METHODS.items():
        assert list(inspect.signature(method.unlearn).parameters) == ["key", "problem", "settings", "progress"]
        assert dataclasses.is_dataclass(settings) and settings() == settings()
        assert settings.__name__.lower() == method.name.replace("_", "")


def test_settings_of_no_method_are_refused(problem):
    with pytest.raises(TypeError, match="settings is a TrainSettings; allowed: Retrain, NegGrad"):
        unlearn(problem, TrainSettings())


@pytest.mark.parametrize(
    "settings",
    [
        Camu(epochs=5, batch_size=21, ce_learning_rate=1e-3, repeat=8),
        Camu.paper(epochs=15, batch_size=21),
    ],
    ids=["reference", "paper"],
)
def test_camu_forgets_a_class_and_keeps_the_others(cnn, trained, digits, tiny, settings):
    forget, retain = (digits[jnp.flatnonzero(rows)] for rows in (digits.y == 0, digits.y != 0))
    assert len(forget) == 21  # one batch
    problem = Problem(model=cnn, original=trained, forget=forget, retain=retain)

    def measured(predictor):
        """Accuracy on the class and on the others, of training and of test examples (as many: one program)."""
        for part in (digits, tiny[1][:320]):
            correct = np.asarray(evaluate.outputs(predictor, part.x).logits.argmax(1) == part.y)
            yield from (correct[np.asarray(part.y) == 0].mean(), correct[np.asarray(part.y) != 0].mean())

    F_tr, R_tr, F_ts, R_ts = measured(Predictor((trained,), cnn))
    assert F_tr > 0.9 and F_ts > 0.9 and R_ts > 0.88
    F_tr, R_tr, F_ts, after = measured(camu_jax.unlearn(jax.random.key(0), problem, settings))
    assert F_tr == F_ts == 0
    assert R_tr > 0.92 and after > R_ts - 0.05
