"""Which rows a request names, and what is refused in one line."""

import numpy as np
import pytest

from experiments import UsageError
from experiments.deletion import rows

TOTAL = 10
IDS = [f"p{i // 2}" for i in range(TOTAL)]  # two rows a person


def written(tmp_path, name, content):
    file = tmp_path / name
    if isinstance(content, str):
        file.write_text(content, "utf-8")
    else:
        np.save(file, content)
    return str(file)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", "7\n3\n"),
        ("a.npy", np.array([7, 3])),
        ("a.npy", np.isin(np.arange(TOTAL), [3, 7])),
        ("a.csv", "row,why\n7,asked\n\n3,asked\n"),
        ("a.csv", "\ufeffrow\n3\n7\n"),
    ],
)
def test_numbers_and_masks(tmp_path, name, content):
    assert rows.read(written(tmp_path, name, content), TOTAL) == ([3, 7], None)


def test_ids_of_a_column_and_all_rows_of_each(tmp_path):
    file = written(tmp_path, "a.csv", "when,person\ntoday,p4\ntoday,p0\n")
    found = rows.read(file, TOTAL, id_column="person", ids=IDS)
    assert found == ([0, 1, 8, 9], ["p0", "p0", "p4", "p4"])


@pytest.mark.parametrize(
    ("name", "content"),
    [("ids.txt", "\n".join(IDS)), ("ids.npy", np.array(IDS)), ("ids.csv", "person\n" + "\n".join(IDS) + "\n")],
)
def test_ids_of_the_training_rows(tmp_path, name, content):
    assert rows.read_ids(written(tmp_path, name, content), TOTAL, "person") == IDS
    with pytest.raises(UsageError, match="holds 10 ids; allowed: 11, one a training row"):
        rows.read_ids(written(tmp_path, name, content), TOTAL + 1, "person")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.txt", "", "names no row; allowed: 1 to 9"),
        ("a.npy", np.zeros(0, np.int64), "names no row"),
        ("a.npy", np.zeros(TOTAL, bool), "names no row"),
        ("a.csv", "row\n", "names no row"),
        ("a.csv", "", "is empty; allowed: a header"),
        ("a.txt", " ".join(map(str, range(TOTAL))), "names every training row"),
        ("a.txt", "3 4 3", "a.txt holds 3 twice; allowed: each row once"),
        ("a.txt", "10", "a.txt holds 10; allowed: 0 to 9"),
        ("a.txt", "-1", "a.txt holds -1; allowed: 0 to 9"),
        ("a.txt", "3.5", "holds '3.5'; allowed: row numbers"),
        ("a.csv", "id\nanna\n", "ids need --id_column"),
        ("a.npy", np.zeros(3, bool), "a.npy is a mask of shape (3,); allowed: [10]"),
        ("a.npy", np.array([0.5]), "a.npy has dtype float64; allowed: row numbers"),
        ("a.npy", np.array([[1]]), "a.npy has shape (1, 1); allowed: one list of row numbers"),
        ("a.json", "[1]", "allowed: a file that ends in .csv, .npy, .txt"),
    ],
)
def test_what_is_no_request_is_refused_in_one_line(tmp_path, name, content, words):
    with pytest.raises(UsageError) as error:
        rows.read(written(tmp_path, name, content), TOTAL)
    assert words in str(error.value) and "\n" not in str(error.value) and str(error.value).startswith("rows")


@pytest.mark.parametrize(
    ("content", "column", "words"),
    [
        ("person\np9\n", "person", "names the id 'p9', which no training row has"),
        ("person\np1\np1\n", "person", "names the id 'p1' twice"),
        ("person\n", "person", "names no row"),
        ("person\n" + "\n".join(sorted(set(IDS))), "person", "names every training row"),
        ("person\np1\n", "id", "has no column 'id'; allowed: person"),
        ("a,person\nx\n", "person", "has no value in column 'person' of line 2"),
    ],
)
def test_wrong_ids_are_refused_in_one_line(tmp_path, content, column, words):
    with pytest.raises(UsageError) as error:
        rows.read(written(tmp_path, "a.csv", content), TOTAL, id_column=column, ids=IDS)
    assert words in str(error.value)


def test_a_file_that_is_not_there_or_no_text_and_ids_without_a_csv(tmp_path):
    with pytest.raises(UsageError, match=r"cannot be read \(No such file"):
        rows.read(str(tmp_path / "none.csv"), TOTAL)
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="no UTF-8"):
        rows.read(str(tmp_path / "a.txt"), TOTAL)
    (tmp_path / "a.npy").write_bytes(b"nothing")
    with pytest.raises(UsageError, match="rows: "):
        rows.read(str(tmp_path / "a.npy"), TOTAL)
    with pytest.raises(UsageError, match="allowed with id_column: a .csv file"):
        rows.read(str(tmp_path / "a.npy"), TOTAL, id_column="id", ids=IDS)
    with pytest.raises(UsageError, match="give them with --ids=FILE"):
        rows.read(written(tmp_path, "b.csv", "id\n1\n"), TOTAL, id_column="id")
