"""The report from result files made up here: rows, marks and averages worked out by hand, and the page's form."""

import html.parser
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from experiments import paper, report
from experiments.reporting import audits, build, collect, distances, figures, markdown, tables
from experiments.reporting import html as page
from experiments.reporting.collect import Summary

PROVENANCE = {
    "device": "Some GPU",
    "platform": "gpu",
    "versions": {"jax": "0.10.2"},
    "git": "0123456789abcdef+changes",
}
BINS = {"edges": [-1, 0, 1, 2], "counts": [1, 2, 1]}


def write(out, dataset, task, method, seed, metrics, *, name="", **entries):
    file = out / dataset / task / method / f"{name}seed{seed}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    settings = {"seed": seed, "limit": None, "original": {"seed": 0, "epochs": 10}, **entries.pop("settings", {})}
    result = {"metrics": metrics, "seconds": 2.0, "compile_seconds": 1.0, "settings": settings, **PROVENANCE, **entries}
    file.write_text(json.dumps(result))
    return file


def data(r, f, t, **more):
    return {"R_tr": r, "F_tr": f, "T_s": t, **more}


@pytest.fixture
def out(tmp_path):
    """Digit, 10% data: Retrain and two methods, CaMU with two seeds; a class task; a data set without a paper."""
    folder = tmp_path / "results"
    outputs = {"forget_margin_histogram": BINS}
    audit = {"auc": {"value": 0.6, "low": 0.5, "high": 0.7, "null": 0.5}, "layers": {"first": 2}, "seconds": 3}
    write(folder, "digit", "data10", "retrain", 0, data(99.5, 98.5, 98.0, M=50.0), outputs=outputs)
    write(
        folder, "digit", "data10", "camu", 0, data(99.0, 99.0, 97.0, M=48.0), outputs=outputs, audits={"trace": audit}
    )
    write(folder, "digit", "data10", "camu", 1, data(99.4, 98.4, 98.0, M=49.0))
    write(folder, "digit", "data10", "scrub", 0, data(90.0, 98.4, 97.5), seconds=8.0)
    write(folder, "digit", "data10", "camu-finetune", 0, data(98.0, 98.0, 98.0))
    for method, r, f in (("retrain", 99.0, 0.0), ("camu", 98.0, 0.0), ("sisa", 97.0, 0.0), ("unroll", 99.5, 3.0)):
        write(folder, "digit", "class0", method, 0, {"R_tr": 99.0, "F_tr": f, "T_s": 89.0, "R_ts": r, "F_ts": f})
    write(folder, "tiny", "data10", "retrain", 0, data(100.0, 95.0, 95.0))
    write(folder, "tiny", "data10", "camu", 0, data(99.0, 96.0, 94.0))
    curve = [data(99.0, 97.0, 98.0), data(99.5, 97.0, 98.0)]
    write(folder, "digit", "data10", "camu", 0, {"before": 2.0, "after": 2.5}, name="relearn-", curve=curve)
    return folder


@pytest.fixture
def found(out):
    return collect.load(out)


def entries(table, *head):
    row = next(row for row in table.rows if row.head == head)
    return dict(zip(table.columns, row.entries, strict=True))


def tables_of(found):
    values, mixed = collect.figures(found.runs), collect.mixed_settings(found.runs)
    return {t.anchor: t for t in (*tables.paper_tables(values, mixed), *tables.further_tables(values, mixed))}


def test_files_become_cells(found):
    values = collect.figures(found.runs)
    assert values["digit", "data10", "camu", "R_tr"] == Summary(pytest.approx(99.2), pytest.approx(0.08**0.5), 2)
    assert values["digit", "data10", "camu:finetune", "T_s"] == Summary(98.0, None, 1)
    assert [(r.method, r.seed) for r in found.relearned] == [("camu", 0)] and not found.damaged


def test_only_tables_and_rows_with_cells_of_ours(found):
    shown = tables_of(found)
    assert list(shown) == ["table2", "table3", "table4", "table5", "table6", "further1", "further2"]
    assert [row.head for row in shown["table2"].rows] == [("Digit", "R_tr"), ("Digit", "F_tr"), ("Digit", "T_s ↑")]
    assert [row.head for row in shown["table5"].rows] == [("10% data", "Digit"), ("class 0", "Digit")]
    assert shown["table2"].columns == ("Retrain", "NegGrad", "Boundary", "T-S", "SCRUB", "SISA", "Unroll", "CaMU")
    assert shown["further2"].title.startswith("tiny") and len(shown["further2"].rows) == 4


def test_a_cell_holds_ours_the_papers_and_the_difference(found):
    row = entries(tables_of(found)["table2"], "Digit", "R_tr")
    assert row["CaMU"].text == "99.20 ± 0.28" and row["CaMU"].below == ("paper 99.24", "−0.04")
    assert row["Retrain"].text == "99.50" and row["Retrain"].below == ("paper 99.59", "−0.09")
    assert row["NegGrad"].text == "–" and row["NegGrad"].below == ("paper 99.48*",)
    seconds = entries(tables_of(found)["table5"], "10% data", "Digit")
    assert seconds["SCRUB"].below == ("paper 34.61", "×0.23")  # 8 / 34.61


