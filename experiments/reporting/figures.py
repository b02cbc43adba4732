"""The figures of the report, drawn from runs."""

import re
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from experiments import plots
from experiments.reporting.collect import Found, Run, Summary, by_task
from experiments.reporting.document import Picture, data_name, method_name, task_name

Group = Mapping[str, list[Run]]

HISTOGRAM = "forget_margin_histogram"
"""The entry of a result's `outputs` with `edges`, one more than `counts`, of the outputs on the forget set."""

_MARKERS = "osD^vPX*<>"
_FIGURE = (4.8, 3.6)
_DISTANCES = (0, 0.5, 1, 2, 5, 10, 20, 50, 100)  # ticks; the axis is linear up to 1 and logarithmic beyond


class Drawing(NamedTuple):
    """A figure before it is saved: name of its files, title, what it shows in words."""

    name: str
    title: str
    alt: str
    figure: Figure


def draw(found: Found) -> dict[str, list[Drawing]]:
    """Every figure that the results allow, by the title of its section."""
    tasks = by_task(found.runs)
    drawings = {
        "Accuracies": [d for key, group in tasks.items() for d in _accuracies(*key, group)],
        "Time and distance to Retrain": list(_times(tasks)),
        "Outputs on the forget set": [d for key, group in tasks.items() for d in _margins(*key, group)],
        "Relearning": [d for key, group in by_task(found.relearned).items() for d in _relearning(*key, group)],
    }
    return {title: drawn for title, drawn in drawings.items() if drawn}


def save(drawings: Mapping[str, Sequence[Drawing]], folder: Path) -> dict[str, list[Picture]]:
    """Writes every drawing as PNG and SVG, and returns what the report shows of it."""
    pictures: dict[str, list[Picture]] = {}
    for title, drawn in drawings.items():
        for drawing in drawn:
            _, svg = plots.save(drawing.figure, folder, drawing.name)
            inline = inline_svg(svg.read_text(encoding="utf-8"), drawing.name)
            pictures.setdefault(title, []).append(Picture(drawing.name, drawing.title, drawing.alt, inline))
    return pictures


def inline_svg(svg: str, prefix: str) -> str:
    """An SVG of matplotlib's as part of a page: transparent, black in the colour of the text, ids its own.

    Args:
      svg: the file's text.
      prefix: goes before every id, which must be unique in a page.
    """
    svg = svg[svg.index("<svg") :].strip()
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->|<defs>\s*</defs>", "", svg, flags=re.DOTALL)
    head, body = svg.split(">", 1)
    box = re.search(r'viewBox="[^"]*"', head)
    body = re.sub(r'\bid="([^"]*)"', rf'id="{prefix}-\1"', body)
    body = re.sub(r'(?:xlink:)?href="#([^"]*)"', rf'href="#{prefix}-\1"', body)
    body = re.sub(r"url\(#([^)]*)\)", rf"url(#{prefix}-\1)", body)
    body = body.replace("fill: #ffffff", "fill: none").replace("#000000", "currentColor")
    return f'<svg {box[0] if box else ""} fill="currentColor" stroke-linejoin="round" aria-hidden="true">{body}'


def paper_metrics(runs: Iterable[Run]) -> tuple[str, ...]:
    """The accuracies that the paper reports of such a task: of class removal R_ts and F_ts."""
    classes = all("F_ts" in run.result["metrics"] for run in runs)
    return ("R_ts", "F_ts") if classes else ("R_tr", "F_tr", "T_s")


def _summaries(group: Group, metrics: Sequence[str]) -> dict[str, dict[str, Summary]]:
    """Of each method each metric that all of its seeds have."""
    return {
        method: {
            metric: Summary.of(float(r.result["metrics"][metric]) for r in runs)
            for metric in metrics
            if all(metric in r.result["metrics"] for r in runs)
        }
        for method, runs in group.items()
    }


