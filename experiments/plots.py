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

# Okabe and Ito's colours, told apart with any colour vision, and two of Tol's.
COLOURS = (
    "#d55e00",
    "#e69f00",
    "#009e73",
    "#cc79a7",
    "#56b4e9",
    "#0072b2",
    "#999999",
    "#f0e442",
    "#a63d60",
    "#8877cc",
)
"""Colours of the methods, CaMU's first."""

_ORDER = ("camu", *(m for m in paper.METHOD_NAMES if m not in ("retrain", "camu")))


def colour(method: str) -> str:
    """The colour of a method, the same in every figure; Retrain is black."""
    if method == "retrain":
        return "black"
    place = _ORDER.index(method) if method in _ORDER else len(_ORDER) + sum(method.encode())
    return COLOURS[place % len(COLOURS)]


def differences(history: list[dict[str, float]]) -> list[float]:
    """What Figures 4 and 5 show of a curve: R_ts - F_ts where it was measured, else R_tr - F_tr; in points."""
    kind = "ts" if "F_ts" in history[0] else "tr"
    return [h[f"R_{kind}"] - h[f"F_{kind}"] for h in history]


def save(figure: Figure, folder: Path, name: str) -> tuple[Path, Path]:
    """Writes `<name>.png` and `<name>.svg`, each so that it holds all of the figure or what it held before.

    Equal figures make equal files; the text of the SVG stays text.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = folder / f"{name}.png", folder / f"{name}.svg"
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        for file in files:
            partial = file.with_name(f".{os.getpid()}.partial{file.suffix}")
            figure.savefig(partial, dpi=160, metadata={"Date": None} if file.suffix == ".svg" else None)
            os.replace(partial, file)
            figure.set_layout_engine("none")  # laid out once, not once a file
    return files


def relearn_curves(
    folder: Path, curves: Mapping[str, Sequence[Sequence[float]]], title: str, label: str
) -> tuple[Path, Path]:
    """Draws Figures 4 and 5 into `relearn.png` and `relearn.svg` of a folder; see `relearn_figure`."""
    return save(relearn_figure(curves, title, label), folder, "relearn")


def relearn_figure(curves: Mapping[str, Sequence[Sequence[float]]], title: str, label: str) -> Figure:
    """Figures 4 and 5: a line a method, mean over the seeds, with the range of the seeds behind it.

    Args:
      curves: of each method a curve a seed, from before relearning to after its last epoch.
      title: of the figure.
      label: of the vertical axis.
    """
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    axes.axhline(0, color="0.8", linewidth=0.8)
    for method, runs in curves.items():
        by_epoch = list(zip(*runs, strict=True))
        epochs = range(len(by_epoch))
        mean = [statistics.fmean(values) for values in by_epoch]
        low, high = [min(v) for v in by_epoch], [max(v) for v in by_epoch]
        axes.fill_between(epochs, low, high, color=colour(method), alpha=0.15, linewidth=0)
        name = paper.METHOD_NAMES.get(method, method)
        axes.plot(epochs, mean, color=colour(method), label=name, linestyle="--" if method == "retrain" else "-")
    axes.set_title(title)
    axes.set_xlabel("epochs of relearning on the retain set")
    axes.set_ylabel(label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize="small")
    return figure
