"""The parts of the GPU's benchmark with tiny sizes on this CPU."""

import json

import jax
import pytest

from experiments import store
from experiments.bench import gpu
from experiments.bench.on_gpu import check, full, pieces, profile, tables, timing

SIZES = timing.Sizes(
    steps=2, turn_seconds=0.0, turns=1, matmul=64, batches={"cnn": (4,)}, seeds=(2,), width={"cnn": None}
)


def test_pieces_that_are_there_are_skipped_and_those_that_raise_come_again(tmp_path, capsys):
    asked, broken = [], [True]

    def piece(name, ok=True):
        def make():
            asked.append(name)
            if name == "a/bad" and broken[0]:
                raise RuntimeError("no such kernel")
            return {"ok": ok}

        return pieces.Piece(name, make)

    every = [piece("a/good"), piece("a/bad"), piece("b/last")]
    assert pieces.run(every, tmp_path, pieces.Clock(1)) == 1
    assert asked == ["a/good", "a/bad", "b/last"] and "no such kernel" in capsys.readouterr().err
    assert "no such kernel" in tables.errors(tmp_path)[0]
    broken[0] = False
    assert pieces.run(every, tmp_path, pieces.Clock(1)) == 0 and asked[3:] == ["a/bad"]
    assert not tables.errors(tmp_path) and not list(tmp_path.rglob("*partial*"))
    (tmp_path / "a/good.json").write_text("{")
    assert pieces.run(every, tmp_path, pieces.Clock(1)) == 0 and asked[4:] == ["a/good"]
    assert pieces.run([*every, piece("c/wrong", ok=False)], tmp_path, pieces.Clock(1)) == 1


def test_the_clock_ends_a_call(tmp_path, monkeypatch):
    clock, made = pieces.Clock(1), []
    monkeypatch.setattr(pieces.Clock, "left", property(lambda self: 0.0 if made else 60.0))
    every = [pieces.Piece(name, lambda name=name: made.append(name) or {}) for name in ("a", "b")]
    assert pieces.run(every, tmp_path, clock) == 130 and made == ["a"]
    monkeypatch.undo()
    assert pieces.run(every, tmp_path, pieces.Clock(1)) == 0 and made == ["a", "b"]


def test_one_update_is_compared_with_the_cpu(monkeypatch):
    found = check.update("cnn", "float32", 4)
    assert found["ok"] and {"train, parameters", "camu, kl", "train, loss"} <= found["differences"].keys()
    calls = []
    original = check.Side.check

    def wrong(self, architecture, dtype, size, start, out):
        calls.append(out)
        original(self, architecture, dtype, size + (len(calls) == 1), start, out)

    monkeypatch.setattr(check.Side, "check", wrong)
    assert not check.update("cnn", "float32", 4)["ok"] and len(calls) == 2


def test_first_steps_of_a_method_are_compared(monkeypatch):
    settings = check.defaults("tiny", "data10", "reference").settings["neggrad"]
    assert check.steps(settings)["ok"]
    keys = iter(range(10))
    unlearn = check.camu_jax.unlearn
    monkeypatch.setattr(check.camu_jax, "unlearn", lambda key, *rest: unlearn(jax.random.key(next(keys)), *rest))
    assert not check.steps(settings)["ok"]


def test_what_is_not_finite_differs():
    found = check.verdict({"a": float("nan")}, {"a": 1.0})
    assert not found["ok"] and found["differences"] == {"a": None}
    assert "not finite" in [*tables.checks([("x", found)]).columns[3].cells]


def test_every_method_and_audit_is_checked(tmp_path):
    names = {piece.name for piece in check.pieces(tmp_path, quick=False)}
    for method in gpu.Run().methods:
        assert {f"check/steps-{method}", f"check/run-{method}"} <= names
    assert "check/run-populations" in names and {"klom", "lira"} <= set(check._populations(False))