def _accuracies(data: str, task: str, group: Group) -> Iterator[Drawing]:
    metrics = paper_metrics(run for runs in group.values() for run in runs)
    values = _summaries(group, metrics)
    retrain = values.pop("retrain", {})
    if not values:
        return
    figure, axes = _axes()
    width = 0.84 / len(values)
    for place, (method, by_metric) in enumerate(values.items()):
        at = [i + (place - (len(values) - 1) / 2) * width for i, m in enumerate(metrics) if m in by_metric]
        shown = [by_metric[m] for m in metrics if m in by_metric]
        heights, spread = [s.mean for s in shown], [s.spread or 0.0 for s in shown]
        axes.bar(at, heights, 0.9 * width, color=plots.colour(method), label=method_name(method))
        axes.errorbar(at, heights, spread, fmt="none", ecolor="black", elinewidth=0.8)
        for x, summary, metric in zip(at, shown, (m for m in metrics if m in by_metric), strict=True):
            height = _label_height(summary, retrain.get(metric))
            axes.text(x, height, f"{summary.mean:.1f}", rotation=90, ha="center", va="bottom", fontsize=6.5)
    for i, metric in enumerate(metrics):
        if metric in retrain:
            label = "Retrain" if i == 0 else None
            axes.hlines(retrain[metric].mean, i - 0.46, i + 0.46, color="black", linewidth=1.2, label=label)
    axes.set_xticks(range(len(metrics)), metrics)
    axes.set_ylim(0, 118)
    axes.set_yticks(range(0, 101, 20))
    axes.set_ylabel("percent")
    figure.legend(*_retrain_first(axes), loc="outside lower center", ncols=4, frameon=False, fontsize="small")
    title = f"{data_name(data)}, {task_name(task)}"
    yield Drawing(_slug("accuracy", data, task), title, f"Bars: accuracies for {title}. {_in_words(values)}", figure)


def _label_height(summary: Summary, retrain: Summary | None) -> float:
    """Where the figure of a bar begins: above the bar, and above Retrain's line where it would cross it."""
    height = summary.mean + (summary.spread or 0.0) + 1.5
    crosses = retrain is not None and height - 3 < retrain.mean < height + 14
    return max(height, retrain.mean + 1.5) if retrain is not None and crosses else height


def _retrain_first(axes: Any) -> tuple[list[Any], list[str]]:
    pairs = sorted(zip(*axes.get_legend_handles_labels(), strict=True), key=lambda pair: pair[1] != "Retrain")
    return [handle for handle, _ in pairs], [label for _, label in pairs]


def _in_words(values: Mapping[str, Mapping[str, Summary]]) -> str:
    parts = (f"{method_name(m)} {', '.join(f'{k} {s.mean:.1f}' for k, s in v.items())}" for m, v in values.items())
    return "; ".join(parts) + "."


def distance(ours: Mapping[str, Summary], retrain: Mapping[str, Summary]) -> float | None:
    """Mean absolute difference of the accuracies that both have, in points; None where they share none."""
    shared = [abs(ours[m].mean - retrain[m].mean) for m in ours if m in retrain]
    return statistics.fmean(shared) if shared else None


def _times(tasks: Mapping[tuple[str, str], Group]) -> Iterator[Drawing]:
    for data in dict.fromkeys(data for data, _ in tasks):
        figure, axes = _axes()
        points: list[str] = []
        top = 0.0
        methods: dict[str, None] = {}
        own = {task: group for (d, task), group in tasks.items() if d == data}
        for marker, (task, group) in zip(_MARKERS * len(own), own.items()):
            values = _summaries(group, paper_metrics(run for runs in group.values() for run in runs))
            for method, runs in group.items():
                gap = distance(values[method], values.get("retrain", {}))
                seconds = statistics.fmean(float(run.result["seconds"]) for run in runs)
                if gap is None or seconds <= 0:
                    continue
                axes.plot(seconds, gap, marker, color=plots.colour(method), markersize=6, alpha=0.9, clip_on=False)
                methods[method], top = None, max(top, gap)
                points.append(f"{task_name(task)}, {method_name(method)}: {seconds:.3g} s, {gap:.2f} points")
            axes.plot([], [], marker, color="black", fillstyle="none", label=task_name(task))
        if not points:
            continue
        for method in methods:
            axes.plot([], [], "s", color=plots.colour(method), label=method_name(method))
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.minorticks_off()
        axes.set_yscale("symlog", linthresh=1)
        axes.set_ylim(0, max(top, 1.5) * 1.3)
        axes.set_yticks([y for y in _DISTANCES if y < max(top, 1.5) * 1.3])
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.minorticks_off()
        axes.set_xlabel("seconds, without compilation")
        axes.set_ylabel("distance to Retrain (points)")
        figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize="small")
        alt = f"Points: time against distance to Retrain on {data_name(data)}. {'; '.join(points)}."
        yield Drawing(_slug("time", data), data_name(data), alt, figure)


