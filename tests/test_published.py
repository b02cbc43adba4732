"""The tables of the README and of the results' page say what the published result files say."""

import csv
import itertools
import json
import re
import statistics
from pathlib import Path

import pytest

from experiments import paper

REPO = Path(__file__).resolve().parent.parent
PUBLISHED = REPO / "experiments" / "published"
README, RESULTS = REPO / "README.md", REPO / "docs" / "results.md"
METHODS = {name: method for method, name in paper.METHOD_NAMES.items()}
MAIN, FURTHER = ("data10", "class0"), ("data15", "data20", "class1", "class2")
TASKS = MAIN + FURTHER
PLACE = ("dataset", "task", "method", "metric")
with (REPO / "experiments" / "paper" / "tables.csv").open(encoding="utf-8") as file:
    PAPER = {tuple(row[part] for part in PLACE): row["value"] for row in csv.DictReader(file)}


def rows(page):
    """The tables' rows, as cells; a header has no figure."""
    lines = re.findall(r"^\|(.+)\|$", page.read_text(encoding="utf-8"), re.M)
    return [[cell.strip() for cell in line.split("|")] for line in lines]


def ours(*place):
    """What the files say; CIFAR's are of the small ResNet-18."""
    dataset, task, method, metric = place
    dataset += "-small" * (dataset in ("c10", "c100"))
    files = sorted((PUBLISHED / dataset / task / method.replace(":", "-")).glob("seed*.json"))
    return [json.loads(file.read_text(encoding="utf-8"))["metrics"][metric] for file in files]


def cell(*place):
    """Mean, standard deviation where there are several seeds, and the paper's figure where it has one."""
    values = ours(*place)
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    printed = f" ({float(PAPER[place]):.2f})" if place in PAPER else ""
    return f"{statistics.fmean(values):.2f}{spread}{printed}"


def distances(method, other, *, tasks=MAIN):
    """The mean absolute difference of what two functions say of the accuracies of some tasks."""
    metrics = {"data": ("R_tr", "F_tr", "T_s"), "class": ("R_ts", "F_ts")}
    places = [(data, t, m) for data in ("digit", "fashion") for t in tasks for m in metrics[t.rstrip("0123456789")]]
    return statistics.fmean(abs(method(*place) - other(*place)) for place in places)


@pytest.mark.parametrize("page", [README, RESULTS], ids=lambda page: page.name)
def test_camu_on_every_task(page):
    tables = rows(page)
    metrics = next(row for row in tables if row[:2] == ["data set", "task"])[2:]
    found = [row for row in tables if row[0] in ("Digit", "Fashion")]
    assert len(found) == 12
    differences = {"Digit": [], "Fashion": []}
    for data, task, *cells in found:
        assert [bool(text) for text in cells] == [task.startswith(kind) for kind in ("data",) * 3 + ("class",) * 2]
        for metric, text in zip(metrics, cells, strict=True):
            if text:
                place = data.lower(), task, "camu", metric
                assert text == cell(*place), place
                differences[data].append(abs(statistics.fmean(ours(*place)) - float(PAPER[place])))
    if page == README:
        small = [row for row in tables if row[0].endswith("(small)")]
        shown = [[f"{data} (small)", task] for data in ("C10", "C100") for task in ("data10", "class0")]
        assert [row[:2] for row in small] == shown
        for data, task, *cells in small:
            for metric, text in zip(metrics, cells, strict=True):
                if text:
                    assert text == cell(data.split()[0].lower(), task, "camu", metric), (data, task, metric)
            assert sum(map(bool, cells)) == (3 if task == "data10" else 2)
    every = [gap for gaps in differences.values() for gap in gaps]
    assert len(every) == 30
    digit, fashion, both = (f"{statistics.fmean(gaps):.2f}" for gaps in (*differences.values(), every))
    said = " ".join(page.read_text(encoding="utf-8").split())
    if page == README:
        assert f"difference over the 30 entries is {both} points" in said
    else:
        assert f"is {digit} points over the 15 entries of Digit, {fashion} over those of Fashion, and {both}" in said


