"""The report from result files made up here: figures, marks and averages worked out by hand, and the page's form."""

import html.parser
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest

from experiments import paper, report, store
from experiments.reporting import differences, draw_relearning, pictures
from experiments.reporting.collect import Summary
from experiments.reporting.tables import marks

PROVENANCE = {
    "device": "Some GPU",
    "platform": "gpu",
    "versions": {"jax": "0.10.2"},
    "git": "0123456789abcdef+changes",
}
BINS = {"forget_margin_histogram": {"edges": [-1, 0, 1, 2], "counts": [1, 2, 1]}}


ENDS = {"before": 2.0, "after": 1.0}


def write(out, dataset, task, method, seed, metrics, *, name="", **entries):
    file = out / dataset / task / method / f"{name}seed{seed}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    settings = {"seed": seed, "limit": None, "original": {"seed": 0, "epochs": 10}, **entries.pop("settings", {})}
    result = {"metrics": metrics, "seconds": 2.0, "compile_seconds": 1.0, "settings": settings, **PROVENANCE, **entries}
    try:
        store.write(file, result)
    except (ValueError, OverflowError):  # what no command writes
        file.write_text(json.dumps({**result, "digest": "0"}))
    return file


def data(r, f, t, **more):
    return {"R_tr": r, "F_tr": f, "T_s": t, **more}


def made(out):
    """Makes the report of a folder of results and returns its Markdown."""
    assert report.main([f"--out={out}"]) == 0
    return (out / "report" / "report.md").read_text(encoding="utf-8")


def tables_of(markdown):
    """The tables of a report: title, head of a row, column -> the lines of an entry, without signs of Markdown."""
    found = {}
    for block in markdown.split("\n### ")[1:]:
        title, *lines = block.splitlines()
        rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines if line.startswith("|")]
        if rows:
            names, aligned, *entries = rows
            heads = aligned.count("---")
            columns = [name.strip() for name in names[heads:]]
            found[title] = {
                tuple(plain(head) for head in row[:heads]): dict(zip(columns, map(lines_of, row[heads:]), strict=True))
                for row in entries
            }
    return found


def lines_of(entry):
    return [plain(line) for line in re.sub(r"\*\*(.*)\*\*", r"\1", entry).split("<br>")]


def plain(text):
    return text.replace("\\", "").strip()


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """Digit, 10% data: Retrain and two methods, CaMU with two seeds; a class task; a data set without a paper."""
    folder = tmp_path_factory.mktemp("results")
    audit = {
        "auc": {"value": 0.6, "low": 0.5, "high": 0.7, "null": 0.5},
        "relearn_steps": {"value": None},
        "histogram": [1, 2],
        "settings": {"models": 8},
        "seconds": 3,
    }
    again = {"auc": {"value": 0.7, "low": 0.45, "high": 0.8, "null": 0.52}, "seconds": 3}
    write(folder, "digit", "data10", "retrain", 0, data(99.5, 98.5, 98.0, M=50.0), outputs=BINS)
    write(folder, "digit", "data10", "camu", 0, data(99.0, 99.0, 97.0, M=48.0), outputs=BINS, audits={"trace": audit})
    write(folder, "digit", "data10", "camu", 1, data(99.4, 98.4, 98.0, M=49.0), audits={"trace": again})
    write(folder, "digit", "data10", "scrub", 0, data(90.0, 98.4, 97.5), seconds=8.0, audits={"trace": {"models": 2}})
    write(folder, "digit", "data10", "camu-finetune", 0, data(98.0, 98.0, 98.0))
    for method, r, f in (("retrain", 99.0, 0.0), ("camu", 98.0, 0.0), ("sisa", 97.0, 0.0), ("unroll", 99.5, 3.0)):
        write(folder, "digit", "class0", method, 0, {"R_tr": 99.0, "F_tr": f, "T_s": 89.0, "R_ts": r, "F_ts": f})
    write(folder, "tiny", "data10", "retrain", 0, data(100.0, 95.0, 95.0))
    write(folder, "tiny", "data10", "camu", 0, data(99.0, 96.0, 94.0))
    curve = [data(99.0, 97.0, 98.0), data(99.5, 97.0, 98.0)]
    write(folder, "digit", "data10", "camu", 0, {"before": 2.0, "after": 2.5}, name="relearn-", curve=curve)
    made(folder)
    return folder


