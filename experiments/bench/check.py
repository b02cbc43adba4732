"""Whether our step and PyTorch's compute the same: both start from the same weights and batch, in either precision."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from experiments.bench.pair import Pair

TOLERANCES = {"float64": 1e-8, "float32": 5e-3}
"""Largest difference allowed of what `JUDGED` names, relative to the largest value of a tensor where that exceeds 1."""
JUDGED = {"float64": ("loss", "params", "mean", "var"), "float32": ("loss", "mean", "var", "params_rms")}
"""Adam's first steps divide a gradient by its own size: where it is near 0, float32 rounding decides its sign and so
moves a parameter by the whole learning rate. The proof is in float64; float32 is judged by the root mean square."""
BATCH = 32


def unbiased(stat: np.ndarray, before: np.ndarray, count: int, updates: int) -> np.ndarray:
    """What PyTorch's running variance is where Flax's is `stat`: PyTorch records n / (n - 1) times the batch's.

    Args:
      stat: Flax's running variance, `[C]`.
      before: the same before the updates, `[C]`.
      count: values behind each variance, n.
      updates: batches seen, each with weight 0.1.
    """
    old = 0.9**updates * before
    return old + (stat - old) * count / (count - 1)


def differences(ours: Any, theirs: Any) -> dict[str, dict[str, float]]:
    """Largest differences of what both sides wrote.

    Args:
      ours: arrays by name: `params/...` and `batch_stats/...` before, `train/...` and `camu/...` after.
      theirs: `train/...`, `eager/...` and `tuned/...` after, `count/...` of each running variance.

    Returns:
      For each of `train`, `eager` and `tuned`: the largest difference of `loss`, `params`, `mean`, `var`, each
      relative to the largest value of its tensor where that is above 1; and `params_rms`, the root mean square over
      all parameters.
    """
    found: dict[str, dict[str, float]] = {}
    for variant, mine, updates in (("train", "train", 1), ("eager", "camu", 4), ("tuned", "camu", 4)):
        worst: dict[str, float] = {}
        squares, count = 0.0, 0
        for name in theirs:
            if not name.startswith(f"{variant}/"):
                continue
            rest = name.removeprefix(f"{variant}/")
            a, b = ours[f"{mine}/{rest}"], theirs[name]
            if a.shape != b.shape:
                raise ValueError(f"{name} has shape {a.shape} in ours, {b.shape} in PyTorch's")
            if rest.endswith("/var"):
                a = unbiased(a, ours[rest], int(theirs[f"count/{rest}"]), updates)
            kind = rest.split("/")[-1] if rest.startswith("batch_stats") else rest.split("/")[0]
            kind = "loss" if kind in ("kl", "ce") else kind
            if kind == "params":
                squares, count = squares + float(np.square(a - b, dtype=np.float64).sum()), count + a.size
            worst[kind] = max(worst.get(kind, 0.0), float(np.abs(a - b).max() / max(1.0, np.abs(a).max())))
        found[variant] = {**worst, "params_rms": float(np.sqrt(squares / max(1, count)))}
    return found


def check(architecture: str, dtype: str) -> dict[str, dict[str, float]]:
    """Runs both sides once, each in its own process, and compares: see `differences`."""
    with tempfile.TemporaryDirectory() as folder, Pair() as pair:
        start, ours, theirs = (str(Path(folder, f"{name}.npz")) for name in ("start", "ours", "theirs"))
        pair.ours.ask("check", architecture, dtype, BATCH, start, ours)
        pair.torch.ask("check", architecture, start, theirs)
        with np.load(start) as before, np.load(ours) as mine, np.load(theirs) as other:
            return differences({**before, **mine}, {**other})
