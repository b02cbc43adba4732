"""Whatever goes wrong is one line on stderr and an exit code, and the process ends when it is told to."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments import UsageError, console, process, relearn, report, reproduce, run, store, tune

REPO = Path(__file__).resolve().parent.parent


def raising(error):
    def script():
        raise error

    return script


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (UsageError("seeds is x;\nallowed: numbers"), 2, "error: seeds is x; allowed: numbers\n"),
        (OSError(errno.ENOSPC, "No space left on device", "a/b"), 1, "error: a/b: No space left on device\n"),
        (OSError(errno.ENOLCK, "No locks available"), 1, "error: No locks available\n"),
        (MemoryError("17 GB"), 1, "error: MemoryError: 17 GB\n"),
        (KeyboardInterrupt(), 130, f"error: {process.STOPPED}\n"),
        (BrokenPipeError(), 1, ""),
        (SystemExit(2), 2, ""),
    ],
)
def test_exit_codes(capsys, error, code, words):
    assert console.command(raising(error)) == code
    assert capsys.readouterr().err == words


def test_a_bug_is_no_fault_of_the_user():
    with pytest.raises(RuntimeError):
        console.command(raising(RuntimeError("a bug")))


COMMANDS = {"run": run, "tune": tune, "relearn": relearn, "reproduce": reproduce, "report": report}
ODD = {
    "worker": ("reproduce", ["--worker=²/³"]),
    "worker, long": ("reproduce", [f"--worker=0/{'9' * 5000}"]),
    "relearn epochs": ("reproduce", ["--relearn_epochs=0"]),
    "set, fraction": ("reproduce", ["--datasets=tiny", "--set", "camu.epochs=1.5"]),
    "set, no value": ("reproduce", ["--datasets=tiny", "--set", "camu.epochs"]),
    "grid": ("tune", ["--grid", "camu.epochs"]),
    "grid, fraction": ("tune", ["--dataset=tiny", "--grid", "camu.epochs=1,1.5"]),
    "width": ("run", [f"--model.width={'9' * 20}"]),
    "task, long": ("run", [f"--task=data{'9' * 5000}"]),
    "task, digits": ("run", ["--task=data１０"]),
    "report of nothing": ("report", ["--out=nowhere"]),
    "relearn": ("relearn", ["--relearn.epochs=0"]),
    "out, empty": ("run", ["--out="]),
    "out, no UTF-8": ("run", ["--out=a\udcff"]),
    "cache, a file": ("run", ["--cache_dir=/dev/null"]),
}


@pytest.mark.parametrize("case", ODD)
def test_odd_flags_are_refused(case, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    name, flags = ODD[case]
    tiny = ["--dataset=tiny", "--limit=60"] if name in ("run", "relearn") else []
    assert COMMANDS[name].main([*tiny, *flags]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_set_takes_what_the_flags_take():
    configured = reproduce.config_of(
        reproduce.ReproduceOptions(set=("pipeline.mean=0.5",)), reproduce.Part("tiny", "data10", ("camu",), False)
    )
    assert configured.pipeline.mean == (0.5,)


def test_more_shards_than_examples_are_found_before_any_work(tmp_path, cache, capsys):
    flags = ["--dataset=tiny", "--limit=60", "--seeds=0", "--methods", "neggrad", "sisa", "--original.epochs=1"]
    folders = [f"--out={tmp_path}/o", f"--checkpoint_dir={tmp_path}/c", f"--cache_dir={cache}"]
    assert run.main([*flags, "--sisa.shards=100", *folders]) == 2
    message = capsys.readouterr().err
    assert message == "error: sisa: number of examples is 60; allowed: a finite number >= 100\n"
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


# --- folders ------------------------------------------------------------------------------------------------------


def test_a_folder_is_made_and_cleared_of_what_the_dead_left(tmp_path):
    host = os.uname().nodename
    dead = subprocess.Popen(["true"])
    dead.wait()
    nest = tmp_path / "tiny" / "data10" / "camu"
    nest.mkdir(parents=True)
    gone = [nest / f".seed0.{host}.{dead.pid}.partial.json", tmp_path / f".report.{host}.{dead.pid}.partial.md"]
    old = nest / ".seed1.elsewhere.7.partial.json"
    kept = [
        nest / f".seed0.{host}.{os.getpid()}.partial.json",
        nest / ".seed0.elsewhere.7.partial.json",
        nest / "seed0.json",
    ]
    for path in [*gone, old, *kept]:
        path.write_text("")
    os.utime(old, (time.time() - 2 * 24 * 3600,) * 2)
    store.prepare("--out", tmp_path)
    assert [p.exists() for p in gone] == [False, False] and not old.exists()
    assert all(p.exists() for p in kept)


def test_writing_leaves_nothing_where_it_fails(tmp_path):
    store.write_text(tmp_path / "a.json", "old")
    with pytest.raises(OSError, match="full"), store.atomic(tmp_path / "a.json") as partial:
        partial.write_text("ne")
        raise OSError(errno.ENOSPC, "full")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("a.json", "old")]


def test_a_file_system_without_locks(tmp_path, monkeypatch):
    def flock(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(OSError, match="cannot be locked .No locks available") as told:
        with store.claim(tmp_path / "seed0.json", wait=True):
            pass
    assert told.value.errno == errno.ENOLCK and ".seed0.json.lock" in str(told.value.filename)


@pytest.mark.parametrize("number", [errno.EROFS, errno.ENOSPC, errno.EACCES])
def test_what_is_finished_is_shown_on_a_disk_that_takes_nothing(tmp_path, cache, capsys, monkeypatch, number):
    flags = ["--dataset=tiny", "--limit=60", "--seeds=0", "--methods=retrain", "--retrain.epochs=12"]
    folders = [f"--out={tmp_path}/o", f"--checkpoint_dir={tmp_path}/c", f"--cache_dir={cache}"]
    assert run.main([*flags, *folders]) == 0

    def refused(**_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("tempfile.TemporaryFile", refused)
    monkeypatch.setattr("filelock.FileLock", refused)
    capsys.readouterr()
    assert run.main([*flags, *folders]) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert run.main([*flags, *folders, "--seeds", "0", "1"]) == 1
    message = capsys.readouterr().err
    assert os.strerror(number) in message and "--out" in message and message.count("\n") == 1


# --- the process --------------------------------------------------------------------------------------------------


def started(code):
    """A small script that begins and ends as the commands do."""
    text = f"import sys; sys.path.insert(0, {str(REPO)!r})\nfrom experiments import process\nprocess.begin()\n{code}"
    return subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE, stderr=subprocess.PIPE)


BUSY = """
import time
print("ready", flush=True)
time.sleep(60)
"""
WORK = """
from experiments import console
def work():
    import time
    print("ready", flush=True)
    time.sleep(60)
process.end(console.command(work))
"""
CALLBACK = """
import time, weakref
from experiments import console
class Thing: pass
def work():
    thing = Thing()
    watched = weakref.ref(thing, lambda _: (print("ready", flush=True), time.sleep(60)))
    del thing
    time.sleep(60)
process.end(console.command(work))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("code", [BUSY, WORK, CALLBACK], ids=["imports", "work", "callback"])
def test_signals_end_in_one_line(number, code):
    """Also in a callback, out of which no exception comes."""
    child = started(code)
    assert child.stdout is not None and child.stdout.readline() == b"ready\n"
    child.send_signal(number)
    _, said = child.communicate(timeout=30)
    assert child.returncode == 130 and said.decode() == f"error: {process.STOPPED}\n"


@pytest.mark.parametrize(
    ("redirection", "code", "words"),
    [(">/dev/full", 1, "error: No space left on device\n"), (">&-", 0, ""), ("| head -c 1 >/dev/null", 0, "")],
)
def test_a_stdout_that_takes_nothing(redirection, code, words):
    line = f"{sys.executable} {REPO / 'experiments' / 'report.py'} --help {redirection}"
    done = subprocess.run(line, shell=True, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (code, words)
