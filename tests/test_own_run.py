"""The runner on data, models and weights of one's own, as a user types it."""

import json
import shutil

import jax
import numpy as np
import pytest

from camu_jax import TrainSettings, train, weights
from experiments import config, own_model, sources
from experiments.experiment import open_experiment
from experiments.job import jobs_of
from experiments.report import main as report
from experiments.run import main
from tests.test_own_data import NAMES, digits, write_images  # noqa: F401  # a fixture

QUICK = ["--seeds=0", "--original.epochs=1", "--retrain.epochs=1", "--camu.epochs=1"]
MLP = "--model.factory=experiments/examples/mlp.py:make"


@pytest.fixture
def run(tmp_path, cache):
    folders = [f"--out={tmp_path / 'out'}", f"--checkpoint_dir={tmp_path / 'originals'}", f"--cache_dir={cache}"]
    return lambda *flags: main([*QUICK, *folders, *flags])


@pytest.fixture
def mine(tmp_path, digits):  # noqa: F811
    """60 real digits with names for their classes."""
    np.savez(tmp_path / "mine.npz", **digits, classes=np.array(NAMES))
    return f"--dataset=npz:{tmp_path / 'mine.npz'}"


def results(tmp_path):
    return {
        str(p.relative_to(tmp_path / "out").parent): json.loads(p.read_text())
        for p in sorted((tmp_path / "out").glob("*/*/*/seed*.json"))
    }


def one_line(capsys):
    message = capsys.readouterr().err
    assert message.startswith("error: ") and message.count("\n") == 1, message
    return message


def test_a_class_of_ones_own_data_is_called_by_its_name(run, mine, tmp_path, capsys):
    assert run(mine, "--task=class3", MLP) in (0, 1)  # one epoch of 60 digits may not be enough
    printed = capsys.readouterr().out
    assert "npz:mine.npz (own model make), class3 (digit 3): forget" in printed
    assert "npz:mine.npz (own model make), class3 (digit 3): percent, one seed" in printed
    found = results(tmp_path)
    assert list(found) == ["npz-mine/class3/camu", "npz-mine/class3/retrain"]
    settings = found["npz-mine/class3/camu"]["settings"]
    assert settings["classes"] == ["digit 3"] and len(settings["data_digest"]) == 64
    assert set(settings["model"]) == {"factory", "code", "compute"} and str(tmp_path) not in json.dumps(settings)
    assert report([f"--out={tmp_path / 'out'}"]) == 0
    assert "class 3 (digit 3)" in (tmp_path / "out/report/report.md").read_text()


def test_other_data_is_never_mixed_in(run, mine, tmp_path, digits, capsys):  # noqa: F811
    flags = [mine, MLP, "--methods=retrain"]
    assert run(*flags) in (0, 1)
    capsys.readouterr()
    np.savez_compressed(tmp_path / "mine.npz", **digits, classes=np.array(NAMES))  # the same, stored otherwise
    assert run(*flags) in (0, 1) and "nothing to do" in capsys.readouterr().out
    changed = digits["x_test"].copy()
    changed[-1, -1, -1] ^= 1
    np.savez(tmp_path / "mine.npz", **{**digits, "x_test": changed}, classes=np.array(NAMES))
    assert run(*flags) == 2
    assert "data_digest was" in one_line(capsys)


def test_another_model_is_never_mixed_in(run, mine, tmp_path, capsys):
    shutil.copy("experiments/examples/mlp.py", tmp_path / "net.py")
    flags = [mine, f"--model.factory={tmp_path / 'net.py'}:make", "--methods=retrain"]
    assert run(*flags) in (0, 1)
    text = (tmp_path / "net.py").read_text()
    (tmp_path / "net.py").write_text(text.replace("width: int = 256", "width: int = 64"))
    capsys.readouterr()
    assert run(*flags) == 2
    assert "model.code was" in one_line(capsys)


@pytest.fixture
def owned(digits):  # noqa: F811
    """A model of the example MLP that its owner has trained."""
    from camu_jax import Examples

    model = own_model.make("experiments/examples/mlp.py:make", (28, 28, 1), 10)
    data = Examples(jax.numpy.asarray(digits["x_train"]), jax.numpy.asarray(digits["y_train"]), 10)
    return train(jax.random.key(5), model, data, TrainSettings(epochs=15))


