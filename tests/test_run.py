"""The runner from the outside: what a user types, and what is then on the screen and on disk."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import fields, replace
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments import UsageError, config, machine, reproduce, store
from experiments.experiment import plain
from experiments.run import RunConfig, main

REPO = Path(__file__).resolve().parent.parent
QUICK = ["--limit=150", "--seeds=0", "--original.epochs=1", "--retrain.epochs=1", "--camu.epochs=1"]


@pytest.fixture
def folders(tmp_path, cache):
    return [f"--out={tmp_path / 'out'}", f"--checkpoint_dir={tmp_path / 'originals'}", f"--cache_dir={cache}"]


def run(*flags):
    return main(["--dataset=tiny", *QUICK, *flags])


def result_files(tmp_path):
    return sorted((tmp_path / "out").glob("*/*/*/seed*.json"))


def test_one_command_trains_unlearns_measures_and_prints(folders, tmp_path, capsys):
    assert run(*folders) == 0
    printed = capsys.readouterr().out
    assert "forget 15 of 150" in printed and "original model to train: about" in printed
    assert (
        "retrain, seed 0:" in printed
        and "camu, seed 0:" in printed
        and "one seed; below: the difference to Retrain" in printed
    )
    names = [str(p.relative_to(tmp_path / "out")) for p in result_files(tmp_path)]
    assert names == ["tiny/data10/camu/seed0.json", "tiny/data10/retrain/seed0.json"]
    result = json.loads(result_files(tmp_path)[0].read_text())
    assert set(result["metrics"]) == {"R_tr", "F_tr", "T_s"}
    assert all(0 <= v <= 100 for v in result["metrics"].values())
    assert result["seconds"] > 0 and result["settings"]["camu"]["epochs"] == 1 and "jax" in result["versions"]


def test_the_heading_names_the_papers_figure_only_where_there_is_one(folders, capsys):
    """The whole of tiny, which the paper does not have."""
    flags = ["--seeds=0", "--methods=camu", "--original.epochs=1", "--camu.epochs=1"]
    assert main(["--dataset=tiny", *flags, *folders]) == 0
    heading = r"\ntiny, data10: percent, one seed(; \* on cores that other work shared)?\n"
    assert re.search(heading, capsys.readouterr().out)


def test_a_class_task_also_measures_the_classes(folders, tmp_path):
    assert run("--task=class0,1", "--methods=camu", *folders) == 0
    result = json.loads(result_files(tmp_path)[0].read_text())
    assert set(result["metrics"]) == {"R_tr", "F_tr", "T_s", "R_ts", "F_ts"}


def test_the_original_model_is_measured_as_it_was(folders, tmp_path, capsys):
    """It stands in the tables as a method does, and is not one of all."""
    assert run("--methods", "original", "retrain", "--audit=paper", *folders) == 0
    printed = capsys.readouterr().out
    [file] = (tmp_path / "out" / "tiny" / "data10" / "original").glob("seed*.json")
    result = json.loads(file.read_text())
    measured = float(re.search("original model: T_s ([0-9.]+)", printed)[1])
    assert result["metrics"]["T_s"] == pytest.approx(measured, abs=0.005) and "M" in result["metrics"]
    assert re.search(r"^ *Original +[0-9]", printed, re.M)
    assert result["settings"]["original"]["training"]["epochs"] == 1
    assert "original" not in config.parse(["--dataset=tiny", "--methods=all"], RunConfig(), "run.py").methods


def test_an_index_file_is_a_task(folders, tmp_path):
    np.save(tmp_path / "ids.npy", np.arange(15))
    assert run(f"--task=indices:{tmp_path / 'ids.npy'}", "--methods=camu", *folders) == 0
    assert result_files(tmp_path)[0].parent.parent.name == "indices-ids"
    np.save(tmp_path / "ids.npy", np.arange(1, 16))
    assert run(f"--task=indices:{tmp_path / 'ids.npy'}", "--methods=camu", *folders) == 2


def test_the_same_command_again_does_nothing(folders, tmp_path, capsys):
    assert run("--methods=camu", *folders) == 0
    before = {p: p.stat().st_mtime_ns for p in result_files(tmp_path)}
    capsys.readouterr()
    assert run("--methods=camu", *folders) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert before == {p: p.stat().st_mtime_ns for p in result_files(tmp_path)}


def test_changed_settings_are_never_mixed_with_old_results(folders, tmp_path, capsys):
    assert run("--methods=camu", *folders) == 0
    before = result_files(tmp_path)[0].read_bytes()
    assert run("--methods=camu", "--camu.l2=0.5", *folders) == 2
    message = capsys.readouterr().err
    assert "camu.l2 was 0.0001, now 0.5" in message and message.count("\n") == 1
    assert result_files(tmp_path)[0].read_bytes() == before


def test_a_setting_of_one_method_does_not_touch_the_others(folders, tmp_path):
    assert run("--methods=retrain", *folders) == 0
    assert run("--methods", "retrain", "camu", "--camu.l2=0.5", *folders) == 0


@pytest.mark.parametrize("text", ["", "{", "[]", '{"metrics": {"R_tr": "x"}, "seconds": 1, "settings": {}}'])
def test_a_corrupt_result_is_set_aside_and_made_anew(folders, tmp_path, capsys, text):
    assert run("--methods=camu", *folders) == 0
    where = result_files(tmp_path)[0]
    good = json.loads(where.read_text())
    where.write_text(text)
    assert run("--methods=camu", *folders) == 0
    assert "set aside as seed0.json.corrupt1" in capsys.readouterr().err
    assert where.with_name("seed0.json.corrupt1").read_text() == text
    assert json.loads(where.read_text())["metrics"] == good["metrics"]


def test_a_flipped_byte_in_the_original_is_noticed(folders, tmp_path, capsys):
    assert run("--methods=camu", *folders) == 0
    good = json.loads(result_files(tmp_path)[0].read_text())["metrics"]
    largest = max((p for p in (tmp_path / "originals").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    damaged = bytearray(largest.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    largest.write_bytes(damaged)
    result_files(tmp_path)[0].unlink()
    assert run("--methods=camu", *folders) == 0
    message = capsys.readouterr().err
    assert "was changed since it was written" in message and "set aside" in message
    assert json.loads(result_files(tmp_path)[0].read_text())["metrics"] == good


def test_a_killed_run_goes_on_where_it_stopped(folders, tmp_path):
    """SIGKILL after the first result: the second run keeps it, and ends with the metrics of an undisturbed run."""
    flags = ["--dataset=tiny", *QUICK, "--retrain.epochs=60", "--methods", "camu", "retrain", *folders]
    command = [sys.executable, "experiments/run.py", *flags]
    process = subprocess.Popen(command, cwd=REPO, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not result_files(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    (kept,) = result_files(tmp_path)
    first = kept.read_bytes()
    quick = [f for f in flags if f != "--retrain.epochs=60"]
    assert main(quick) == 0
    assert kept.read_bytes() == first
    resumed = [json.loads(p.read_text())["metrics"] for p in result_files(tmp_path)]
    undisturbed = [f"--out={tmp_path / 'again'}", f"--checkpoint_dir={tmp_path / 'again-originals'}"]
    assert main([*quick, *undisturbed]) == 0
    again = [json.loads(p.read_text())["metrics"] for p in sorted((tmp_path / "again").glob("*/*/*/seed*.json"))]
    assert resumed == again


BAD = {
    "task": (["--task=foo"], "dataP"),
    "percent 0": (["--task=data0"], "1 to 90"),
    "percent 100": (["--task=data100"], "1 to 90"),
    "class": (["--task=class10"], "0 to 9"),
    "class twice": (["--task=class1,1"], "once"),
    "index file": (["--task=indices:nowhere.npy"], "nowhere.npy"),
    "dataset": (["--dataset=foo"], "tiny"),
    "method": (["--methods=foo"], "all, retrain"),
    "flag": (["--foo=1"], "--foo"),
    "seed": (["--seeds=-1"], "0 or greater"),
    "seed twice": (["--seeds", "1", "1"], "different"),
    "seed text": (["--seeds=x"], "x"),
    "limit": (["--limit=0"], "limit"),
    "limit too large": (["--limit=1438"], "1437"),
    "epochs": (["--camu.epochs=0"], "epochs"),
    "learning rate": (["--camu.kl_learning_rate=nan"], "kl_learning_rate"),
    "choice": (["--camu.kl_reduction=foo"], "sum"),
    "fraction": (["--camu.epochs=1.5"], "epochs"),
    "huge seed": (["--seeds", str(2**63)], "below 2^32"),
    "mean": (["--pipeline.mean", "0", "0"], "mean"),
    "image size": (["--pipeline.image_size=2"], "(2, 2, 1)"),
    "width": (["--model.width=0"], "width"),
    "out": (["--out=/dev/null/x"], "/dev/null/x"),
    "checkpoints": (["--checkpoint_dir=/dev/null/x"], "/dev/null/x"),
    "data folder": (["--dataset=digit", "--limit=50", "--data_dir=nowhere"], "nowhere"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_named_and_exit_code_2(folders, tmp_path, capsys, case):
    """In one line of ours, or in tyro's box where the flag itself is wrong."""
    flags, hint = BAD[case]
    assert main(["--dataset=tiny", "--limit=150", *folders, *flags]) == 2
    message = capsys.readouterr().err
    assert hint in " ".join(message.split()) and "Traceback" not in message
    assert (
        message.count("\n") == 1
        if message.startswith("error: ")
        else "experiments/run.py --help" in " ".join(message.split())
    )
    assert not result_files(tmp_path)