@pytest.fixture(scope="module")
def text(out):
    return (out / "report" / "report.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def shown(text):
    return tables_of(text)


ACCURACIES = "Table 2: accuracies, 10% data removal (%)"
CLASSES = "Table 3: accuracies, class 0 removal (%)"


def test_only_tables_and_rows_with_figures_of_ours(shown):
    assert [title.partition(":")[0] for title in shown] == [
        *("Table 2", "Table 3", "Table 4", "Table 5", "Table 6"),
        *("CaMU on every task", "Average distance to Retrain", "CaMU", "Digit", "tiny", "Audit"),
    ]
    assert list(shown[ACCURACIES]) == [("Digit", "R_tr"), ("Digit", "F_tr"), ("Digit", "T_s ↑")]
    assert list(shown["Table 5: time (s)"]) == [("10% data", "Digit"), ("class 0", "Digit")]
    columns = ["Retrain", "NegGrad", "Boundary", "T-S", "SCRUB", "SISA", "Unroll", "CaMU"]
    assert all(list(row) == columns for row in shown[ACCURACIES].values())
    assert [metric for _, metric in shown["tiny: further measurements"]] == ["R_tr", "F_tr", "T_s ↑", "seconds"]
    assert ("class 0", "R_ts ↑") not in shown["Digit: further measurements"]


def test_an_entry_holds_ours_the_papers_and_the_difference(shown):
    row = shown[ACCURACIES]["Digit", "R_tr"]
    assert row["CaMU"] == ["99.20 ± 0.28*", "paper 99.24", "−0.04"]
    assert row["Retrain"] == ["99.50", "paper 99.59", "−0.09"]
    assert row["NegGrad"] == ["–", "paper 99.48*"]
    assert shown["Table 5: time (s)"]["10% data", "Digit"]["SCRUB"] == ["8.00", "paper 34.61", "×0.23"]
    further = shown["tiny: further measurements"]
    assert further["10% data", "T_s ↑"] == {"Retrain": ["95.00"], "CaMU": ["94.00", "−1.00"]}
    assert further["10% data", "seconds"] == {"Retrain": ["2.00"], "CaMU": ["2.00"]}


def test_marks_of_rows(shown):
    f_tr = shown[ACCURACIES]["Digit", "F_tr"]  # Retrain 98.5; CaMU 98.7, SCRUB 98.4: of two none is second best
    assert [f_tr[m][0] for m in ("Retrain", "SCRUB", "CaMU")] == ["98.50", "98.40*", "98.70 ± 0.42"]
    r_ts, f_ts = (shown[CLASSES]["Digit", name] for name in ("R_ts ↑", "F_ts ↓"))
    assert [r_ts[m][0] for m in ("Unroll", "CaMU", "SISA")] == ["99.50*", "98.00†", "97.00"]
    assert [f_ts[m][0] for m in ("Unroll", "CaMU", "SISA")] == ["3.00", "0.00*", "0.00*"]


def test_marks():
    closest = {"retrain": 90.0, "a": 91.0, "b": 89.5, "c": 89.0, "d": 95.0}
    assert marks(closest, "T_s") == {"b": "*", "a": "†", "c": "†"}
    assert marks({"retrain": 5.0, "a": 1.001, "b": 0.999, "c": 2.0}, "seconds") == {"a": "*", "b": "*"}
    assert marks({"a": 1.0, "b": 2.0}, "R_ts") == {"b": "*"}
    assert marks({"a": 1.0, "b": 2.0}, "R_tr") == {}  # no Retrain to be close to
    assert marks({"retrain": 1.0, "a": 1.0}, "R_tr") == {}  # nobody to compete with
    assert marks({"a": 1.0, "b": 2.0, "c": float("inf")}, "F_ts") == {"a": "*"}


def test_marks_are_the_papers():
    def printed(table, dataset, metric):
        lines = [n for n in paper.lines() if (n.table, n.dataset, n.metric) == (table, dataset, metric)]
        return marks({n.method: n.value for n in lines}, metric)

    assert printed(2, "digit", "T_s") == {"neggrad": "*", "camu": "†"}
    assert printed(3, "digit", "R_ts") == {"camu": "*", "sisa": "†"}
    assert printed(3, "c100", "F_ts") == {"scrub": "*", "sisa": "*", "unroll": "*", "camu": "*"}
    assert printed(7, "fashion", "M") == {"camu": "*", "camu:finetune": "†", "camu:no_counterfactual": "†"}


def test_the_original_model_has_a_column_and_no_mark(tmp_path):
    for method, figures in {"original": (99, 99, 98), "retrain": (99, 98, 98), "camu": (98, 97, 97)}.items():
        write(tmp_path, "digit", "data10", method, 0, data(*figures, M=50.0))
        if method != "original":
            write(tmp_path, "digit", "data15", method, 0, data(*figures))
    tables = tables_of(made(tmp_path))
    row = tables["Table 2: accuracies, 10% data removal (%)"]["Digit", "F_tr"]
    assert list(row)[:2] == ["Original", "Retrain"] and row["Original"] == ["99.00"] and row["CaMU"][0] == "97.00"
    assert "Original" in tables["Table 4: membership attack, success rate (%)"]["10% data", "Digit"]
    assert "Original" not in tables["Table 5: time (s)"]["10% data", "Digit"]
    assert "Original" not in tables["Table 8: accuracies, 15% data removal (%)"]["Digit", "F_tr"]
    assert not any("further measurements" in title for title in tables)


def test_average_distance_to_retrain(shown):
    rows = shown["Average distance to Retrain"]
    names = ["accuracies, ours", "accuracies, paper", "entries", "M, ours", "M, paper", "entries of M"]
    figures = {method: [entry for (entry,) in row.values()] for (method,), row in rows.items()}
    assert all(list(row) == names for row in rows.values()) and "Retrain" not in figures
    # ours: 0.3, 0.2, 0.5, then R_ts 1, F_ts 0; the paper: 0.35, 0.33, 0.05, 0.41, 0; M: 48.5 - 50 and 47.91 - 49.58
    assert figures["CaMU"] == ["0.40", "0.23", "5", "1.50", "1.67", "1"]
    assert figures["SCRUB"] == [f"{10.1 / 3:.2f}", f"{(0.34 + 0.43 + 0.07) / 3:.2f}", "3", "–", "–", "–"]
    assert figures["Finetune"][2] == "3"


def test_difference_of_camu_to_the_paper(shown):
    # Table 2: 99.2 - 99.24, 98.7 - 99.12, 97.5 - 98.98; Table 3: 98 - 99.22, 0 - 0
    (row,) = shown["CaMU: average difference to the paper's figures"].values()
    assert {column: entry for column, entry in row.items() if entry != ["–"]} == {
        "10% data": ["0.65", "3 entries"],
        "class 0": ["0.61", "2 entries"],
        "all": ["0.63", "5 entries"],
    }


def test_camu_on_every_task_of_the_paper(shown):
    rows = {head: list(row.values()) for head, row in shown["CaMU on every task"].items()}
    assert list(rows) == [("Digit", "10% data"), ("Digit", "class 0")]
    assert rows["Digit", "10% data"][2:] == [["97.50 ± 0.71", "paper 98.98", "−1.48"], ["–"], ["–"]]
    assert rows["Digit", "class 0"][2:] == [["–"], ["98.00", "paper 99.22", "−1.22"], ["0.00", "paper 0.00", "+0.00"]]


def test_audits(shown):
    rows = shown["Audit: trace"]
    camu, scrub = rows["Digit", "10% data", "CaMU"], rows["Digit", "10% data", "SCRUB"]
    assert list(camu) == ["models", "auc", "relearn steps", "seconds"]
    assert camu["auc"] == ["0.65 ± 0.071 [0.45, 0.8], null 0.51"] and camu["relearn steps"] == ["–"]
    assert scrub == {"models": ["2"], "auc": ["–"], "relearn steps": ["–"], "seconds": ["–"]}


def test_the_null_level_is_retrains_and_a_figure_of_some_seeds_says_so(tmp_path):
    """Whichever was audited first; of a seed whose Retrain was not audited there is none."""
    for seed, steps in enumerate((None, 12, None)):
        audits = {"trace": {"auc": {"value": 0.6}, "relearn_steps": {"value": steps}, "seconds": 1.0}}
        write(tmp_path, "digit", "data10", "camu", seed, data(99, 98, 98), audits=audits)
    audits = {"trace": {"auc": {"value": 0.5}, "seconds": 1.0}}
    write(tmp_path, "digit", "data10", "retrain", 1, data(99, 98, 98), audits=audits)
    rows = tables_of(made(tmp_path))["Audit: trace"]
    assert rows["Digit", "10% data", "CaMU"]["auc"] == ["0.6 ± 0, null 0.5"]
    assert rows["Digit", "10% data", "CaMU"]["relearn steps"] == ["12 (1 of 3 seeds)"]
    assert rows["Digit", "10% data", "Retrain"]["auc"] == ["0.5"]


def test_the_header(text):
    assert "- Data sets: Digit, tiny\n- Tasks: 10% data, class 0\n- Methods: Retrain, SCRUB, CaMU, Finetune, " in text
    assert "- Seeds: 0, 1\n- Results: 12 files\n- Devices: Some GPU (gpu)\n- JAX: 0.10.2\n" in text
    # eleven results of 2 s, but one of 8 s; a curve of 2 s; audits of 3 s; twelve compilations of 1 s
    assert "- Time: 48 s: 28 s unlearning, 2 s relearning, 6 s audits, 12 s compilation" in text


def test_footnotes_are_numbered_in_order(text):
    numbers = [int(n) for line in re.findall(r"^Notes: (.*)\.$", text, re.M) for n in line.split(", ")]
    notes = re.findall(r"^(\d+)\. \S", text.split("## Notes")[1], re.M)
    assert list(dict.fromkeys(numbers)) == [int(n) for n in notes] == list(range(1, len(notes) + 1))


def test_mixed_settings_are_noted(tmp_path):
    write(tmp_path, "digit", "data10", "camu", 0, data(90.0, 98.4, 97.5), settings={"camu": {"epochs": 2}})
    write(tmp_path, "digit", "data10", "camu", 1, data(90.0, 98.4, 97.5), settings={"camu": {"epochs": 3}})
    write(tmp_path, "digit", "data10", "scrub", 0, data(99, 98, 98))
    write(tmp_path, "digit", "data10", "scrub", 1, data(99, 98, 98), settings={"original": {"seed": 7, "epochs": 10}})
    text = made(tmp_path)
    row = tables_of(text)[ACCURACIES]["Digit", "F_tr"]
    number = re.fullmatch(r"98.40 ± 0.00<sup>(\d)</sup>", row["CaMU"][0])[1]
    note = f"{number}. The seeds of this entry were made with different settings (seed 0 against seed 1: "
    assert f"{note}camu.epochs was 2, now 3)." in plain(text) and row["SCRUB"][0] == "98.00 ± 0.00"


def test_a_part_of_the_data_is_not_compared_with_the_paper(tmp_path):
    write(tmp_path, "digit", "data10", "camu", 0, data(90, 90, 90), settings={"limit": 400})
    assert list(tables_of(made(tmp_path))) == ["Digit (limit 400): further measurements"]


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ({"factory": "net", "code": "0", "compute": "float32"}, "own model net"),
        ({"architecture": "cnn", "width": 2, "compute": "bfloat16"}, "width 2, bfloat16"),
    ],
)
def test_another_model_is_not_compared_with_the_paper(tmp_path, model, name):
    write(tmp_path, "digit", "data10", "camu", 0, data(90, 90, 90), settings={"model": model})
    assert list(tables_of(made(tmp_path))) == [f"Digit ({name}): further measurements"]