@pytest.mark.parametrize("name", ["ckpt", "w.safetensors", "w.npz"])
def test_ones_own_weights_are_unlearned(run, mine, tmp_path, capsys, owned, name):
    weights.save(tmp_path / name, owned)
    assert run(mine, MLP, f"--original={tmp_path / name}", "--methods=neggrad") == 0
    printed = capsys.readouterr().out
    assert "to train" not in printed and not list((tmp_path / "originals").iterdir())
    result = results(tmp_path)["npz-mine/data10/neggrad"]
    assert result["settings"]["original"] == {"weights": weights.digest(owned)}
    weights.save(tmp_path / name, jax.tree.map(lambda a: a * 2, owned))
    assert run(mine, MLP, f"--original={tmp_path / name}", "--methods=neggrad") == 2
    assert "original.weights was" in one_line(capsys)


def test_weights_of_another_model(run, mine, tmp_path, capsys, owned):
    weights.save(tmp_path / "w.npz", owned)
    assert run(mine, f"--original={tmp_path / 'w.npz'}") == 2
    message = one_line(capsys)
    assert "do not fit the model; missing: params/Conv_0" in message and not results(tmp_path)
    assert run(mine, f"--original={tmp_path / 'nowhere'}") == 2
    assert "nowhere are not there" in one_line(capsys)


def test_validation_and_limit_of_ones_own_data(run, mine, tmp_path, capsys):
    assert run(mine, MLP, "--validation=20", "--limit=50", "--methods=retrain") in (0, 1)
    assert "forget 3 of 30 training examples, 20 validation examples" in capsys.readouterr().out
    assert run(mine, MLP, "--validation=60") == 2
    assert "validation is 60; allowed: 0 to 58" in one_line(capsys)
    assert run(mine, MLP, "--limit=61") == 2
    assert "limit is 61; allowed: 2 to 60" in one_line(capsys)


def test_given_rows_are_those_of_the_whole_set(run, mine, tmp_path, capsys, digits):  # noqa: F811
    """Whatever is held out of it; and a limit on data of one's own would take others."""
    file = tmp_path / "rows.txt"
    file.write_text("0 3 17 20 41 59")
    flags = [mine, f"--task=indices:{file}", f"--out={tmp_path / 'out'}", f"--cache_dir={tmp_path}"]
    options = config.parse([*flags, f"--checkpoint_dir={tmp_path}", "--validation=30"], config.Config(), "run.py")
    forget, retain = jobs_of(open_experiment(options))[0].split()
    wanted = digits["x_train"][[0, 3, 17, 20, 41, 59]]
    assert 0 < len(forget) < 6 and len(forget) + len(retain) == 30
    assert all(any((image == other).all() for other in wanted) for image in np.asarray(forget.x[:]))
    assert run(mine, "--limit=50", f"--task=indices:{file}") == 2
    assert "limit is 50; allowed with indices:" in one_line(capsys)


def test_a_limit_takes_of_every_class(tmp_path, digits):  # noqa: F811
    """A folder is in the order of its classes."""
    source = sources.find(f"folder:{write_images(tmp_path / 'd', digits)}")
    train, _ = source.load(30)
    assert len(train) == 30 and len(np.unique(train.y)) == 10
    assert source.title == "folder:d" and source.name == "folder-d" and source.classes == NAMES


def test_a_table_and_a_model_for_it(run, tmp_path, capsys):
    """The wines that ship with scikit-learn."""
    from sklearn.datasets import load_wine

    x, y = load_wine(return_X_y=True)
    x = (x - x.mean(0)) / x.std(0)
    np.savez(tmp_path / "wine.npz", x_train=x[::2], y_train=y[::2], x_test=x[1::2], y_test=y[1::2])
    flags = ["--original.epochs=20", "--retrain.epochs=20"]
    assert run(f"--dataset=npz:{tmp_path / 'wine.npz'}", MLP, *flags) == 0
    assert all(result["metrics"]["T_s"] > 80 for result in results(tmp_path).values())
    assert run(f"--dataset=npz:{tmp_path / 'wine.npz'}") == 2
    assert "model.architecture cnn does not take (13,) images" in one_line(capsys)


@pytest.mark.parametrize(
    ("dataset", "words"),
    [
        ("npz:", "allowed: digit, fashion, c10, c100, tiny, npz:FILE, folder:DIR, tfds:NAME, hf:DIR"),
        ("csv:a", "dataset is 'csv:a'"),
        ("npz:nowhere.npz", "nowhere.npz is no file"),
        ("folder:nowhere", "nowhere is no folder"),
        ("tfds:mnits", "close to it: "),
    ],
)
def test_wrong_data_sets(run, tmp_path, capsys, dataset, words):
    assert run(f"--dataset={dataset}", MLP, f"--data_dir={tmp_path}") == 2
    assert words in one_line(capsys) and not results(tmp_path)
