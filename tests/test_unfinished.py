"""Work that is killed goes on within an epoch, and ends with the same bits."""

import contextlib
import os
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import pytest

import camu_jax
from camu_jax import TrainSettings, loop
from camu_jax.methods import Camu, Retrain, Scrub, Sisa, unlearn
from experiments import unfinished
from experiments.experiment import Experiment

from .helpers import PLAIN, examples, fresh

OFTEN = 1e-9  # minutes
METHODS = [
    Retrain(epochs=3, batch_size=8),
    Sisa(epochs=2, shards=2, slices=2, batch_size=8),
    Scrub(epochs=2, batch_size=8, forget_batch_size=8),
    Camu.reference(epochs=3, batch_size=8),
]


class Killed(Exception):
    """Ends the work as a kill would: nothing is tidied up."""


def killed_at(step):
    """A listener that ends the work after so many steps of its process."""
    seen = 0

    def listen(progress):
        nonlocal seen
        seen += 1
        if seen == step:
            raise Killed

    return listen


def steps_of(work):
    seen = []
    result = work(seen.append)
    return result, len(seen)


def test_a_run_goes_on_where_it_was(tmp_path):
    def step(total, batch, *, key):
        return 0.9 * total + batch.sum() + jax.random.normal(key), {"total": total}

    def work(progress):
        total, key = jnp.zeros(()), jax.random.key(0)
        for number in range(3):
            stream = loop.Stream(jnp.arange(10.0), 3)
            total = loop.run(step, total, stream, key=jax.random.fold_in(key, number), epochs=2, progress=progress)
        return total

    expected, steps = steps_of(work)
    assert steps == 24
    for at in (5, 3, 7):  # within an epoch, in the first run and in later ones
        with pytest.raises(Killed), unfinished.kept(tmp_path / "run", OFTEN):
            work(killed_at(at))
    with unfinished.kept(tmp_path / "run", OFTEN):
        found, left = steps_of(work)
    # The state is kept before the listener hears of its step, and so nothing of what was told is lost.
    assert left == 24 - (5 + 3 + 7) and found == expected
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("settings", METHODS, ids=lambda settings: type(settings).__name__.lower())
def test_every_method_ends_with_the_same_bits(settings, tmp_path):
    problem = camu_jax.Problem(PLAIN, fresh(PLAIN), examples(0, 20), examples(1, 40))

    def work(progress):
        return unlearn(jax.random.key(0), problem, settings, progress=progress)

    expected, steps = steps_of(work)
    lost = 0
    for at in (steps // 3, steps // 3 + 1):
        with pytest.raises(Killed), unfinished.kept(tmp_path / "run", OFTEN):
            work(killed_at(at))
        lost += at
    with unfinished.kept(tmp_path / "run", OFTEN):
        found, left = steps_of(work)
    assert left <= steps - lost
    chex.assert_trees_all_equal(found, expected)


def test_training_of_an_original(tmp_path):
    def work(progress):
        settings = TrainSettings(epochs=3, batch_size=8)
        return camu_jax.train(jax.random.key(0), PLAIN, examples(0, 40), settings, progress=progress)

    expected, steps = steps_of(work)
    with pytest.raises(Killed), unfinished.kept(tmp_path / "run", OFTEN):
        work(killed_at(7))
    with unfinished.kept(tmp_path / "run", OFTEN):
        found, left = steps_of(work)
    assert left == steps - 7
    chex.assert_trees_all_equal(found, expected)


def test_the_same_work_for_another_folder_is_on_its_own(tmp_path, monkeypatch):
    """Nobody has claimed both."""
    found = []
    monkeypatch.setattr(unfinished, "kept", lambda folder, minutes: found.append(folder))
    experiment = types.SimpleNamespace(config=types.SimpleNamespace(cache_dir=tmp_path, keep_minutes=2.0))
    for out in ("a", "b", "a"):
        Experiment.kept(experiment, {"seed": 0}, tmp_path / out / "seed0.json")
    assert found[0] == found[2] != found[1]


def test_no_more_is_lost_than_the_interval(tmp_path, monkeypatch):
    """The clock moves by a second a step, and states are kept once in five."""
    now = iter(range(1000))
    monkeypatch.setattr(unfinished, "monotonic", lambda: float(next(now)))

    def work(progress):
        stream = loop.Stream(jnp.arange(40.0), 1)
        return loop.run(count, jnp.zeros(()), stream, key=KEY, epochs=1, progress=progress, scan=False)

    with pytest.raises(Killed), unfinished.kept(tmp_path / "run", 5 / 60):
        work(killed_at(23))
    _, left = steps_of(lambda progress: _within(tmp_path, work, progress))
    assert 40 - 23 <= left <= 40 - 23 + 5


KEY = jax.random.key(0)


def count(total, batch, *, key):
    return total + batch.sum(), {}


def _within(tmp_path, work, progress):
    with unfinished.kept(tmp_path / "run", OFTEN):
        return work(progress)


def test_what_cannot_be_read_begins_anew(tmp_path, capsys):
    def work(progress):
        return loop.run(count, jnp.zeros(()), loop.Stream(jnp.arange(8.0), 1), key=KEY, epochs=1, progress=progress)

    with pytest.raises(Killed), unfinished.kept(tmp_path / "run", OFTEN):
        work(killed_at(5))
    for file in (tmp_path / "run").rglob("*"):
        if file.is_file():
            file.write_bytes(file.read_bytes()[:3])
    found, left = steps_of(lambda progress: _within(tmp_path, work, progress))
    assert (float(found), left) == (28, 8) and "begins anew" in capsys.readouterr().err


def test_traced_runs_are_not_kept(tmp_path):
    def work(start):
        return loop.run(count, start, loop.Stream(jnp.arange(8.0), 2), key=KEY, epochs=1)

    with unfinished.kept(tmp_path / "run", OFTEN):
        assert jax.vmap(work)(jnp.arange(3.0)).tolist() == [28, 29, 30]
        assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_sigkill_within_an_epoch(tmp_path, cache):
    """The whole command, killed twice; the results are those of an undisturbed one, bit for bit."""
    root = Path(unfinished.__file__).parent.parent
    command = [sys.executable, "experiments/run.py", "--dataset=tiny", "--limit=400", "--seeds=0", "--methods", "camu"]
    command += ["--original.epochs=10", "--camu.epochs=12", "--keep_minutes=0.002", f"--cache_dir={cache}"]

    def start(name):
        folders = [f"--out={tmp_path / name}", f"--checkpoint_dir={tmp_path / name}-originals"]
        return subprocess.Popen([*command, *folders], cwd=root, stdout=subprocess.DEVNULL, start_new_session=True)

    assert start("whole").wait() == 0
    kept = Path(cache, "unfinished")
    for _ in range(2):
        process = start("killed")
        before = _states(kept)
        while process.poll() is None and _states(kept) <= before:
            time.sleep(0.02)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert start("killed").wait() == 0
    models = [camu_jax.load(tmp_path / name / "tiny/data10/camu/seed0.model", MODEL) for name in ("whole", "killed")]
    chex.assert_trees_all_equal(*models)
    assert not _states(kept)


MODEL = camu_jax.models.cnn(10)


def _states(folder):
    return {str(path) for path in folder.glob("*/*/[0-9]*") if path.name.isdecimal()}
