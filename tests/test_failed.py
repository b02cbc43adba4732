"""Models that a method has destroyed are called failed, and do not pass for private ones."""

import jax
import jax.numpy as jnp
import pytest

from camu_jax import Examples, Predictor, evaluate
from experiments import reproduce, store
from experiments.run import main

from .helpers import IMAGE, PLAIN, fresh

QUICK = ["--dataset=tiny", "--limit=400", "--seeds=0", "--original.epochs=4", "--retrain.epochs=4"]


@pytest.fixture
def retain():
    """75 examples of class 0 and 25 of class 1."""
    return Examples(jnp.zeros((100, *IMAGE)), jnp.repeat(jnp.arange(2), jnp.array([75, 25])), 3)


def predictor(change=lambda leaf: leaf):
    return Predictor((jax.tree.map(change, fresh(PLAIN)),), PLAIN)


@pytest.mark.parametrize("accuracy", [0.0, 75.0, 79.0])  # 75 + 4.33
def test_what_guessing_reaches_is_a_failure(retain, accuracy):
    assert "which guessing reaches (75.00%)" in evaluate.failure(predictor(), retain, accuracy)


@pytest.mark.parametrize("accuracy", [80.0, 100.0])
def test_what_guessing_does_not_reach_is_none(retain, accuracy):
    assert evaluate.failure(predictor(), retain, accuracy) is None


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_one_parameter_that_is_not_finite_is_a_failure(retain, bad):
    broken = predictor(lambda leaf: leaf.at[(0,) * leaf.ndim].set(bad))
    members = (fresh(PLAIN), *broken.members)  # one member of an ensemble
    assert evaluate.failure(Predictor(members, PLAIN), retain, 100.0) == "its parameters are not finite"


def test_logits_that_are_none_predict_nothing():
    logits = jnp.array([[jnp.nan, 0.0], [jnp.nan, jnp.nan], [1.0, 0.0], [jnp.inf, 0.0]])
    assert evaluate.accuracy(logits, jnp.zeros(4, int)) == 50


@pytest.mark.parametrize("setting", ["neggrad.learning_rate=1e3", "camu.ce_learning_rate=1e38"])
def test_a_destroyed_model_is_marked_and_the_others_are_made(setting, tmp_path, cache, capsys):
    method = setting.partition(".")[0]
    folders = [f"--out={tmp_path / 'out'}", f"--checkpoint_dir={tmp_path / 'originals'}", f"--cache_dir={cache}"]
    command = [*QUICK, "--methods", method, "retrain", f"--{setting}", "--audit=paper", *folders]
    for _ in range(2):  # the second time nothing is made, and the same is said
        assert main(command) == 1
        said = capsys.readouterr()
        assert f"{method}, seed 0 failed: its" in said.err and "Traceback" not in said.err
        rows = [line.split() for line in said.out.splitlines() if line.count("failed") >= 4]
        assert len(rows) == 1 and rows[0][0].lower() == method
    results = {
        name: store.read(tmp_path / "out" / "tiny" / "data10" / name / "seed0.json") for name in (method, "retrain")
    }
    assert "failed" in results[method] and "audits" not in results[method]
    assert "failed" not in results["retrain"] and "M" in results["retrain"]["metrics"]


def test_the_whole_paper_goes_on_and_says_so(tmp_path, cache, capsys):
    folders = [f"--out={tmp_path / 'out'}", f"--checkpoint_dir={tmp_path / 'originals'}", f"--cache_dir={cache}"]
    part = ["--datasets=tiny", "--limit=400", "--tables=2", "--methods", "neggrad", "unroll", "--seeds=0", *folders]
    part += ["--figures", "--set", "original.epochs=4", "neggrad.learning_rate=1e38"]
    for made in ("2 of 2 results to make", "0 of 2 results to make"):
        assert reproduce.main(part) == 1
        said = capsys.readouterr()
        assert made in said.out and "1 failed" in said.out
        assert "tiny, data10, neggrad, seed 0 failed: its parameters are not finite" in said.err


def test_a_result_that_cannot_be_read_is_not_called_damaged(tmp_path):
    """The disk's fault says nothing of the file, which stays where it is."""
    (tmp_path / "seed0.json").mkdir()
    with pytest.raises(OSError):
        store.read(tmp_path / "seed0.json")
