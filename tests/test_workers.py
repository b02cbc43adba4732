"""Several workers: what each is given, what is shown of them, and how they end; for real on `tiny`."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments import cluster, fleet, machine, process, reproduce, store, workers

SCRIPT = Path(__file__).resolve().parent.parent / "experiments" / "reproduce.py"
METRICS = {"R_tr": 99.0, "F_tr": 98.0, "T_s": 97.0}
QUICK = ["--datasets=tiny", "--limit=60", "--tables=2", "--figures=4", "--relearn_epochs=1", "--methods=retrain"]


@pytest.fixture
def flags(tmp_path, cache):
    folders = [f"--out={tmp_path / 'out'}", f"--checkpoint_dir={tmp_path / 'originals'}", f"--cache_dir={cache}"]
    return [*QUICK, "--set", "retrain.epochs=12", "--audit", "--seeds", "0", "1", *folders]


def write(goal, seconds, **more):
    store.write(goal.path, {"metrics": METRICS, "seconds": seconds, "settings": {}, **more})


@pytest.mark.parametrize(("cores", "count"), [(2, 2), (7, 3), (8, 1), (5, 4)])
def test_every_core_has_one_worker(cores, count):
    shares = [workers.share(range(3, 3 + cores), number, count) for number in range(count)]
    assert [core for share in shares for core in share] == list(range(3, 3 + cores)) and all(shares)


def test_gpus_and_their_memory_are_divided_unless_the_user_has_said_how(monkeypatch, tmp_path):
    for name in (*machine._MEMORY, "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    third = {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.300"}
    assert (
        machine.gpu_share(0, 1, ["0"]) == {} and machine.gpu_share(2, 3, ["0"]) == machine.gpu_share(0, 3, []) == third
    )
    eight = [machine.gpu_share(number, 8, list("0123"))["CUDA_VISIBLE_DEVICES"] for number in range(8)]
    assert "".join(eight) == "01230123"
    assert machine.gpu_share(1, 2, ["0", "1"]) == {"CUDA_VISIBLE_DEVICES": "1"}  # all of its memory
    assert machine.gpu_share(4, 5, ["a", "b"]) == {"CUDA_VISIBLE_DEVICES": "a", **third}
    monkeypatch.setenv("XLA_CLIENT_MEM_FRACTION", "0.5")
    assert machine.gpu_share(0, 3, ["0"]) == {}
    monkeypatch.setattr(machine, "_GPUS", tmp_path)
    assert machine.visible_gpus() == []
    for name in ("0000:01:00.0", "0000:02:00.0"):
        (tmp_path / name).mkdir()
    assert machine.visible_gpus() == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, GPU-5")
    assert machine.visible_gpus() == ["3", "GPU-5"]


def test_the_goals_are_the_files_that_one_process_makes(flags, tmp_path):
    assert reproduce.main(flags) == 0
    goals = reproduce.goals(reproduce.console.parse(flags, reproduce.ReproduceOptions(), ""))
    assert {goal.path for goal in goals} == set((tmp_path / "out").rglob("*seed*.json")) and len(goals) == 4
    assert fleet.Board(goals).count().done == 4


def test_what_is_counted_and_the_time_left(tmp_path):
    goals = [
        fleet.Goal(store.path(tmp_path, "tiny", "data10", method, seed), ("paper",))
        for method in ("retrain", "camu")
        for seed in range(3)
    ]
    write(goals[0], 1000.0, audits={"paper": {}})
    board = fleet.Board(goals)
    assert (board.count().done, board.time_left(board.count(), board.start + 9)) == (1, None)
    write(goals[1], 500.0)  # without its audit
    write(goals[3], 30.0, compile_seconds=10.0, audits={"paper": {"seconds": 20.0}})
    write(goals[4], 1.0, failed="not finite")
    goals[5].error.write_text("Traceback")
    count = board.count()
    assert (count.done, count.failed, count.left) == (2, 2, [goals[1], goals[2]])
    made = 60.0 + 1.0  # in 10 s, and two of Retrain are left
    assert board.time_left(count, board.start + 10) == pytest.approx(2000 / (made / 10))
    assert fleet._line(board, count, "2 running", board.start + 10).startswith(
        "2 of 6 results done, 2 running, 2 failed"
    )


def test_an_old_note_of_a_failure_does_not_count(tmp_path):
    goal = fleet.Goal(store.path(tmp_path, "tiny", "data10", "camu", 0))
    goal.path.parent.mkdir(parents=True)
    goal.error.write_text("Traceback")
    os.utime(goal.error, (1, 1))
    assert fleet.Board([goal]).count().left == [goal]


@pytest.mark.parametrize(
    ("left", "failed", "codes", "expected"),
    [(0, 0, [0, 0], 0), (0, 1, [0, 1], 1), (1, 0, [0, 0], 1), (2, 0, [2, 2], 2), (0, 0, [0, -9], 1)],
)
def test_the_exit_code_of_all(tmp_path, capsys, left, failed, codes, expected):
    log = tmp_path / "worker0.log"
    log.write_text("error: the reason\nerror: the reason\n" if 2 in codes else f"error: {process.STOPPED}\n")
    count = fleet.Count(failed=failed, left=[fleet.Goal(Path("a/b/c/d/seed0.json"))] * left)
    assert fleet.verdict(count, codes, [log, log]) == expected
    said = capsys.readouterr().err
    assert said.count("the reason") == (2 in codes) and ("signal 9" in said) == (-9 in codes)
    assert ("missing" in said) == (left == 1) and process.STOPPED not in said


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--workers=2", "--worker=1/2"], "allowed: one of the three"),
        (["--workers=2", "--slurm"], "allowed: one of the three"),
        (["--workers=9999"], "workers is 9999; allowed: 1 to"),
    ],
)
def test_odd_workers_are_refused(flags, capsys, more, words):
    assert reproduce.main([*flags, *more]) == 2
    message = capsys.readouterr().err
    assert words in message and message.count("\n") == 1


def test_without_submitit_one_line_says_what_is_missing(flags, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    assert reproduce.main([*flags, "--slurm"]) == 2
    message = capsys.readouterr().err
    assert "pip install 'submitit" in message and message.count("\n") == 1


def test_a_task_of_the_array_runs_its_worker_and_stops_it(tmp_path, monkeypatch):
    script = "import os, time; print(os.getpgid(0) == os.getpid(), flush=True); time.sleep({})"
    assert cluster.Worker([sys.executable, "-c", script.format(0)], tmp_path / "log")() == 0
    assert (tmp_path / "log").read_text() == "True\n"  # a signal to the task's group does not reach it


TASK = """
import signal, sys, types
from experiments import cluster, workers
from pathlib import Path
def at_limit(*_):  # as submitit does it, in the handler of the signal
    requeued = worker.checkpoint()
    sys.exit(7 * (requeued.command == worker.command and requeued.process is None))