@pytest.mark.slow
def test_whole_runs_are_compared(tmp_path):
    """Two real runs; then the result of one is changed."""
    flags = check._whole("camu", True)
    assert check.whole(tmp_path, flags)["ok"]
    device, cpu = (tmp_path / "check" / side / "results/reference" for side in ("device", "cpu"))
    where = store.path(device, "tiny", "data10", "camu", 0)
    result = store.read(where)
    result["metrics"]["T_s"] = abs(result["metrics"]["T_s"] - 10)
    store.write(where, result)
    found = check.compared(device, cpu, flags)
    assert not found["ok"] and found["differences"]["camu, T_s"] == pytest.approx(10)


@pytest.mark.slow
def test_times_and_profile(tmp_path):
    every = [*timing.pieces(SIZES), *profile.pieces(SIZES)]
    chosen = [p for p in every if "float32" in p.name and "side_by_side-camu" not in p.name or "machine" in p.name]
    assert pieces.run(chosen, tmp_path, pieces.Clock(5)) == 0
    step = json.loads((tmp_path / "profile/train-cnn-4-float32.json").read_text())
    assert 0 < step["busy_seconds"] <= step["span_seconds"] and step["memory_mib"]["argument"] > 1
    shown = [table.columns[0].header for table in tables.tables(tmp_path)]
    assert shown == ["machine", "step", "seeds side by side", "one step, profiled"]
    assert len(chosen) == 1 + 4 + 1 + 2


def test_covered_time_counts_overlaps_once():
    assert profile._covered([(0.0, 2.0), (1.0, 3.0), (5.0, 6.0)]) == 4.0 and profile._covered([]) == 0.0


QUICK = ["limit=100", "original.epochs=2", "camu.epochs=2"]


def jobs(tmp_path, **changes):
    flags = (*QUICK, f"cache_dir={tmp_path / 'cache'}", f"checkpoint_dir={tmp_path / 'originals'}")
    chosen = dict(datasets=("tiny",), tasks=("data10",), methods=("camu",), seeds=(0, 1), side_by_side=2)
    return full.Jobs(**{**chosen, **changes}, flags=flags, out=tmp_path)


@pytest.mark.slow
def test_a_run_ends_with_the_clock_and_goes_on_with_smaller_programs(tmp_path, capsys):
    plan, soon = jobs(tmp_path), 0.01
    clock = pieces.Clock(soon)
    every = full.pieces(plan, clock, soon)
    assert [piece.name for piece in every] == ["run/tiny-data10-camu"]
    assert pieces.run(every, tmp_path, clock, stops_itself=True) == 130 and not full.made(tmp_path)
    clock = pieces.Clock(5)
    assert pieces.run(full.pieces(plan, clock, 5), tmp_path, clock, stops_itself=True) in (0, 1)
    (found,) = full.made(tmp_path)
    assert found["side_by_side"] == 1 and len(found["metrics"]["T_s"]) == len(found["seconds"]) == 2
    assert tables.runs([("x", found)]).row_count == 1
    assert pieces.run(full.pieces(plan, clock, 5), tmp_path, pieces.Clock(soon), stops_itself=True) in (0, 1)


def test_a_run_that_is_refused_is_noted(tmp_path):
    plan = jobs(tmp_path, tasks=("data95",))
    assert pieces.run(full.pieces(plan, pieces.Clock(5), 5), tmp_path, pieces.Clock(5), stops_itself=True) == 1
    assert "run.py ended with 2" in tables.errors(tmp_path)[0]


def test_the_command_line(tmp_path, capsys):
    assert gpu.main(["time", "--quick", f"--out={tmp_path}", "--only", "time/machine"]) == 0
    assert json.loads((tmp_path / "quick/time/machine.json").read_text())["matmul"]["bfloat16"] > 0
    assert gpu.main(["report", f"--out={tmp_path / 'quick'}"]) == 0 and "TFLOP/s" in capsys.readouterr().out
    assert gpu.main(["profile", f"--out={tmp_path}", "--only", "profil/"]) == 2
    assert "only is ('profil/',); allowed: beginnings of profile/train-cnn-32" in capsys.readouterr().err
    assert gpu.main(["run", "--minutes=0"]) == 2 and gpu.main(["run", "--methods", "other"]) == 2