def test_the_small_model_stands_beside_the_paper_as_what_it_is(tmp_path):
    """In rows of its own, and in no average of the full one."""
    small = {"model": {"architecture": "resnet18", "width": None, "size": "small"}}
    for folder, settings, lower in (("c10", {}, 0), ("c10-small", small, 2)):
        write(tmp_path, folder, "data10", "retrain", 0, data(95 - lower, 90, 90), settings=settings)
        write(tmp_path, folder, "data10", "camu", 0, data(94 - lower, 91, 90), settings=settings)
    write(tmp_path, "c100", "data10", "camu", 0, data(1, 2, 3), settings={"model": {"width": 8}})
    text = made(tmp_path)
    tables = tables_of(text)
    rows = tables[ACCURACIES]
    assert [data for data, metric in rows if metric == "R_tr"] == ["C10", "C10 (small ResNet-18)"]
    assert rows["C10 (small ResNet-18)", "R_tr"]["CaMU"][0] == "92.00"
    paper = {rows[name, "R_tr"]["CaMU"][1] for name in ("C10", "C10 (small ResNet-18)")}
    assert len(paper) == 1 and paper.pop().startswith("paper ")
    for title in ("Average distance to Retrain", "Average distance to Retrain, small ResNet-18"):
        row = tables[title]["CaMU",]
        assert row["accuracies, ours"] == ["0.67"] and row["entries"] == ["3"]  # 1, 1 and 0
    of_camu = tables["CaMU: average difference to the paper's figures"]
    assert list(of_camu) == [("C10",), ("C10 (small ResNet-18)",)] and "C100 (width 8): further measurements" in tables
    assert not any("C10 (small" in title for title in tables) and "accuracy-c10-small-resnet-18-data10" in text