def test_every_method():
    tables = rows(RESULTS)
    shown = set()
    for at, header in enumerate(tables):
        if header[0] in TASKS:
            metrics = [name.rpartition(": ")[2] for name in header[1:]]  # Digit: R_tr
            for name, *cells in itertools.takewhile(lambda row: row[0] in METHODS, tables[at + 2 :]):
                for k, text in enumerate(cells):
                    place = ("digit", "fashion")[2 * k >= len(cells)], header[0], METHODS[name], metrics[k]
                    if text or ours(*place):  # an empty cell has no files
                        shown.add(place[:3])
                        assert text == cell(*place), place
    files = [path for data in ("digit", "fashion") for path in (PUBLISHED / data).glob("*/*/seed*.json")]
    assert shown == {(*path.parts[-4:-2], path.parts[-2].replace("-", ":", 1)) for path in files}


def test_relearning():
    tables = rows(RESULTS)
    at = next(i for i, row in enumerate(tables) if row[0] == "relearning")
    places = [(data, task) for data in ("digit", "fashion") for task in ("data10", "class0")]
    for name, *cells in itertools.takewhile(lambda row: row[0] in METHODS, tables[at + 2 :]):
        for place, text in zip(places, cells, strict=True):
            files = PUBLISHED.joinpath(*place, METHODS[name]).glob("relearn-seed*.json")
            found = [json.loads(file.read_text(encoding="utf-8"))["metrics"] for file in files]
            ends = [f"{statistics.fmean(of[end] for of in found):.2f}" for end in ("before", "after") if found]
            assert text == " to ".join(ends), (place, name)


def test_relearning_starts_from_the_models_of_the_tables():
    checked = 0
    for file in PUBLISHED.glob("*/*/*/relearn-seed*.json"):
        checked += 1
        retain, forget = ("R_tr", "F_tr") if file.parts[-3].startswith("data") else ("R_ts", "F_ts")
        result, curve = (
            json.loads(path.read_text(encoding="utf-8"))["metrics"]
            for path in (file.with_name(file.name.removeprefix("relearn-")), file)
        )
        assert curve["before"] == pytest.approx(result[retain] - result[forget], abs=1e-4), file
    assert checked


def test_cifar():
    tables = rows(RESULTS)
    header = next(row for row in tables if row[:2] == ["small ResNet-18", "method"])[2:]
    places = [name.split(": ") for name in header]  # data10: R_tr
    found = [row for row in tables if row[0] in ("C10", "C100")]
    folders = [path for path in PUBLISHED.glob("c10*-small/*/*") if any(path.glob("seed*.json"))]
    published = {(path.parts[-3], path.name.replace("-", ":", 1)) for path in folders}
    shown = set()
    for data, name, *cells in found:
        method = METHODS[name]
        for (task, metric), text in zip(places, cells, strict=True):
            if text:
                shown.add((f"{data.lower()}-small", method))
                assert text == cell(data.lower(), task, method, metric), (data, name, task, metric)
    assert shown == published


@pytest.mark.parametrize(("page", "table", "tasks"), [(README, 0, MAIN), (RESULTS, 0, MAIN), (RESULTS, 1, FURTHER)])
def test_distances_to_retrain(page, table, tasks):
    tables = rows(page)
    place, names = [(i, row[1:]) for i, row in enumerate(tables) if row[1:2] == ["NegGrad"]][table]
    for name, text, papers in zip(names, tables[place + 2][1:], tables[place + 3][1:], strict=True):
        method = METHODS[name]

        def mean(data, task, metric, of=method):
            return statistics.fmean(ours(data, task, of, metric))

        def paper(data, task, metric, of=method):
            return float(PAPER[data, task, of, metric])

        assert text == f"{distances(mean, lambda *at: mean(*at, of='retrain'), tasks=tasks):.2f}", name
        assert papers == f"{distances(paper, lambda *at: paper(*at, of='retrain'), tasks=tasks):.2f}", name


def test_what_accuracies_tell_of_random_removal():
    def from_retrain(method):
        means = (lambda *place, of=of: statistics.fmean(ours(*place[:2], of, place[2])) for of in (method, "retrain"))
        return f"{distances(*means, tasks=('data10',)):.2f}"

    original, camu, neggrad = map(from_retrain, ("original", "camu", "neggrad"))
    said = " ".join(RESULTS.read_text(encoding="utf-8").split())
    assert f"is {original} for the original, which has forgotten nothing, {camu} for CaMU and {neggrad} for" in said
