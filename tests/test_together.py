"""Seeds and models side by side in one program: the same results, the same files."""

import json

import jax
import numpy as np
import pytest

from camu_jax import Problem, TrainSettings, Unroll, data, from_linen, train, unlearn
from camu_jax.audits import population
from experiments import audit, config, grid, reproduce, run
from experiments.experiment import open_experiment
from experiments.job import jobs_of, make_together
from tests.helpers import Normed, arrays

QUICK = ["--limit=150", "--original.epochs=1", "--retrain.epochs=1", "--camu.epochs=1"]


@pytest.fixture
def folders(tmp_path, cache):
    return [f"--checkpoint_dir={tmp_path / 'originals'}", f"--cache_dir={cache}"]


def results(out):
    files = sorted(out.rglob("seed*.json"))
    return {f"{file.parent.name}/{file.stem}": json.loads(file.read_text()) for file in files}


def test_models_side_by_side_are_those_made_one_by_one():
    model = from_linen(Normed(10), (28, 28, 1))
    digits = data.load("tiny")[0][:96]
    original = train(jax.random.key(0), model, digits, TrainSettings(epochs=1))

    def make_one(key, rows):
        return unlearn(key, Problem(model, original, digits[rows[:32]], digits[rows[32:]]), Unroll())

    keys = list(jax.random.split(jax.random.key(1), 2))
    rows = [jax.random.permutation(k, 96) for k in keys]
    made = population.make(make_one, list(zip(keys, rows, strict=True)), at_once=2)
    for k, row, predictor in zip(keys, rows, made):
        alone = make_one(k, row).variables
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), predictor.variables, alone)


def test_seeds_side_by_side_end_as_one_by_one(folders, tmp_path):
    """Three seeds by two at once; SISA decides on the host and stays alone."""
    flags = ["--dataset=tiny", *QUICK, *folders, "--methods", "retrain", "camu", "sisa", "--seeds", "0", "1", "2"]
    flags += ["--sisa.epochs=4", "--sisa.shards=1"]  # so that it learns something
    assert run.main([*flags, f"--out={tmp_path / 'one'}"]) == 0
    assert run.main([*flags, f"--out={tmp_path / 'two'}", "--side_by_side=2"]) == 0
    one, two = results(tmp_path / "one"), results(tmp_path / "two")
    assert one.keys() == two.keys() and len(one) == 9
    for name, result in two.items():
        assert result["metrics"] == pytest.approx(one[name]["metrics"], abs=1.0)  # one example of 135 is 0.74
        assert result["side_by_side"] == (1 if name.startswith("sisa") or name.endswith("seed2") else 2)
        assert one[name]["side_by_side"] == 1 and result["settings"] == one[name]["settings"]
        assert result["seconds"] > 0 and (tmp_path / "two/tiny/data10" / f"{name}.model").exists()


def test_seeds_side_by_side_share_one_training_set(folders, monkeypatch, tmp_path):
    """What is stacked are keys and row numbers; no array of their program is as large as the training set."""
    asked = []
    monkeypatch.setattr(population, "make", lambda make_one, arguments, at_once: asked.append((make_one, arguments)))
    flags = ["--dataset=tiny", "--limit=600", *QUICK, *folders, f"--out={tmp_path / 'out'}", "--seeds", "0", "1", "2"]
    options = config.parse([*flags, "--methods", "retrain", "camu"], run.RunConfig(), "run.py")
    experiment = open_experiment(options)
    original = jax.jit(experiment.model.init)(jax.random.key(0))
    for method in ("retrain", "camu"):
        jobs = [job for job in jobs_of(experiment) if job.method == method]
        with pytest.raises(TypeError):  # `make` returned nothing
            make_together(jobs, original)
        make_one, arguments = asked.pop()
        for job, (_, *rows) in zip(jobs, arguments, strict=True):
            for part, numbers in zip(job.split(), rows, strict=True):
                assert part.x.array is experiment.train.x
                np.testing.assert_array_equal(part.x[:], experiment.train.x[numbers])
        stacked = jax.tree.map(lambda *leaves: jax.numpy.stack(leaves), *arguments)
        program = jax.make_jaxpr(jax.vmap(lambda *args, make_one=make_one: make_one(*args).members))(*stacked)
        images = [a for a in arrays(program.jaxpr) if a.shape[-3:] == (28, 28, 1)]
        assert images and max(a.size for a in images) < experiment.train.x.size


def test_what_is_there_is_not_made_again(folders, tmp_path):
    flags = ["--dataset=tiny", *QUICK, *folders, "--methods=camu", f"--out={tmp_path / 'out'}"]
    assert run.main([*flags, "--seeds", "1"]) == 0
    before = results(tmp_path / "out")["camu/seed1"]
    assert run.main([*flags, "--seeds", "0", "1", "2", "--side_by_side=3"]) == 0
    found = results(tmp_path / "out")
    assert found["camu/seed1"] == before
    assert [found[f"camu/seed{k}"]["side_by_side"] for k in range(3)] == [2, 1, 2]


def test_the_paper_side_by_side(folders, tmp_path, capsys):
    part = ["--datasets=tiny", "--limit=150", "--tables=2", "--methods", "retrain", "neggrad", "--seeds", "0", "1"]
    part += ["--tasks=data10", "--figures", "--audit", "--side_by_side=2", *folders, f"--out={tmp_path / 'out'}"]
    assert reproduce.main([*part, "--set", "original.epochs=1", "retrain.epochs=1", "neggrad.epochs=1"]) == 0
    assert {r["side_by_side"] for r in results(tmp_path / "out").values()} == {2}
    assert "4 results are there" in capsys.readouterr().out


def test_groups(folders):
    flags = ["--dataset=tiny", *QUICK, *folders, "--methods", "scrub", "camu", "--seeds", "0", "1", "2"]

    def grouped(*more):
        jobs = jobs_of(open_experiment(config.parse([*flags, *more], run.RunConfig(), "run.py")))
        pieces = [audit.piece(job) for job in jobs]
        return [[(piece.subject.method, piece.subject.seed) for piece in group] for group in grid.groups(pieces)]

    assert [len(group) for group in grouped()] == [1] * 6 and grouped()[1] == [("camu", 0)]
    assert grouped("--side_by_side=2")[0] == [("scrub", 0), ("scrub", 1)]
    assert [len(group) for group in grouped("--side_by_side=2", "--scrub.rewind")] == [1, 1, 1, 2, 1]


@pytest.mark.parametrize("flags", [["--side_by_side=0"], ["--side_by_side=2", "--stream"]])
def test_wrong_numbers_are_refused(flags, capsys):
    assert run.main(["--dataset=tiny", *flags]) == 2
    assert "side_by_side is" in capsys.readouterr().err


def test_several_processes_work_one_by_one(capsys):
    hosts = ["--hosts.coordinator=localhost:1", "--hosts.processes=2"]
    assert run.main(["--dataset=tiny", "--side_by_side=2", *hosts]) == 2
    assert "side_by_side is 2; allowed with several processes: 1" in capsys.readouterr().err