class Page(html.parser.HTMLParser):
    """Checks nesting, and gathers headings, ids, links and the rest that a browser would follow."""

    void = {"meta", "br", "link", "img"}

    def __init__(self, text):
        super().__init__()
        self.open, self.headings, self.ids, self.links, self.tags = [], [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.void:
            self.open.append(tag)
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))
        self.ids += [value for name, value in attrs if name == "id"]
        self.links += [value for name, value in attrs if name in ("href", "src")]

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, tag


def test_the_page(out):
    text = (out / "report" / "report.html").read_text(encoding="utf-8")
    found = Page(text)
    assert not re.search(r"https?://|//[a-z]+\.[a-z]|@import|<script", text)
    pictures = [link for link in found.links if link.startswith("data:image/svg+xml;base64,")]
    inside = [link for link in found.links if link not in pictures]
    assert inside and all(link.startswith("#") and link[1:] in found.ids for link in inside)
    assert len(set(found.ids)) == len(found.ids)
    assert found.headings[0] == 1 and all(b <= a + 1 for a, b in zip(found.headings, found.headings[1:]))
    assert ("html", {"lang": "en-GB"}) in found.tags and ("meta", {"charset": "utf-8"}) in found.tags
    assert all(attrs.get("scope") in ("col", "row") for tag, attrs in found.tags if tag == "th")
    alts = [attrs["alt"] for tag, attrs in found.tags if tag == "img"]
    assert len(alts) == len(set(pictures)) == 7 and all(len(alt) > 30 and "<" not in alt for alt in alts)
    assert "prefers-color-scheme: dark" in text and "R<sub>tr</sub>" in text and "0123456789+changes" in text
    assert "<strong>98.40</strong>*" in text and "98.00†" in text