sys.modules["submitit"] = types.SimpleNamespace(helpers=types.SimpleNamespace(DelayedSubmission=lambda w: w))
signal.signal(signal.SIGUSR2, at_limit)
workers._PATIENCE = 0.5
worker = cluster.Worker([sys.executable, "-c", sys.argv[1]], Path(sys.argv[2]))
sys.exit(worker())
"""


@pytest.mark.parametrize("heeds", [True, False])
def test_a_task_at_its_limit_is_requeued_with_its_command(tmp_path, heeds):
    """Soon, also where the worker does not heed the signal."""
    log = tmp_path / "log"
    log.write_text("before\n")
    ignore = "" if heeds else "signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    script = f"import os, signal, time; {ignore}print(os.getpid(), flush=True); time.sleep(60)"
    task = subprocess.Popen([sys.executable, "-c", TASK, script, str(log)], cwd=SCRIPT.parents[1])
    while len(lines := log.read_text().split()) < 2:
        assert task.poll() is None
        time.sleep(0.02)
    task.send_signal(signal.SIGUSR2)
    assert task.wait(30) == 7 and lines[0] == "before"
    assert not Path("/proc", lines[1]).exists()


@pytest.mark.skipif(len(fleet.cores()) < 2, reason="two workers need two cores")
def test_two_workers_make_everything_once_and_end_on_a_signal(flags, tmp_path):
    def started(*more):
        command = [sys.executable, str(SCRIPT), *flags, "--workers=2", *more]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    slow = started("--set", "retrain.epochs=100000")
    logs = [tmp_path / "out" / "workers" / f"worker{number}.log" for number in range(2)]
    while not all(log.exists() for log in logs):
        time.sleep(0.1)
    time.sleep(1)
    of_group = subprocess.run(["ps", "-o", "pid=", "--ppid", str(slow.pid)], capture_output=True, text=True)
    children = of_group.stdout.split()
    slow.send_signal(signal.SIGTERM)
    _, said = slow.communicate(timeout=60)
    assert slow.returncode == 130 and said == f"error: {process.STOPPED}\n" and len(children) == 2
    assert not any(Path("/proc", child).exists() for child in children)

    done = started()
    shown, said = done.communicate(timeout=300)
    assert done.returncode == 0, said
    assert "4 of 4 results done, 0 failed" in shown
    devices = [json.loads(f.read_text())["device"] for f in (tmp_path / "out").rglob("*seed*.json")]
    assert len(devices) == 4 and all(device.endswith(f"{len(fleet.cores()) // 2} core") for device in devices)
    made = "".join(log.read_text() for log in logs)
    assert made.count("retrain, seed 0: R_tr") == made.count("retrain, seed 1: R_tr") == 1
