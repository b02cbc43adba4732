"""Seconds on cores that other work shares say so, in results, tables and report."""

import subprocess
import sys
import time

import pytest

from experiments import cores, machine, report, store

WORK = "print('on', flush=True)\nwhile True: pass"
STAT = "cpu  0 0 0 0 0 0 0 0 0 0\ncpu0 {0} 0 0 {1} 0 0 0 0 0 0\ncpu1 {2} 0 0 0 0 0 0 0 0 0\nintr 1 2\n"


@pytest.fixture
def stat(tmp_path, monkeypatch):
    """A machine with two cores, of which this process may use one; tests write what they did, in ticks of 10 ms."""
    file = tmp_path / "stat"
    file.write_text(STAT.format(100, 0, 0))
    monkeypatch.setattr(cores, "_STAT", file)
    monkeypatch.setattr(cores.os, "sched_getaffinity", lambda _: {0})
    monkeypatch.setattr(cores.os, "sysconf", lambda _: 100)
    monkeypatch.setattr(cores, "_own", lambda: 0.0)
    monkeypatch.setattr(time, "perf_counter", iter((0.0, 10.0)).__next__)
    return file


@pytest.mark.parametrize(("busy", "other", "expected"), [(151, 0, False), (153, 0, True), (100, 900, False)])
def test_more_than_a_twentieth_is_shared(stat, busy, other, expected):
    watch = cores.Watch()
    stat.write_text(STAT.format(busy, 900, other))
    assert watch.shared() is expected


def test_where_nobody_tells(stat):
    stat.unlink()
    assert cores.Watch().shared() is None
    assert machine.Span(1.0, 2.0).as_json() == {"seconds": 1.0, "compile_seconds": 2.0}


def test_processes_of_one_command_do_not_tell(monkeypatch):
    monkeypatch.setattr(machine.jax, "process_count", lambda: 2)
    assert machine.shared(cores.Watch()) is None


@pytest.mark.skipif(not cores._STAT.exists(), reason="the system does not tell")
def test_another_process_is_seen():
    others = [subprocess.Popen([sys.executable, "-c", WORK], stdout=subprocess.PIPE) for _ in range(2)]
    try:
        for other in others:
            assert other.stdout.readline() == b"on\n"
        with machine.measure() as span:
            time.sleep(1)
    finally:
        for other in others:
            other.kill()
            other.communicate()
    assert span.shared is True and span.as_json()["shared"] is True


def test_the_report_leaves_such_seconds_out(tmp_path):
    metrics = {"R_tr": 99.0, "F_tr": 98.0, "T_s": 97.0}
    for method, seed, more in (
        ("retrain", 0, {"shared": True}),
        ("camu", 0, {"shared": False}),
        ("camu", 1, {"shared": True, "audits": {"paper": {"auc": {"value": 0.5}, "seconds": 77.25, "shared": True}}}),
        ("scrub", 0, {}),  # of an older revision
    ):
        result = {"metrics": metrics, "seconds": 12.0 + 40 * more.get("shared", False), "settings": {"seed": seed}}
        store.write(tmp_path / "digit" / "data10" / method / f"seed{seed}.json", {**result, **more})
    assert report.main([f"--out={tmp_path}"]) == 0
    text = (tmp_path / "report" / "report.md").read_text()
    [row] = [line for line in text.split("### Table 5")[1].split("###")[0].splitlines() if "10% data" in line]
    assert row.count("12.00") == 2 and "52.00" not in text and "77.25" not in text and "shared |" not in text