def test_the_pictures(out, text):
    linked = re.findall(r"!\[([^\]]{30,})\]\(([^)]*)\)", text.replace("\\[", "").replace("\\]", ""))
    files = {(out / "report" / link).with_suffix("") for _, link in linked}
    written = {file.with_suffix("") for file in (out / "report" / "pictures").iterdir()}
    assert files == written and all(f.with_suffix(end).is_file() for f in files for end in (".png", ".svg"))
    assert {f.name for f in files} == {
        *("accuracy-digit-data10", "accuracy-digit-class0", "accuracy-tiny-data10"),
        *("time-digit", "time-tiny", "outputs-digit-data10", "relearn-digit-data10"),
    }
    assert "CaMU from +2.00 to +2.50" in text
    assert "tiny; lines: 95% intervals over the seeds. 10% data, Retrain: 2 s, 0.00 points" in text
    assert not list((out / "report").rglob("*.partial*"))


@pytest.fixture
def small(tmp_path):
    """One result: one picture."""
    write(tmp_path / "small", "tiny", "data10", "retrain", 0, data(100.0, 95.0, 95.0))
    return tmp_path / "small"


def test_the_same_results_make_the_same_files(small):
    contents = []
    for _ in range(2):
        made(small)
        contents.append({f: f.read_bytes() for f in (small / "report").rglob("*") if f.is_file()})
    assert contents[0] == contents[1] and len(contents[0]) == 4


