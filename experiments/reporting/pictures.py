"""The pictures of the report, as PNG and SVG."""

import math
import re
import statistics
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator
from scipy import stats

from experiments import paper, store
from experiments.reporting.collect import Found, Rows, Summary, is_percent, number
from experiments.reporting.words import data_name, method_name, task_name
from experiments.store import Result

HISTOGRAM = "forget_margin_histogram"
"""The entry of a result's `outputs` with `edges`, one more than `counts`, of the outputs on the forget set."""

# Okabe and Ito's colours, told apart with any colour vision, and two of Tol's.
_COLOURS = "#d55e00 #e69f00 #009e73 #cc79a7 #56b4e9 #0072b2 #999999 #f0e442 #a63d60 #8877cc".split()
_GREYS = {"original": "dimgrey", "retrain": "black"}
_COLOURED = ("camu", *(method for method in paper.METHOD_NAMES if method not in (*_GREYS, "camu")))
_MARKERS = "osD^vPX*<>"
_TICKS = (0, 0.5, 1, 2, 5, 10, 20, 50, 100)  # of distances; their axis is linear up to 1 and logarithmic beyond
_LARGEST = 1e9  # of what is drawn: axes overflow far beyond it
_STYLED = matplotlib.rc_context({"text.parse_math": False, "svg.fonttype": "none"})  # a name may hold "$\frac{$"


class Picture(NamedTuple):
    """A picture: `name` is that of its files without the suffix, `alt` says in words what it shows."""

    name: str
    title: str
    alt: str
    svg: Path


@_STYLED
def draw(found: Found, rows: Rows, folder: Path) -> dict[str, list[Picture]]:
    """Draws every picture that the results allow into a folder; returns them by the title of their section."""
    jobs = [*found.results, *found.relearned]
    tasks = list(dict.fromkeys((job.dataset, job.task) for job in jobs))
    datasets = list(dict.fromkeys((job.dataset, "") for job in jobs))
    pictures: dict[str, list[Picture]] = {}
    taken: set[str] = set()
    for kind, section, plot, subjects in (
        ("accuracy", "Accuracies", _accuracies, tasks),
        ("time", "Time and distance to Retrain", _times, datasets),
        ("outputs", "Outputs on the forget set", _margins, tasks),
        ("relearn", "Relearning", _relearning, tasks),
    ):
        for dataset, task in subjects:
            drawing, axes = _blank(4.8, 3.6)
            title = f"{data_name(dataset)}, {task_name(task)}" if task else data_name(dataset)
            alt = plot(axes, title, dataset, task, found, rows)
            if not alt:
                continue
            name = re.sub(r"[^a-z0-9]+", "-", f"{kind} {dataset} {task}".lower())[:80].strip("-")
            while name in taken:  # two tasks whose names differ in other signs only
                name += "-more"
            taken.add(name)
            _, svg = _save(drawing, folder, name)
            pictures.setdefault(section, []).append(Picture(name, title, alt, svg))
    return pictures


@_STYLED
def draw_relearning(
    folder: Path, curves: Mapping[str, Sequence[Sequence[float]]], title: str, label: str
) -> tuple[Path, Path]:
    """Draws the paper's Figures 4 and 5 into `relearn.png` and `relearn.svg`. Equal curves make equal files.

    Args:
      folder: of the two files.
      curves: of each method a curve a seed, from before relearning to after its last epoch.
      title: of the picture.
      label: of the vertical axis.

    Returns:
      The PNG and the SVG.
    """
    drawing, axes = _blank(6, 4)
    axes.set_title(title)
    _curves(axes, curves, label)
    return _save(drawing, folder, "relearn")


def differences(curve: Sequence[Mapping[str, float]]) -> list[float]:
    """What Figures 4 and 5 show of a curve: R_ts - F_ts where it was measured, else R_tr - F_tr; in points."""
    kind = "ts" if "F_ts" in curve[0] else "tr"
    return [point[f"R_{kind}"] - point[f"F_{kind}"] for point in curve]


def _blank(width: float, height: float) -> tuple[Figure, Axes]:
    drawing = Figure(figsize=(width, height), layout="constrained")
    axes = drawing.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return drawing, axes


def _save(drawing: Figure, folder: Path, name: str) -> tuple[Path, Path]:
    png, svg = folder / f"{name}.png", folder / f"{name}.svg"
    with matplotlib.rc_context({"svg.hashsalt": name}), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of names with letters that the font lacks
        drawing.legend(loc="outside lower center", ncols=4, frameon=False, fontsize="small")
        with store.atomic(png) as partial:
            drawing.savefig(partial, dpi=160)
        drawing.set_layout_engine("none")  # the SVG as it was laid out for the PNG
        with store.atomic(svg) as partial:
            drawing.savefig(partial, metadata={"Date": None})
    return png, svg