def _margins(data: str, task: str, group: Group) -> Iterator[Drawing]:
    found = {method: _shares(runs) for method, runs in group.items()}
    shares = {method: share for method, share in found.items() if share is not None}
    if not shares:
        return
    figure, axes = _axes()
    for method, (edges, heights) in shares.items():
        axes.stairs(heights, edges, color=plots.colour(method), label=method_name(method), linewidth=1.3)
        if method == "retrain":
            axes.stairs(heights, edges, color=plots.colour(method), fill=True, alpha=0.15)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("margin log p_y - log(1 - p_y) on the forget set")
    axes.set_ylabel("percent of the examples")
    figure.legend(*_retrain_first(axes), loc="outside lower center", ncols=4, frameon=False, fontsize="small")
    title = f"{data_name(data)}, {task_name(task)}"
    names = ", ".join(method_name(m) for m in shares)
    yield Drawing(_slug("outputs", data, task), title, f"Distribution of the margins for {title}: {names}.", figure)


def _shares(runs: list[Run]) -> tuple[list[float], list[float]] | None:
    """Edges and percent in each bin over the seeds whose edges are those of the first."""
    found = [h for run in runs if (h := _histogram(run)) is not None]
    counts = [counts for edges, counts in found if edges == found[0][0]]
    total = sum(map(sum, counts))
    return (found[0][0], [100 * sum(bin_) / total for bin_ in zip(*counts, strict=True)]) if total else None


def _histogram(run: Run) -> tuple[list[float], list[float]] | None:
    outputs = run.result.get("outputs")
    entry = outputs.get(HISTOGRAM) if isinstance(outputs, dict) else None
    if not isinstance(entry, dict):
        return None
    edges, counts = entry.get("edges"), entry.get("counts")
    if not isinstance(edges, list) or not isinstance(counts, list) or len(edges) != len(counts) + 1:
        return None
    return [float(e) for e in edges], [float(c) for c in counts]


def _relearning(data: str, task: str, group: Group) -> Iterator[Drawing]:
    curves: dict[str, list[list[float]]] = {}
    for method, runs in group.items():
        found = [plots.differences(run.result["curve"]) for run in runs]
        epochs = min(map(len, found))
        curves[method] = [curve[:epochs] for curve in found]
    classes = all("F_ts" in run.result["curve"][0] for runs in group.values() for run in runs)
    label = "R_ts - F_ts (points)" if classes else "R_tr - F_tr (points)"
    title = f"{data_name(data)}, {task_name(task)}"
    means = {m: [statistics.fmean(values) for values in zip(*c, strict=True)] for m, c in curves.items()}
    ends = "; ".join(f"{method_name(m)} from {mean[0]:+.2f} to {mean[-1]:+.2f}" for m, mean in means.items())
    figure = plots.relearn_figure(curves, "", label)
    figure.set_size_inches(_FIGURE)
    yield Drawing(_slug("relearn", data, task), title, f"Curves of relearning for {title}, {label}: {ends}.", figure)


def _axes() -> tuple[Figure, Any]:
    figure = Figure(figsize=_FIGURE, layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _slug(*parts: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", "-".join(parts).lower()).strip("-")