def test_curves_alone_are_drawn(tmp_path):
    curve = [data(99.0, 97.0, 98.0), data(99.5, 97.0, 98.0)]
    for seed, length in ((0, 1), (1, 2)):  # drawn as far as both go
        write(tmp_path, "tiny", "data10", "camu", seed, ENDS, name="relearn-", curve=curve[:length])
    assert "CaMU from +2.00 to +2.00" in made(tmp_path) and "# Relearning" in made(tmp_path)


def test_tasks_whose_names_differ_in_signs_have_pictures_of_their_own(tmp_path):
    for task in ("a+b", "a-b"):
        write(tmp_path, "tiny", task, "retrain", 0, data(99, 99, 99))
        write(tmp_path, "tiny", task, "camu", 0, data(1, 2, 3))
    made(tmp_path)
    assert len(list((tmp_path / "report" / "pictures").glob("accuracy-*.svg"))) == 2


HOSTILE = "<script>alert(1)</script> [x](javascript:alert(1)) $\\frac{$ | ` **b** &lt; \ud800 \x01\n# x"


def test_what_results_hold_is_escaped(tmp_path):
    name = HOSTILE.replace("/", "~").replace("\ud800", "\udcff")  # as a folder may be named
    curve = [data(1, 2, 3)]
    entries = {"device": HOSTILE, "git": HOSTILE, "versions": {"jax": HOSTILE}, "outputs": BINS}
    audits = {HOSTILE: {HOSTILE: {"value": 1}}}
    metrics = {**data(1, 2, 3), HOSTILE: 5}
    write(tmp_path, name, name, name, 0, metrics, audits=audits, settings={"limit": HOSTILE}, **entries)
    write(tmp_path, name, name, name, 1, metrics, settings={"limit": HOSTILE, "x": HOSTILE})
    write(tmp_path, name, name, "retrain", 0, metrics, settings={"limit": HOSTILE})
    write(tmp_path, name, name, name, 0, ENDS, name="relearn-", curve=curve)
    text = made(tmp_path)
    for sign in ("<(?!br>|sup>|/sup>)", r"\[x", r"\]\(javascript", r"\$", "`", r"\*\*b", "&lt", r" \| ` "):
        assert not re.search(rf"(?<!\\){sign}", text), sign
    tables = tables_of(text)  # the pipes of the names end no column: every row has as many as its table
    assert any(title.startswith("Audit") for title in map(plain, tables))
    page = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    found = Page(page)
    assert {tag for tag, _ in found.tags} <= {
        *("html", "head", "meta", "title", "style", "body", "header", "main", "nav", "section", "div", "img", "p"),
        *("h1", "h2", "h3", "dl", "dt", "dd", "ul", "ol", "li", "a", "table", "thead", "tbody", "tr", "th", "td"),
        *("strong", "small", "span", "sup", "sub"),
    }
    assert not any(link.startswith("javascript") for link in found.links) and "&lt;script&gt;" in page