def test_marks_of_rows(found):
    shown = tables_of(found)
    f_tr = entries(shown["table2"], "Digit", "F_tr")  # Retrain 98.5; CaMU 98.7, SCRUB 98.4
    assert (f_tr["SCRUB"].mark, f_tr["CaMU"].mark, f_tr["Retrain"].mark) == ("*", "", "")  # two: no second best
    r_ts, f_ts = (entries(shown["table3"], "Digit", name) for name in ("R_ts ↑", "F_ts ↓"))
    assert [r_ts[m].mark for m in ("Unroll", "CaMU", "SISA")] == ["*", "†", ""]
    assert [f_ts[m].mark for m in ("Unroll", "CaMU", "SISA")] == ["", "*", "*"]


def test_marks():
    closest = {"retrain": 90.0, "a": 91.0, "b": 89.5, "c": 89.0, "d": 95.0}
    assert tables.marks(closest, "T_s") == {"b": "*", "a": "†", "c": "†"}
    assert tables.marks({"retrain": 5.0, "a": 1.001, "b": 0.999, "c": 2.0}, "seconds") == {"a": "*", "b": "*"}
    assert tables.marks({"a": 1.0, "b": 2.0}, "R_ts") == {"b": "*"}
    assert tables.marks({"a": 1.0, "b": 2.0}, "R_tr") == {}  # no Retrain to be close to
    assert tables.marks({"retrain": 1.0, "a": 1.0}, "R_tr") == {}  # nobody to compete with


def test_marks_are_the_papers():
    def printed(table, dataset, metric):
        lines = [n for n in paper.lines() if (n.table, n.dataset, n.metric) == (table, dataset, metric)]
        return tables.marks({n.method: n.value for n in lines}, metric)

    assert printed(2, "digit", "T_s") == {"neggrad": "*", "camu": "†"}
    assert printed(3, "digit", "R_ts") == {"camu": "*", "sisa": "†"}
    assert printed(3, "c100", "F_ts") == {"scrub": "*", "sisa": "*", "unroll": "*", "camu": "*"}
    assert printed(7, "fashion", "M") == {"camu": "*", "camu:finetune": "†", "camu:no_counterfactual": "†"}


def test_average_distances(found):
    values = collect.figures(found.runs)
    near = distances.to_retrain(values, distances.ACCURACIES)
    # ours: 0.3, 0.2, 0.5, then R_ts 1, F_ts 0; the paper: 0.35, 0.33, 0.05, 0.41, 0
    assert near["camu"] == (pytest.approx(0.4), pytest.approx(0.228), 5)
    assert near["scrub"] == (pytest.approx(10.1 / 3), pytest.approx((0.34 + 0.43 + 0.07) / 3), 3)
    assert near["camu:finetune"][2] == 3 and "retrain" not in near
    attack = distances.to_retrain(values, ["M"])
    assert attack == {"camu": (pytest.approx(1.5), pytest.approx(1.67), 1)}  # 48.5 - 50; 47.91 - 49.58
    row = entries(distances.retrain_table(values), "CaMU")
    assert [row[c].text for c in ("accuracies, ours", "accuracies, paper", "cells", "M, ours")] == [
        "0.40",
        "0.23",
        "5",
        "1.50",
    ]


def test_difference_of_camu_to_the_paper(found):
    values = collect.figures(found.runs)
    # Table 2: 99.2 - 99.24, 98.7 - 99.12, 97.5 - 98.98; Table 3: 98 - 99.22, 0 - 0
    assert distances.to_paper(values, [2]) == {"digit": (pytest.approx(1.94 / 3), 3)}
    assert distances.to_paper(values, [2, 3]) == {"digit": (pytest.approx(3.16 / 5), 5)}
    assert [e.text for e in distances.paper_table(values).rows[0].entries] == ["0.65", "0.61", "0.63"]


def test_mixed_settings_are_noted(out):
    write(out, "digit", "data10", "scrub", 1, data(90.0, 98.4, 97.5), settings={"scrub": {"epochs": 3}})
    write(out, "digit", "data10", "retrain", 1, data(99, 98, 98), settings={"original": {"seed": 7, "epochs": 10}})
    found = collect.load(out)
    assert list(collect.mixed_settings(found.runs)) == [("digit", "data10", "scrub")]
    row = entries(tables_of(found)["table2"], "Digit", "F_tr")
    assert "seed 0 against seed 1: scrub was None" in row["SCRUB"].notes[0] and not row["CaMU"].notes
    rendered = markdown.render(build.build(found, {}), "figures")
    assert "made with different settings" in rendered and "<sup>" in rendered


def test_a_part_of_the_data_is_not_compared_with_the_paper(tmp_path):
    write(tmp_path, "digit", "data10", "camu", 0, data(90, 90, 90), settings={"limit": 400})
    shown = tables_of(collect.load(tmp_path))
    assert list(shown) == ["further1"] and shown["further1"].title.startswith("Digit (limit 400)")