def _colour(method: str) -> str:
    """The colour of a method, the same in every picture; Retrain is black, the original model grey."""
    if method in _GREYS:
        return _GREYS[method]
    place = _COLOURED.index(method) if method in _COLOURED else len(_COLOURED) + sum(method.encode())
    return _COLOURS[place % len(_COLOURS)]


def _accuracies_of(dataset: str, task: str, rows: Rows) -> dict[str, dict[str, Summary]]:
    """Of each method the accuracies that the paper reports of such a task: of class removal R_ts and F_ts."""
    values: dict[str, dict[str, Summary]] = {}
    for metric in ("R_ts", "F_ts") if (dataset, task, "F_ts") in rows else ("R_tr", "F_tr", "T_s"):
        for method, summary in rows.get((dataset, task, metric), {}).items():
            if is_percent(summary.mean):
                values.setdefault(method, {})[metric] = summary
    return values


# Each of these draws the results of a task or of a data set, and returns what it shows in words: nothing, if it has
# nothing to draw.


def _accuracies(axes: Axes, title: str, dataset: str, task: str, found: Found, rows: Rows) -> str:
    values = _accuracies_of(dataset, task, rows)
    metrics = list(dict.fromkeys(metric for shown in values.values() for metric in shown))
    retrain = values.pop("retrain", {})
    if not values:
        return ""
    for metric, summary in retrain.items():
        place, label = metrics.index(metric), "" if axes.collections else "Retrain"
        axes.hlines(summary.mean, place - 0.46, place + 0.46, color="black", linewidth=1.2, label=label)
    width = 0.84 / len(values)
    told = []
    for i, (method, shown) in enumerate(values.items()):
        at = [metrics.index(metric) + (i - (len(values) - 1) / 2) * width for metric in shown]
        heights = [summary.mean for summary in shown.values()]
        spread = [0.0 if math.isnan(summary.spread) else summary.spread for summary in shown.values()]
        axes.bar(at, heights, 0.9 * width, color=_colour(method), label=method_name(method))
        axes.errorbar(at, heights, spread, fmt="none", ecolor="black", elinewidth=0.8)
        for x, height, error, metric in zip(at, heights, spread, shown):
            bottom = height + error + 1.5
            line = retrain[metric].mean if metric in retrain else math.inf
            if bottom - 3 < line < bottom + 14:  # Retrain's line would cross the number
                bottom = max(bottom, line + 1.5)
            axes.text(x, bottom, f"{height:.1f}", rotation=90, ha="center", va="bottom", fontsize=6.5)
        told.append(f"{method_name(method)} {', '.join(f'{m} {s.mean:.1f}' for m, s in shown.items())}")
    axes.set_xticks(range(len(metrics)), metrics)
    axes.set_ylim(0, 118)
    axes.set_yticks(range(0, 101, 20))
    axes.set_ylabel("percent")
    return f"Bars: accuracies for {title}. {'; '.join(told)}."


def _times(axes: Axes, title: str, dataset: str, task: str, found: Found, rows: Rows) -> str:
    points: list[tuple[float, float, str]] = []  # seconds, distance, what they are of
    methods: dict[str, None] = {}
    tasks = list(dict.fromkeys(task for data, task, _ in rows if data == dataset))
    for i, task in enumerate(tasks):
        marker = _MARKERS[i % len(_MARKERS)]
        values = _accuracies_of(dataset, task, rows)
        retrain = values.get("retrain", {})
        values.pop("original", None)  # it took no time
        for method, shown in values.items():
            gaps = [abs(shown[metric].mean - retrain[metric].mean) for metric in shown if metric in retrain]
            timed = rows.get((dataset, task, "seconds"), {}).get(method)  # none on cores that other work shared
            seconds = timed.mean if timed else 0.0
            if gaps and 1 / _LARGEST < seconds < _LARGEST:
                gap = statistics.fmean(gaps)
                axes.plot(seconds, gap, marker, color=_colour(method), markersize=6, alpha=0.9, clip_on=False)
                seeds = [sum(job[:3] == (dataset, task, of) for job in found.results) for of in (method, "retrain")]
                if method != "retrain" and min(seeds) > 1:
                    low, high = _gap_interval(shown, retrain, *seeds)
                    axes.plot([seconds, seconds], [low, high], color=_colour(method), linewidth=1, alpha=0.9)
                methods[method] = None
                points.append((seconds, gap, f"{task_name(task)}, {method_name(method)}"))
        axes.plot([], [], marker, color="black", fillstyle="none", label=task_name(task))
    if not points:
        return ""
    for method in methods:
        axes.plot([], [], "s", color=_colour(method), label=method_name(method))
    top = 1.3 * max(1.5, *(gap for _, gap, _ in points))
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.set_yscale("symlog", linthresh=1)
    axes.set_ylim(0, top)
    axes.set_yticks([tick for tick in _TICKS if tick < top])
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:g}")
        axis.minorticks_off()
    axes.set_xlabel("seconds, without compilation")
    axes.set_ylabel("distance to Retrain (points)")
    told = "; ".join(f"{name}: {seconds:.3g} s, {gap:.2f} points" for seconds, gap, name in points)
    return f"Points: time against distance to Retrain on {title}; lines: 95% intervals over the seeds. {told}."