NO_NUMBERS = [float("nan"), float("inf"), -float("inf"), 10**400, -(10**400), 1e308, True, 1e-320]


def test_numbers_that_are_none_are_left_out_and_named(tmp_path, capsys):
    write(tmp_path, "digit", "data10", "retrain", 0, data(99, 99, 99))
    for i, value in enumerate(NO_NUMBERS):
        bins = {"forget_margin_histogram": {"edges": [0, value], "counts": [value]}}
        audit = {"auc": {"value": value, "low": value, "high": value, "null": value}, "seconds": value, "x": {}}
        write(tmp_path, "digit", "data10", f"metric{i}", 0, data(1, value, 1))
        write(tmp_path, "digit", "data10", f"seconds{i}", 0, data(1, 1, 1), seconds=value)
        write(tmp_path, "digit", "data10", f"more{i}", 0, data(1, 1, 1), outputs=bins, audits={"trace": audit})
    made(tmp_path)
    left_out = capsys.readouterr().err
    for i, value in enumerate(NO_NUMBERS):
        fine = value == 1e-320
        assert (f"/metric{i}/" in left_out, f"/seconds{i}/" in left_out) == (not fine, not fine), value
    assert left_out.count("warning:") >= 2 * (len(NO_NUMBERS) - 1)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("metrics", value) for value in ({}, [], 5, {"R_tr": "x", "F_tr": 1.0, "T_s": 1.0}, {"R_tr": 1.0})],
        *[("metrics", {"R_tr": value, "F_tr": 1.0, "T_s": 1.0}) for value in (-1.0, 101.0, None, True)],
        *[("seconds", value) for value in (-1.0, "1", None)],
        *[("settings", value) for value in ([], None, "x")],
        *[("device", ["<i>"]), ("versions", [1]), ("git", 5), ("audits", [1]), ("outputs", 5), ("failed", 1)],
    ],
)
def test_what_is_no_result_is_refused_though_its_digest_is_right(tmp_path, name, value):
    file = write(tmp_path, "digit", "data10", "camu", 0, data(99, 98, 97))
    assert store.read(file) is not None
    result = json.loads(file.read_text())
    store.write(file, {**result, name: value})
    with pytest.raises(store.DamagedResult, match=name if name != "metrics" else "is not a result file"):
        store.read(file)


def test_a_changed_digit_is_seen(tmp_path):
    file = write(tmp_path, "digit", "data10", "camu", 0, data(99.25, 98.0, 97.0))
    whole = file.read_text()
    for old, new in (("99.25", "99.75"), ('"epochs": 10', '"epochs": 11'), ("Some GPU", "Some CPU")):
        assert old in whole
        file.write_text(whole.replace(old, new))
        with pytest.raises(store.DamagedResult, match="was changed"):
            store.read(file)
    file.write_text(re.sub(r' "digest": "[0-9a-f]*",\n', "", whole))
    with pytest.raises(store.DamagedResult, match="digest is missing"):
        store.read(file)
    file.write_text(json.dumps(json.loads(whole), indent=8))  # other spaces, the same content
    assert store.read(file) == json.loads(whole)


def test_a_failed_model_is_called_failed(tmp_path):
    write(tmp_path, "digit", "data10", "retrain", 0, data(99, 99, 99))
    write(tmp_path, "digit", "data10", "scrub", 0, data(98, 98, 98))
    write(tmp_path, "digit", "data10", "camu", 0, data(98.5, 98, 98))
    write(tmp_path, "digit", "data10", "camu", 1, data(9.9, 0.0, 9.8), failed="its parameters are not finite")
    text = made(tmp_path)
    shown = tables_of(text)
    assert shown[ACCURACIES]["Digit", "R_tr"]["CaMU"][0].startswith("failed<sup>")
    assert shown["Table 5: time (s)"]["10% data", "Digit"]["CaMU"][0].startswith("failed")
    assert "With seed 1 the method failed: its parameters are not finite." in text
    assert ("SCRUB",) in shown["Average distance to Retrain"] and ("CaMU",) not in shown["Average distance to Retrain"]