@pytest.mark.parametrize("content", ["", "1 1", "-1", "150", "1 two", "1.5"])
def test_a_bad_index_file_is_refused(folders, tmp_path, capsys, content):
    (tmp_path / "ids.txt").write_text(content)
    assert run(f"--task=indices:{tmp_path / 'ids.txt'}", *folders) == 2
    message = capsys.readouterr().err
    assert "ids.txt" in message and "allowed" in message and message.count("\n") == 1


def test_help_shows_the_defaults_of_the_chosen_problem(capsys):
    with pytest.raises(SystemExit) as stop:
        config.parse(["--dataset=c100", "--task=class0", "--help"], RunConfig(), "run.py")
    assert stop.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "--camu.repeat" in shown and "(default: 10)" in shown and "crop_flip" in shown


def test_presets_and_settings_come_from_the_table():
    argv = ["--dataset=fashion", "--task=class3", "--preset=paper", "--camu.epochs=7"]
    camu = config.parse(argv, RunConfig(), "run.py").settings["camu"]
    assert camu.epochs == 7 and camu.kl_reduction == "mean" and camu.ce_learning_rate == 1e-3
    assert config.parse(["--dataset=c10"], RunConfig(), "run.py").original.epochs == 20


@pytest.fixture
def small():
    return config.parse(["--dataset=c10", "--model.size=small"], RunConfig(), "run.py")


