"""Every form of a task, every input that is refused, and the exact split."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from camu_jax import Examples
from experiments.tasks import Task, kind_of, parse_task

N, CLASSES = 40, 5
D = Examples(np.arange(N, dtype=np.float32).reshape(N, 1), np.arange(N) % CLASSES, CLASSES)


def parse(text):
    return parse_task(text, CLASSES, N)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("data10", dict(kind="data", percent=10)),
        ("data90", dict(kind="data", percent=90)),
        ("class0", dict(kind="class", classes=(0,))),
        ("class4,1", dict(kind="class", classes=(1, 4))),
        ("class0,1,2,3", dict(kind="class", classes=(0, 1, 2, 3))),
    ],
)
def test_forms(text, expected):
    assert parse(text) == Task(text, **expected)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "task is ''; allowed: dataP"),
        ("data", "allowed: dataP"),
        ("data1.5", "allowed: dataP"),
        ("data 10", "allowed: dataP"),
        ("Data10", "allowed: dataP"),
        ("data10\n", "allowed: dataP"),
        ("data１０", "allowed: dataP"),
        ("data" + "9" * 5000, "allowed: dataP"),
        ("class" + "9" * 5000, "allowed: dataP"),
        ("data0", "P is 0; allowed: 1 to 90"),
        ("data91", "P is 91"),
        ("data100", "P is 100"),
        ("data-5", "P is -5"),
        ("data1", "1% of 40 examples leaves F or R empty"),
        ("class", "allowed: dataP"),
        ("class1,", "allowed: dataP"),
        ("classes1", "allowed: dataP"),
        ("class5", "class 5 is out of range; allowed: 0 to 4"),
        ("class0,-1", "class -1 is out of range"),
        ("class1,1", "a class stands twice"),
        ("class1,01", "a class stands twice"),
        ("class0,1,2,3,4", "every class is removed; allowed: at most 4"),
    ],
)
def test_bad_tasks(text, message):
    with pytest.raises(ValueError, match=message):
        parse(text)


GOOD_FILES = {
    "ids.txt": b"3 1\n\n39\t0\n",
    "small.npy": np.array([3, 1, 39, 0], np.uint8),
    "large.npy": np.array([3, 1, 39, 0]),
}


@pytest.fixture
def write(tmp_path):
    """Writes an index file: bytes as they are, arrays as .npy; returns the task."""

    def writer(name, content):
        path = tmp_path / name
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            np.save(path, content)
        return f"indices:{path}"

    return writer


@pytest.mark.parametrize("name", GOOD_FILES)
def test_index_files(write, name):
    task = parse(write(name, GOOD_FILES[name]))
    assert task == Task(f"indices-{name[:-4]}", "indices", rows=(0, 1, 3, 39))
    F, R = task.split(jax.random.key(0), D)
    assert F.x[:, 0].tolist() == [0, 1, 3, 39] and len(R) == 36


BAD_FILES = {
    "twice.txt": (b"1 2 1", "holds 1 twice"),
    "twice.npy": (np.array([5, 7, 7]), "holds 7 twice"),
    "negative.txt": (b"1 -2", "holds -2; allowed: 0 to 39"),
    "negative.npy": (np.array([-1]), "holds -1"),
    "large.txt": (b"1 40", "holds 40; allowed: 0 to 39"),
    "huge.txt": (b"1 99999999999999999999", "cannot be read as numbers"),
    "huge.npy": (np.array([2**64 - 1], np.uint64), "holds 18446744073709551615"),
    "text.txt": (b"1 two", "cannot be read as numbers .*two.*; allowed: whole numbers"),
    "fraction.txt": (b"1 2.0", "cannot be read as numbers"),
    "binary.txt": (b"\xff\xfe", "cannot be read as numbers"),
    "empty.txt": (b" \n", "is empty"),
    "empty.npy": (np.array([], np.int64), "is empty"),
    "nothing.npy": (b"", "cannot be read"),
    "truncated.npy": (b"\x93NUMPY\x01\x00", "cannot be read"),
    "float.npy": (np.array([1.0, 2.0]), "is not one list of whole numbers"),
    "mask.npy": (np.ones(N, bool), "is not one list of whole numbers"),
    "strings.npy": (np.array(["1"]), "is not one list of whole numbers"),
    "table.npy": (np.array([[1, 2]]), "is not one list of whole numbers"),
    "number.npy": (np.array(1), "is not one list of whole numbers"),
    "pickled.npy": (np.array([{}, 1], object), "cannot be read as numbers .*allow_pickle"),
    "ids.csv": (b"1 2", "has the ending '.csv'; allowed: .npy or .txt"),
    "ids": (b"1 2", "has the ending ''"),
    "all.txt": (" ".join(map(str, range(N))).encode(), "names every training example; allowed: fewer than 40"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_index_files(write, name):
    content, message = BAD_FILES[name]
    with pytest.raises(ValueError, match=f"^task: index file .*{name} {message}"):
        parse(write(name, content))


@pytest.mark.parametrize("name", ["missing.txt", "missing.npy"])
def test_a_missing_index_file(tmp_path, name):
    with pytest.raises(ValueError, match=f"{name} cannot be read .No such file"):
        parse(f"indices:{tmp_path / name}")


@pytest.mark.parametrize("name", ["folder.txt", "folder.npy"])
def test_a_folder_is_no_index_file(tmp_path, name):
    (tmp_path / name).mkdir()
    with pytest.raises(ValueError, match=f"{name} cannot be read .Is a directory"):
        parse(f"indices:{tmp_path / name}")


def header(text):
    """A .npy file of one page that says of itself what it likes."""
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode() + bytes(64)


@pytest.mark.parametrize(
    "text",
    [
        "{'descr': '<i8', 'fortran_order': False, 'shape': (1000000000000000,)}",
        "{'descr': '<i8', 'fortran_order': False, 'shape': (9223372036854775807, 9)}",
        "{'descr': '<i8', 'fortran_order': False, 'shape': (-5,)}",
        "{'descr': 5, 'fortran_order': False, 'shape': (8,)}",
        "{'descr': '<i8'}",
        "(" * 3000,
        "\0" * 50,
    ],
)
def test_an_index_file_whose_header_lies(write, text):
    with pytest.raises(ValueError, match="^task: index file .*lies.npy "):
        parse(write("lies.npy", header(text)))


def test_index_files_that_have_no_end_are_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "zero.npy").symlink_to("/dev/zero")
    (tmp_path / "large.txt").touch()
    os.truncate(tmp_path / "large.txt", 10**10)  # takes no room on disk
    for name, words in (
        ("pipe.txt", "no regular file"),
        ("zero.npy", "no regular file"),
        ("large.txt", "more than 40"),
    ):
        with pytest.raises(ValueError, match=f"{name} cannot be read as numbers .*{words}"):
            parse(f"indices:{tmp_path / name}")


@pytest.mark.parametrize("stem", ["a b", "ä", "$\\frac{", "a\nb", "..", "-", "x" * 200])
def test_odd_names_of_index_files(write, stem):
    assert parse(write(f"{stem}.txt", b"1 2")).name == f"indices-{stem}"


def test_names_that_can_be_no_folder(write):
    with pytest.raises(ValueError, match="too long for a folder; allowed: 255 bytes"):
        parse(write(f"{'x' * 250}.txt", b"1 2"))


@given(
    text=st.one_of(
        st.sampled_from(["data2", "data25", "data90"]),
        st.sets(st.integers(0, CLASSES - 1), min_size=1, max_size=2).map(lambda ks: "class" + ",".join(map(str, ks))),
    ),
    seed=st.integers(0, 100),
)
def test_the_parts_are_disjoint_and_together_everything_in_order(text, seed):
    task = parse(text)
    F, R = task.split(jax.random.key(seed), D)
    f, r = (np.asarray(part.x[:, 0], int) for part in (F, R))
    assert (np.diff(f) > 0).all() and (np.diff(r) > 0).all() and sorted([*f, *r]) == list(range(N))
    assert (np.asarray(F.y) == f % CLASSES).all() and F.num_classes == R.num_classes == CLASSES
    if task.kind == "data":
        assert len(F) == round(N * task.percent / 100)
    else:
        assert set(np.asarray(F.y).tolist()) == set(task.classes) and not np.isin(R.y, task.classes).any()


def test_only_data_tasks_depend_on_the_key(write):
    def forget(text, seed):
        return parse(text).split(jax.random.key(seed), D)[0].x[:, 0].tolist()

    assert forget("data25", 0) == forget("data25", 0) != forget("data25", 1)
    for text in ("class1", write("ids.txt", b"3 1")):
        assert forget(text, 0) == forget(text, 1)


@pytest.mark.parametrize("task", ["class4", "class0,1,2,3"])
def test_a_split_that_leaves_a_part_empty(task):
    without = D[jnp.arange(N) % CLASSES < 4]
    with pytest.raises(ValueError, match=f"task {task}: rows chooses [0-9]+ of 32 examples; allowed: 1 to 31"):
        parse(task).split(jax.random.key(0), without)


def test_held_out_rows_give_the_others_other_numbers(write):
    task = parse_task(write("rows.txt", b"5 30 100"), 10, 200)
    held = np.array([100, 4, 6, 199, 29])
    left = np.setdiff1d(np.arange(200), held)
    assert left[list(task.without(held).rows)].tolist() == [5, 30]
    assert parse_task("data10", 10, 200).without(held) == parse_task("data10", 10, 200)
    with pytest.raises(ValueError, match="all of its rows are held out"):
        task.without(np.array([5, 30, 100]))


def test_kinds():
    assert [kind_of(text) for text in ("data10", "class1,2", "indices:a.txt")] == ["data", "class", "indices"]
