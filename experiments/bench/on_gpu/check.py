"""Whether a device computes what the CPU beside it does: single updates, a few steps of every method, whole runs."""

import dataclasses
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

import camu_jax
from camu_jax import Settings, data, evaluate
from experiments import machine, store
from experiments.bench.on_gpu.full import RUN
from experiments.bench.on_gpu.pieces import Found, Piece
from experiments.bench.our_side import Side
from experiments.defaults import defaults

Figures = dict[str, float]

# Between oneDNN's and XLA's convolutions on one CPU: 4e-5 (ResNet-18's parameters), and 1e-6 of the logits.
UPDATE = {"float64": 1e-8, "float32": 1e-3}
"""Of one training step and one CaMU update, matrix products at the highest precision: the largest difference of a loss
or a running statistic, relative where it exceeds 1, and the root mean square of the parameters' differences."""
STEPS = 1e-3
"""Of a method's first steps, at the highest precision: root mean square of the logits' differences, by the logits'."""
POINTS = 3.0
"""Of a whole run at the device's own precision: percentage points of an accuracy. Rounding grows from step to step, and
the seeds' own standard deviations on `tiny` are up to 1.6."""
FIGURE = 0.1
"""Of an audit's figure: what its 95% interval on the CPU does not hold, and is further off than that, differs."""

NATS = 1.0
"""The same for the figures of `klom`, which are no shares: a histogram of few models moves by more."""

_FORGET, _RETAIN, _TEST = 64, 256, 100  # examples of a method's first steps


def pieces(out: Path, *, quick: bool) -> list[Piece]:
    """Everything that is compared."""
    updates: dict[str, list[Piece]] = {dtype: [] for dtype in UPDATE}
    for dtype, some in updates.items():
        for architecture in ("cnn",) if quick else ("cnn", "resnet18"):
            name = f"check/update-{architecture}-{dtype}"
            some.append(Piece(name, lambda a=architecture, d=dtype: update(a, d, 4 if quick else 32)))  # type: ignore[misc]
    found = updates["float32"]
    every: dict[str, Settings] = {**defaults("tiny", "data10", "reference").settings}
    every["camu-paper"] = defaults("tiny", "data10", "paper").settings["camu"]
    for name, settings in every.items():
        found.append(Piece(f"check/steps-{name}", lambda settings=settings: steps(settings)))  # type: ignore[misc]
    for method in every if not quick else ("retrain", "camu"):
        found.append(Piece(f"check/run-{method}", lambda method=method: whole(out, _whole(method, quick))))  # type: ignore[misc]
    found.append(Piece("check/run-populations", lambda: whole(out, _populations(quick))))
    return found + updates["float64"]  # slow on a CPU


def verdict(differences: Figures, tolerances: Figures) -> Found:
    """The figures of a comparison, and whether all are within tolerance; one that is not finite is not."""
    ok = all(differences[name] <= tolerance for name, tolerance in tolerances.items())
    shown = {name: float(value) if np.isfinite(value) else None for name, value in differences.items()}
    return {"ok": ok, "differences": shown, "tolerances": tolerances, "device": machine.device_name()}


def _on_both(work: Callable[[], Any]) -> tuple[Any, Any]:
    """What some work gives on the device and on the CPU."""
    device = work()
    with jax.default_device(jax.devices("cpu")[0]):
        return device, work()


# --- one update ---------------------------------------------------------------------------------------------------


def update(architecture: str, dtype: str, size: int) -> Found:
    """One training step and one CaMU update from the same weights and batch."""

    def work() -> dict[str, np.ndarray]:
        with tempfile.TemporaryDirectory() as folder:
            after = str(Path(folder, "after.npz"))
            Side().check(architecture, dtype, size, str(Path(folder, "start.npz")), after)
            with np.load(after) as found:
                return {**found}

    device, cpu = _on_both(work)
    differences: Figures = {}
    for name, expected in cpu.items():
        distance = np.abs(device[name].astype(np.float64) - expected)
        step, _, rest = name.partition("/")
        if rest.startswith("params/"):
            differences[f"{step}, parameters"] = max(
                differences.get(f"{step}, parameters", 0.0), float(np.sqrt((distance**2).mean()))
            )
        else:
            what = f"{step}, {rest.split('/')[-1]}"
            relative = float(distance.max() / max(1.0, np.abs(expected).max()))
            differences[what] = max(differences.get(what, 0.0), relative)
    return verdict(differences, dict.fromkeys(differences, UPDATE[dtype]))


# --- the first steps of a method ----------------------------------------------------------------------------------