def test_the_small_model_has_settings_a_folder_and_a_label_of_its_own(small):
    full = config.parse(["--dataset=c10"], RunConfig(), "run.py")
    assert (small.folder("c10"), small.label("c10")) == ("c10-small", "c10 (small ResNet-18)")
    assert (full.folder("c10"), full.label("c10")) == ("c10", "c10")
    assert (small.original.schedule, full.original.schedule) == ("one_cycle", "constant")
    for dataset, rates in {"c10": (4e-4, 2e-4), "c100": (1e-4, 5e-4)}.items():  # TUNING.md
        flags = [f"--dataset={dataset}", "--task=class0", "--model.size=small"]
        camu = config.parse(flags, RunConfig(), "run.py").settings["camu"]
        assert (camu.kl_learning_rate, camu.ce_learning_rate) == rates
    retrain = small.settings["retrain"]
    assert all(getattr(retrain, field.name) == getattr(small.original, field.name) for field in fields(small.original))
    shapes = jax.eval_shape(small.model.build(10, (32, 32, 3)).init, jax.random.key(0))["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 701_466
    relearning = small.relearning(3)
    assert (relearning.epochs, relearning.schedule) == (3, "constant")
    assert relearning.learning_rate == small.original.learning_rate / 10
    assert full.relearning(3) == replace(full.original, epochs=3)


def test_the_settings_of_the_full_model_are_those_of_older_results(small):
    """Which name neither a size nor a schedule."""
    full = config.parse(["--dataset=c10"], RunConfig(), "run.py")
    names = {"architecture": "resnet18", "width": None, "stem": "3x3", "compute": "float32"}
    assert plain(full.model) == names and plain(small.model) == {**names, "size": "small"}
    assert plain(full.original) == {"epochs": 20, "batch_size": 32, "learning_rate": 5e-5, "l2": 1e-4}
    assert plain(small.original)["schedule"] == "one_cycle"


@pytest.mark.parametrize("dataset", ["digit", "tiny"])
def test_there_is_no_small_cnn(dataset, capsys):
    assert main([f"--dataset={dataset}", "--model.size=small"]) == 2
    assert capsys.readouterr().err == f"error: model.size is small; allowed with {dataset}: full\n"
    part = reproduce.Part(dataset, "data10", ("camu",), False)
    with pytest.raises(UsageError, match="model.size is small"):
        reproduce.config_of(reproduce.ReproduceOptions(set=("model.size=small",)), part)


def test_a_width_is_not_small(small, capsys):
    assert main(["--dataset=c10", "--model.size=small", "--model.width=32"]) == 2
    assert "allowed with model.size small: none" in " ".join(capsys.readouterr().err.split())
    assert replace(small, model=replace(small.model, size="full", width=16)).label("c10") == "c10 (width 16)"


def test_set_chooses_the_small_model_with_its_settings(small):
    part = reproduce.Part("c10", "data10", ("camu",), True)
    options = reproduce.ReproduceOptions(set=("model.size=small", "camu.epochs=3"), datasets=("c10",), tables=(2,))
    chosen = reproduce.config_of(options, part)
    assert chosen.original == small.original and chosen.model == small.model
    assert chosen.settings["camu"] == replace(small.settings["camu"], epochs=3)
    assert {goal.path.parts[-4] for goal in reproduce.goals(options)} == {"c10-small"}


def test_difference_names_the_first_setting():
    old = {"a": {"b": 1, "c": 2}, "d": 3}
    assert store.difference(old, {"a": {"b": 1, "c": 5}, "d": 3}) == "a.c was 2, now 5"
    assert store.difference(old, old) is None
    assert store.difference(old, {"a": {"b": 1, "c": 2}}) == "d was 3, now None"


def test_durations_in_words():
    assert [machine.words(s) for s in (0.1, 89, 120, 7200)] == ["1 s", "89 s", "2 min", "2.0 h"]
