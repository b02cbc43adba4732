"""The paper's tables as data: complete, and equal to entries typed by hand."""

import collections
import csv
from pathlib import Path

import pytest

from experiments import paper

TABLES = Path(paper.__file__).with_name("tables.csv")
ROWS = list(csv.DictReader(TABLES.read_text().splitlines()))


def test_every_entry_is_there():
    counts = collections.Counter(int(row["table"]) for row in ROWS)
    assert counts == {2: 96, 3: 64, 4: 64, 5: 64, 6: 80, 7: 60, 8: 96, 9: 96, 10: 64, 11: 64, 12: 128, 13: 128}
    assert {row["method"] for row in ROWS} == set(paper.METHOD_NAMES) - {"original"}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (("digit", "data10", "camu", "R_tr"), 99.24),
        (("digit", "data10", "camu", "F_tr"), 99.12),
        (("digit", "data10", "camu", "T_s"), 98.98),
        (("c100", "class0", "unroll", "R_ts"), 31.69),
        (("digit", "class0", "camu", "F_ts"), 0),
        (("fashion", "data10", "bad_teacher", "M"), 45.00),
        (("c10", "class0", "retrain", "seconds"), 763.97),
        (("c10", "data10", "camu:no_counterfactual", "F_tr"), 79.12),
        (("c100", "class0", "camu:finetune", "R_ts"), 55.76),
        (("c100", "data15", "scrub", "T_s"), 8.65),
        (("fashion", "data20", "retrain", "R_tr"), 96.66),
        (("fashion", "class1", "neggrad", "R_ts"), 11.37),
        (("digit", "class2", "unroll", "F_ts"), 99.02),
        (("c100", "class2", "retrain", "M"), 56.07),
        (("c100", "class1", "camu", "seconds"), 109.15),
    ],
)
def test_entries_typed_by_hand(key, value):
    assert paper.value(*key) == value


def test_repeated_entries_agree_but_for_one():
    seen, differing = {}, []
    for row in ROWS:
        key = (row["dataset"], row["task"], row["method"], row["metric"])
        if seen.setdefault(key, float(row["value"])) != float(row["value"]):
            differing.append((key, seen[key], float(row["value"])))
    assert differing == [(("c100", "class0", "camu", "M"), 72.36, 71.25)]


def test_an_entry_the_paper_lacks():
    assert paper.value("tiny", "data10", "camu", "R_tr") is None


def test_lines_and_rows_keep_the_order_of_the_tables():
    assert [line.table for line in paper.lines()] == sorted(int(row["table"]) for row in ROWS)
    assert paper.rows([2, 6])[:2] == [("digit", "data10", "retrain"), ("digit", "data10", "neggrad")]
    assert len(paper.rows([2])) == 32 and set(paper.rows([2])) < set(paper.rows([2, 6]))
    assert len(paper.rows([2, 6])) == 32 + 3 * 4  # the ablations; Retrain and CaMU stand in both tables
