"""Figures, as PNG and SVG."""

import os
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib

from experiments import paper

matplotlib.use("agg")
from matplotlib.figure import Figure  # noqa: E402
from matplotlib.ticker import MaxNLocator  # noqa: E402

# Okabe and Ito's colours: told apart with any colour vision.
_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442", "#999999")


def differences(history: list[dict[str, float]]) -> list[float]:
    """What Figures 4 and 5 show of a curve: R_ts - F_ts where it was measured, else R_tr - F_tr; in points."""
    kind = "ts" if "F_ts" in history[0] else "tr"
    return [h[f"R_{kind}"] - h[f"F_{kind}"] for h in history]


def relearn_curves(
    folder: Path, curves: Mapping[str, Sequence[Sequence[float]]], title: str, label: str
) -> tuple[Path, Path]:
    """Draws Figures 4 and 5: a line a method, mean over the seeds, with the range of the seeds behind it.

    Args:
      folder: where `relearn.png` and `relearn.svg` go.
      curves: of each method a curve a seed, from before relearning to after its last epoch.
      title: of the figure.
      label: of the vertical axis.

    Returns:
      The two files.
    """
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    axes.axhline(0, color="0.8", linewidth=0.8)
    others = iter(_COLOURS)
    for method, runs in curves.items():
        colour = "black" if method == "retrain" else next(others, "0.5")
        by_epoch = list(zip(*runs, strict=True))
        epochs = range(len(by_epoch))
        mean = [statistics.fmean(values) for values in by_epoch]
        low, high = [min(v) for v in by_epoch], [max(v) for v in by_epoch]
        axes.fill_between(epochs, low, high, color=colour, alpha=0.15, linewidth=0)
        name = paper.METHOD_NAMES.get(method, method)
        axes.plot(epochs, mean, color=colour, label=name, linestyle="--" if method == "retrain" else "-")
    axes.set_title(title)
    axes.set_xlabel("epochs of relearning on the retain set")
    axes.set_ylabel(label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize="small")
    files = folder / "relearn.png", folder / "relearn.svg"
    for file in files:
        partial = file.with_name(f".{os.getpid()}.partial{file.suffix}")
        figure.savefig(partial, dpi=160)
        os.replace(partial, file)
    return files
