"""The announced time: that it counts what is then made, each thing once, and what a trial makes of a few steps."""

import types
from dataclasses import replace

import pytest

from camu_jax import loop
from camu_jax.methods import METHODS
from experiments import audit, config, curve, estimate, grid, machine, relearn, run, trial
from experiments.experiment import Experiment, open_experiment
from experiments.job import jobs_of

QUICK = ["--original.epochs=1", "--retrain.epochs=1", "--neggrad.epochs=1", "--sisa.epochs=9", "--sisa.shards=2"]
AUDITS = ["--audits.models=2", "--audits.halves=6", "--audits.relearn_epochs=1"]


@pytest.fixture
def flags(tmp_path, cache):
    """Compiled programs are shared, what audits keep is of one test alone."""
    (cache / "xla").mkdir(exist_ok=True)
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "xla").symlink_to(cache / "xla")
    folders = [f"--out={tmp_path / 'out'}", f"--checkpoint_dir={tmp_path / 'originals'}"]
    return ["--dataset=tiny", "--limit=100", *QUICK, *AUDITS, *folders, f"--cache_dir={tmp_path / 'cache'}"]


@pytest.fixture
def counting(monkeypatch):
    """Trials say that a model takes a second and all else nothing; returns how many models were really made."""
    monkeypatch.setattr(trial, "steps", lambda work: machine.Span(1.0))
    for name in ("image", "attacks", "klom", "u_lira"):
        monkeypatch.setattr(trial, name, lambda *_: machine.Span())
    made = []
    train = Experiment.train_original

    def counted(self, *arguments):
        made.append("original")
        return train(self, *arguments)

    monkeypatch.setattr(Experiment, "train_original", counted)
    for settings, method in METHODS.items():

        def unlearn(*arguments, method=method, **more):
            made.append(method.name)
            return method.unlearn(*arguments, **more)

        monkeypatch.setitem(METHODS, settings, replace(method, unlearn=unlearn))
    return made


def expected(flags):
    """The estimate for what a command would still do, and its work."""
    experiment = open_experiment(config.parse(flags, run.RunConfig(), "run.py"))
    pieces = [piece for job in jobs_of(experiment) if (piece := audit.piece(job)).todo()]
    found = estimate.Estimate()
    found.add([piece.subject for piece in pieces])
    return found, pieces


@pytest.mark.parametrize(
    "more",
    [
        ["--methods", "retrain", "neggrad", "--seeds", "0", "1"],
        ["--methods", "neggrad", "--seeds", "0", "1", "--audit=klom"],
        ["--methods", "sisa", "--seeds=0", "--audit", "klom", "paper", "--no-keep_models"],
        ["--methods", "neggrad", "--seeds", "0", "1", "--audit=lira", "--task=data40"],
    ],
    ids=["results", "klom", "ensemble", "lira"],
)
@pytest.mark.slow
def test_every_model_that_is_made_was_counted(flags, counting, more):
    found, pieces = expected([*flags, *more])
    assert counting == []  # trials alone
    grid.run(pieces)
    relearned = sum("klom" in piece.subject.experiment.config.audit for piece in pieces)
    members = 2 if "sisa" in more else 1
    assert found.seconds == pytest.approx(len(counting) + members * relearned)
    assert found.originals == counting.count("original")
    again, nothing = expected([*flags, *more])
    assert (again.seconds, again.originals, again.others, nothing) == (0, 0, 0, [])


def test_what_was_kept_is_not_counted_again(flags, counting, tmp_path):
    """A result without its audit: the model is there. Two margins of a population that went: two models."""
    more = [*flags, "--methods=neggrad", "--seeds=0"]
    grid.run(expected(more)[1])
    assert expected([*more, "--audit=paper"])[0].seconds == 0
    grid.run(expected([*more, "--audit=klom"])[1])
    for file in list((tmp_path / "cache" / "margins").glob("*/1.npy")):
        file.unlink()
    for file in (tmp_path / "out").rglob("neggrad/seed0.json"):
        file.unlink()
    found, _ = expected([*more, "--audit=klom"])
    assert found.others == 2 and found.seconds == pytest.approx(1 + 2 + 1)  # its own model, and relearning


def test_a_model_that_is_not_kept_is_counted_once_for_its_result_and_its_audits(flags, counting):
    found, pieces = expected([*flags, "--methods=neggrad", "--seeds=0", "--audit=paper", "--no-keep_models"])
    grid.run(pieces)
    assert found.seconds == pytest.approx(len(counting)) and sorted(counting) == ["neggrad", "original"]


def test_relearning_is_counted(flags, counting):
    options = config.parse([*flags, "--methods", "retrain", "sisa", "--seeds=0"], relearn.RelearnConfig(), "relearn.py")
    jobs = jobs_of(open_experiment(options))
    found = estimate.Estimate()
    found.add([], [(job, options.relearn) for job in jobs])
    assert found.seconds == pytest.approx(2 + 1 + 2)  # two models, and each of their one and two members relearns
    grid.run([curve.piece(job, options.relearn) for job in jobs])
    assert counting == ["retrain", "sisa"]


def test_one_line_announces_all_of_it(flags, capsys, monkeypatch):
    monkeypatch.setattr(trial, "steps", lambda work: machine.Span(100.0))
    assert run.main([*flags, "--methods", "neggrad", "--seeds=0", "--audit", "klom"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    parts = "1 of 1 results to make and 3 original models to train and 6 models of audits to make"
    assert f"{parts}: about 20 min" in printed
    assert "not counted" not in printed


# --- trials -------------------------------------------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch):
    """A clock that the work moves: other work on the cores does not."""
    now = [0.0]
    monkeypatch.setattr(trial, "time", types.SimpleNamespace(perf_counter=lambda: now[0]))
    return now


def lasting(clock, before, step, steps):
    """Work of known length."""

    def work(listen):
        clock[0] += before
        for k in range(steps):
            clock[0] += step
            listen(loop.Progress(k + 1, steps, {}))

    return work


def test_a_few_steps_tell_how_long_all_of_them_take(clock):
    found = trial.steps(lasting(clock, 0.3, 0.01, 200))
    assert found.seconds == pytest.approx(2.3) and 0.25 <= clock[0] - 0.3 < 0.5


def test_work_shorter_than_the_trial_is_timed_whole(clock):
    assert trial.steps(lasting(clock, 0.0, 0.02, 4)).seconds == pytest.approx(0.08) == clock[0]


def test_work_that_fails_is_left_to_the_job():
    def work(listen):
        raise RuntimeError("a bug")

    assert trial.steps(work).seconds == 0
    with pytest.raises(ValueError, match="bad"):
        trial.steps(lambda listen: int("bad"))


def test_the_other_trials_grow_with_what_is_asked():
    assert trial.klom(4, 40, 400).seconds > trial.klom(4, 40, 40).seconds / 2 > 0