def test_a_damaged_file_is_named_and_left_out(small, tmp_path, capsys):
    method = small / "tiny" / "data10" / "sisa"
    write(small, "tiny", "data10", "sisa", 0, ENDS, name="relearn-")  # no curve
    write(small, "tiny", "data10", "sisa", 1, ENDS, name="relearn-", curve=[data(float("nan"), 1, 1)])
    write(small, "tiny", "data10", "sisa", 2, {}, name="relearn-", curve=[data(1, 1, 1)])
    (method / "seed0.json").write_text('{"metrics": ')
    (method / "seed1.json").write_text(json.dumps({"metrics": {"R_tr": "x"}, "seconds": 1.0, "settings": {}}))
    (method / "seed2.json").write_text("[" * 100_000)
    damaged = list(method.iterdir())
    assert report.main([f"--out={small}", f"--report_dir={tmp_path / 'elsewhere'}"]) == 0
    said = capsys.readouterr()
    assert all(str(file) in said.err for file in damaged) and said.err.count("warning:") == len(damaged) == 6
    assert said.out.count("written") == 2
    text = (tmp_path / "elsewhere" / "report.md").read_text(encoding="utf-8")
    assert "- Methods: Retrain\n" in text and not (small / "report").exists()


def test_nothing_to_report(tmp_path, capsys):
    assert report.main([f"--out={tmp_path}"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error:") and "no results" in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_bad_flags(capsys):
    assert report.main(["--nonsense=1"]) == 2
    assert "--nonsense" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written(small, capsys):
    target = small / "file"
    target.write_text("")
    assert report.main([f"--out={small}", f"--report_dir={target}"]) == 2
    assert "--report_dir" in capsys.readouterr().err


def test_no_jax_is_imported(small):
    code = f"import sys; from experiments import report; report.main(['--out={small}']); sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(report.__file__).parent.parent).returncode == 0
    assert (small / "report" / "report.html").is_file()


def test_relearning_is_drawn_for_other_scripts_too(tmp_path):
    curves = {"retrain": [[2.0, 1.0, 0.5]], "camu": [[3.0, 2.0, 1.0], [2.5, 1.5, 1.0]], "$\\frac{$": [[1.0, 1.0, 1.0]]}
    files = draw_relearning(tmp_path / "a", curves, "$\\frac{$ of tiny", "points")
    again = draw_relearning(tmp_path / "b", curves, "$\\frac{$ of tiny", "points")
    assert [f.name for f in files] == ["relearn.png", "relearn.svg"] and all(f.stat().st_size > 5000 for f in files)
    assert [f.read_bytes() for f in files] == [f.read_bytes() for f in again]
    assert "of tiny" in files[1].read_text(encoding="utf-8")  # text stays text
    changed = draw_relearning(tmp_path / "c", {**curves, "camu": [[3.0, 2.0, 1.5]]}, "$\\frac{$ of tiny", "points")
    assert changed[1].read_bytes() != files[1].read_bytes()


def test_differences_of_a_curve():
    assert differences([data(9, 1, 5), data(9, 9, 5)]) == [8, 0]
    assert differences([{**data(9, 1, 5), "R_ts": 8, "F_ts": 2}]) == [6]  # of test accuracies, in a class task


def test_the_interval_of_a_distance():
    """By hand: two seeds against two, one metric; it holds the distance, and two metrics are averaged end by end."""
    one = {"T_s": Summary(97.0, 0.3)}, {"T_s": Summary(98.0, 0.4)}
    half = 12.7062 * math.hypot(0.3, 0.4) / 2**0.5
    assert pictures._gap_interval(*one, 2, 2) == (0.0, pytest.approx(1 + half, rel=1e-4))
    two = one[0] | {"F_tr": Summary(90.0, 0.0)}, one[1] | {"F_tr": Summary(93.0, 0.0)}
    assert pictures._gap_interval(*two, 2, 2) == (pytest.approx(1.5), pytest.approx((1 + half + 3) / 2, rel=1e-4))