def test_audits(found):
    (table,) = audits.audit_tables(found.runs)
    assert table.title == "Audit: trace" and table.columns == ("auc", "layers.first", "seconds")
    assert [e.text for e in table.rows[0].entries] == ["0.6 [0.5, 0.7], null 0.5", "2", "3"]
    intervals = [{"value": 0.5, "low": 0.4, "high": 0.7}, {"value": 0.7, "low": 0.5, "high": 0.8}]
    assert audits.show(intervals) == "0.6 ± 0.14 [0.4, 0.8]"
    assert audits.show([True]) == "True" and audits.show([None]) == "–"


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
        self.links += [value for name, value in attrs if name in ("href", "xlink:href", "src")]

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.void:
            self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, tag


def test_the_page(out, capsys):
    assert report.main([f"--out={out}"]) == 0
    text = (out / "report" / "report.html").read_text()
    found = Page(text)
    assert not re.search(r"https?://|//[a-z]+\.[a-z]|@import|<script", text)
    assert len(set(found.ids)) == len(found.ids)
    assert all(link.startswith("#") and link[1:] in found.ids for link in found.links)
    assert all(reference in found.ids for reference in re.findall(r"url\(#([^)]*)\)", text))
    assert found.headings[0] == 1 and all(b <= a + 1 for a, b in zip(found.headings, found.headings[1:]))
    assert ("html", {"lang": "en-GB"}) in found.tags and ("meta", {"charset": "utf-8"}) in found.tags
    assert all(attrs.get("scope") in ("col", "row") for tag, attrs in found.tags if tag == "th")
    labels = [attrs["aria-label"] for tag, attrs in found.tags if tag == "figure"]
    assert len(labels) == 7 and all(len(label) > 30 for label in labels)
    assert "prefers-color-scheme: dark" in text and "R<sub>tr</sub>" in text and "0123456789+changes" in text
    names = {f.stem for f in (out / "report" / "figures").iterdir()}
    assert names == {f.stem for f in (out / "report" / "figures").glob("*.png")}
    assert "outputs-digit-data10" in names and "relearn-digit-data10" in names and "time-tiny" in names
    described = (out / "report" / "report.md").read_text()
    assert all((out / "report" / link).is_file() for link in re.findall(r"\]\(([^)]*)\)", described))
    assert "- Seeds: 0, 1" in described and "Some GPU (gpu)" in described
    assert not list((out / "report").rglob("*.partial*")) and "written" in capsys.readouterr().out


@pytest.fixture
def small(tmp_path):
    """One result: one figure."""
    write(tmp_path / "small", "tiny", "data10", "retrain", 0, data(100.0, 95.0, 95.0))
    return tmp_path / "small"


def test_the_same_results_make_the_same_files(small):
    contents = []
    for _ in range(2):
        assert report.main([f"--out={small}"]) == 0
        contents.append({f: f.read_bytes() for f in (small / "report").rglob("*") if f.is_file()})
    assert contents[0] == contents[1] and len(contents[0]) == 4


def test_words_are_escaped(tmp_path):
    write(tmp_path, "<b>|x", "data10", "a&b", 0, {"R_tr": 1.0})
    built = build.build(collect.load(tmp_path), {})
    Page(page.render(built))
    assert "<b>" not in page.render(built) and "a&amp;b" in page.render(built)
    assert r"\<b>\|x" in markdown.render(built, "figures")


def test_histograms_that_do_not_fit_are_left_out(tmp_path):
    bad = {"forget_margin_histogram": {"edges": [0, 1], "counts": [1, 2]}}
    write(tmp_path, "tiny", "data10", "camu", 0, data(1, 1, 1), outputs=bad)
    assert "Outputs on the forget set" not in figures.draw(collect.load(tmp_path))


def test_a_damaged_file_is_named_and_skipped(small, tmp_path, capsys):
    damaged = [small / "tiny" / "data10" / "sisa" / name for name in ("seed0.json", "relearn-seed0.json")]
    damaged[0].parent.mkdir()
    damaged[0].write_text('{"metrics": ')
    damaged[1].write_text(json.dumps({"metrics": {}, "seconds": 1.0, "settings": {}}))
    found = collect.load(small)
    assert len(found.damaged) == 2 and [r.method for r in found.runs] == ["retrain"] and not found.relearned
    assert report.main([f"--out={small}", f"--report_dir={tmp_path / 'elsewhere'}"]) == 0
    warned = capsys.readouterr().err
    assert all(str(file) in warned for file in damaged) and warned.count("warning:") == 2
    assert (tmp_path / "elsewhere" / "report.html").is_file() and not (small / "report").exists()


def test_nothing_to_report(tmp_path, capsys):
    assert report.main([f"--out={tmp_path}"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error:") and "no results" in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_bad_flags(capsys):
    assert report.main(["--nonsense=1"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_folder_that_cannot_be_written(small, capsys):
    target = small / "file"
    target.write_text("")
    assert report.main([f"--out={small}", f"--report_dir={target}"]) == 2
    assert "--report_dir" in capsys.readouterr().err


def test_no_jax_is_imported():
    code = "import sys, experiments.report; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(report.__file__).parent.parent).returncode == 0