def steps(settings: Settings) -> Found:
    """What a method makes of a fresh CNN in one epoch over a few digits: logits of other digits."""
    if "epochs" in {field.name for field in dataclasses.fields(settings)}:
        settings = dataclasses.replace(settings, epochs=1)  # type: ignore[call-arg]

    def work() -> np.ndarray:
        chosen = defaults("tiny", "data10", "reference")
        train, test = data.load("tiny")
        model = chosen.model.build(train.num_classes, train.x.shape[1:])
        original = jax.jit(model.init)(jax.random.key(0))
        forget, retain = train[:_FORGET], train[_FORGET : _FORGET + _RETAIN]
        problem = camu_jax.Problem(model, original, forget, retain, chosen.pipeline)
        predictor = camu_jax.unlearn(jax.random.key(1), problem, settings)
        predictor = dataclasses.replace(predictor, aggregate="mean")  # votes have too few levels
        return np.asarray(evaluate.outputs(predictor, test.x[:_TEST]).logits, np.float64)

    with jax.default_matmul_precision("highest"):
        device, cpu = _on_both(work)
    distance = float(np.sqrt(((device - cpu) ** 2).mean() / (cpu**2).mean()))
    return verdict({"logits": distance}, {"logits": STEPS})


# --- whole runs ---------------------------------------------------------------------------------------------------


def _whole(method: str, quick: bool) -> list[str]:
    """Flags of a run of one method, with the paper's attack."""
    name, _, preset = method.partition("-")
    words = ["--task=data10", "--methods", name, "--audit", "paper", f"--preset={preset or 'reference'}"]
    if quick:
        words += ["--limit=150", "--original.epochs=2", f"--{name}.epochs=2"]
    return words


def _populations(quick: bool) -> list[str]:
    """Flags of a run with the audits of populations; data50 has two shadow models a half."""
    words = ["--task=data50", "--methods", "retrain", "camu", "--audit", "klom", "lira", "--audits.halves=6"]
    words += [f"--audits.models={2 if quick else 8}", "--limit=400"]
    if quick:
        words += ["--original.epochs=1", "--retrain.epochs=1", "--camu.epochs=1", "--audits.relearn_epochs=1"]
    return words


def whole(out: Path, flags: list[str]) -> Found:
    """Compares the figures of `run.py` on the device with those of a child process that sees the CPU alone."""
    sides = {}
    for side, platform in (("device", {}), ("cpu", {"JAX_PLATFORMS": "cpu"})):
        folder = out / "check" / side
        words = [sys.executable, str(RUN), "--dataset=tiny", "--seeds", "0", *flags, "--keep_minutes=0"]
        words += [f"--out={folder / 'results' / _preset(flags)}", f"--checkpoint_dir={folder / 'originals'}"]
        done = subprocess.run([*words, f"--cache_dir={folder / 'cache'}"], env={**os.environ, **platform}, check=False)
        if done.returncode not in (0, 1):
            raise RuntimeError(f"run.py on the {side} ended with {done.returncode}")
        sides[side] = folder / "results" / _preset(flags)
    return compared(sides["device"], sides["cpu"], flags)


def compared(device_out: Path, cpu_out: Path, flags: list[str]) -> Found:
    """The results of both sides, of the task and the methods that the flags name."""
    differences: Figures = {}
    tolerances: Figures = {}
    task = next(word for word in flags if word.startswith("--task=")).partition("=")[2]
    for file in sorted((cpu_out / "tiny" / task).glob("*/seed0.json")):
        method = file.parent.name
        if method not in flags:
            continue
        cpu, device = store.read(file), store.read(device_out / file.relative_to(cpu_out))
        if cpu is None or device is None:
            raise RuntimeError(f"run.py made no result of {method} on one side")
        for metric in ("R_tr", "F_tr", "T_s"):
            name = f"{method}, {metric}"
            differences[name], tolerances[name] = abs(cpu["metrics"][metric] - device["metrics"][metric]), POINTS
        for name, far in _audits(cpu, device).items():
            differences[f"{method}, {name}"] = far
            tolerances[f"{method}, {name}"] = NATS if name.startswith("klom ") else FIGURE
    return verdict(differences, tolerances)


def _preset(flags: list[str]) -> str:
    return next((word.partition("=")[2] for word in flags if word.startswith("--preset=")), "reference")


def _audits(cpu: store.Result, device: store.Result) -> Figures:
    """How far each figure of each audit is outside of what its interval on the CPU allows."""
    found = {}
    for audit, entries in cpu.get("audits", {}).items():
        for name, entry in entries.items():
            if not isinstance(entry, dict) or entry.get("low") is None:
                continue
            other = device["audits"][audit][name]["value"]
            found[f"{audit} {name}"] = max(0.0, entry["low"] - other, other - entry["high"])
    return found
