"""Relearning from the outside: curves on disk, figures, and a second run that does nothing."""

import json

import pytest

from experiments import config, grid, relearn, reproduce
from experiments.relearn import main
from experiments.reporting import differences

FLAGS = ["--dataset=tiny", "--limit=150", "--seeds=0", "--methods", "retrain", "camu", "--relearn.epochs=2"]
QUICK = ["--original.epochs=1", "--retrain.epochs=1", "--camu.epochs=1"]


def test_curves_are_kept_and_drawn(tmp_path, cache, capsys):
    folders = [f"--{name}={tmp_path / name}" for name in ("out", "checkpoint_dir")]
    folders.append(f"--cache_dir={cache}")
    assert main([*FLAGS, *QUICK, *folders]) == 0
    files = sorted((tmp_path / "out" / "tiny" / "data10").glob("*/relearn-seed0.json"))
    assert [f.parent.name for f in files] == ["camu", "retrain"]
    result = json.loads(files[0].read_text())
    assert len(result["curve"]) == 3 and set(result["curve"][0]) == {"R_tr", "F_tr", "T_s"}
    first, *_, last = differences(result["curve"])
    assert result["metrics"] == {"before": first, "after": last} and result["settings"]["relearn"]["epochs"] == 2
    for name in ("relearn.png", "relearn.svg"):
        assert (tmp_path / "out" / "tiny" / "data10" / name).stat().st_size > 5000
    before = files[0].stat().st_mtime_ns
    capsys.readouterr()
    assert main([*FLAGS, *QUICK, *folders]) == 0
    assert "nothing to do" in capsys.readouterr().out and files[0].stat().st_mtime_ns == before
    assert main([*FLAGS, *QUICK, *folders, "--relearn.epochs=3"]) == 2


@pytest.mark.parametrize("flags", [["--dataset=c10"], ["--dataset=c10", "--model.size=small"], ["--dataset=tiny"]])
def test_curves_are_those_of_the_figures(flags):
    """Or one command would refuse the other's files."""
    options = config.parse(flags, relearn.RelearnConfig(), "relearn.py")
    assert options.relearn == options.relearning(reproduce.ReproduceOptions().relearn_epochs)
    assert config.parse([*flags, "--relearn.epochs=3"], relearn.RelearnConfig(), "relearn.py").relearn.epochs == 3


def test_what_another_process_has_made_meanwhile_is_not_made_again(tmp_path):
    made, there = [], {"first"}

    def make(subjects):
        made.extend(subjects)
        there.update(("first", "second", "third"))  # another process is faster

    pieces = [
        grid.Piece(name, tmp_path / name, lambda name: name not in there, make, "x")
        for name in ("first", "second", "third")
    ]
    grid.run(pieces)
    assert made == ["second"]


def test_a_class_task_compares_test_accuracies():
    assert differences([{"R_tr": 9, "F_tr": 1, "T_s": 5, "R_ts": 8, "F_ts": 2}]) == [6]
    assert differences([{"R_tr": 9, "F_tr": 1, "T_s": 5}, {"R_tr": 9, "F_tr": 9, "T_s": 5}]) == [8, 0]