def _gap_interval(
    shown: Mapping[str, Summary], retrain: Mapping[str, Summary], seeds: int, of_retrain: int
) -> tuple[float, float]:
    """A 95% interval of the mean absolute difference, from the spread of the seeds: the mean of each metric's ends.

    The metrics go up and down together, so that their ends are not made narrower by averaging.
    """
    quantile = stats.t.ppf(0.975, min(seeds, of_retrain) - 1)
    lows, highs = [], []
    for metric in shown.keys() & retrain.keys():
        gap = abs(shown[metric].mean - retrain[metric].mean)
        half = quantile * math.hypot(shown[metric].spread / seeds**0.5, retrain[metric].spread / of_retrain**0.5)
        lows.append(max(0.0, gap - half))
        highs.append(gap + half)
    return statistics.fmean(lows), statistics.fmean(highs)


def _margins(axes: Axes, title: str, dataset: str, task: str, found: Found, rows: Rows) -> str:
    edges: dict[str, list[float]] = {}
    counts: dict[str, list[list[float]]] = {}
    for job, result in found.results.items():
        histogram = _histogram(result) if job[:2] == (dataset, task) else None
        if histogram and edges.setdefault(job.method, histogram[0]) == histogram[0]:
            counts.setdefault(job.method, []).append(histogram[1])
    for method, of_seeds in counts.items():
        total = sum(map(sum, of_seeds))
        percent = [100 * sum(of_bin) / total for of_bin in zip(*of_seeds)]
        axes.stairs(percent, edges[method], color=_colour(method), label=method_name(method), linewidth=1.3)
        if method == "retrain":
            axes.stairs(percent, edges[method], color=_colour(method), fill=True, alpha=0.15)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("margin log p_y - log(1 - p_y) on the forget set")
    axes.set_ylabel("percent of the examples")
    return f"Distribution of the margins for {title}: {', '.join(map(method_name, counts))}." if counts else ""


def _histogram(result: Result) -> tuple[list[float], list[float]] | None:
    """Edges and counts of a result; None where it has none that can be drawn."""
    outputs = result.get("outputs")
    entry = outputs.get(HISTOGRAM) if isinstance(outputs, dict) else None
    known = entry if isinstance(entry, dict) else {}
    if not isinstance(known.get("edges"), list) or not isinstance(known.get("counts"), list):
        return None
    edges, counts = (list(map(number, known[name])) for name in ("edges", "counts"))
    fits = len(edges) == len(counts) + 1 and all(-_LARGEST < a < b < _LARGEST for a, b in zip(edges, edges[1:]))
    return (edges, counts) if fits and all(0 <= n < _LARGEST for n in counts) and sum(counts) > 0 else None


def _relearning(axes: Axes, title: str, dataset: str, task: str, found: Found, rows: Rows) -> str:
    curves: dict[str, list[list[float]]] = {}
    label = "R_ts - F_ts (points)"
    for job, result in found.relearned.items():
        if job[:2] == (dataset, task):
            curves.setdefault(job.method, []).append(differences(result["curve"]))
            if "F_ts" not in result["curve"][0]:
                label = "R_tr - F_tr (points)"
    for method, of_seeds in curves.items():
        curves[method] = [list(curve) for curve in zip(*zip(*of_seeds))]  # as long as the shortest
    means = _curves(axes, curves, label)
    ends = "; ".join(f"{method_name(m)} from {mean[0]:+.2f} to {mean[-1]:+.2f}" for m, mean in means.items())
    return f"Curves of relearning for {title}, {label}: {ends}." if curves else ""


def _curves(axes: Axes, curves: Mapping[str, Sequence[Sequence[float]]], label: str) -> dict[str, list[float]]:
    """Draws a line a method, mean over the seeds, with the range of the seeds behind it; returns the means."""
    means: dict[str, list[float]] = {}
    axes.axhline(0, color="0.8", linewidth=0.8)
    for method, of_seeds in curves.items():
        by_epoch = list(zip(*of_seeds, strict=True))
        means[method] = [statistics.fmean(values) for values in by_epoch]
        low, high = [min(values) for values in by_epoch], [max(values) for values in by_epoch]
        axes.fill_between(range(len(by_epoch)), low, high, color=_colour(method), alpha=0.15, linewidth=0)
        axes.plot(means[method], "--" if method == "retrain" else "-", color=_colour(method), label=method_name(method))
    axes.set_xlabel("epochs of relearning on the retain set")
    axes.set_ylabel(label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return means
