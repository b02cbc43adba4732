"""Digests: equal things have equal ones, and whatever is changed shows."""

import numpy as np
import pytest

from camu_jax import Examples, digests
from camu_jax.rows import pick


def test_json_in_any_order_and_nothing_that_is_none():
    assert digests.of_json({"a": 1, "b": [1.5, None]}) == digests.of_json({"b": [1.5, None], "a": 1})
    assert digests.of_json({"a": 1}) != digests.of_json({"a": "1"})
    with pytest.raises(ValueError):
        digests.of_json(float("nan"))


def test_shape_type_and_contents_of_an_array_count(monkeypatch):
    x = np.arange(24, dtype=np.int32)
    found = {digests.of_arrays(a) for a in (x, x.reshape(4, 6), x.view(np.uint32), x + 1, x[:-1])}
    assert len(found) == 5
    whole = digests.of_arrays(x.reshape(4, 6), x[:0], np.float32(3))
    monkeypatch.setattr(digests, "_PIECE", 10)
    assert digests.of_arrays(x.reshape(4, 6), x[:0], np.float32(3)) == whole


def test_rows_and_examples_do_not_depend_on_how_they_are_held(tmp_path):
    x = np.random.default_rng(0).integers(0, 256, (9, 4, 4, 1), np.uint8)
    np.save(tmp_path / "x.npy", x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    rows = np.array([3, 1])
    assert digests.of_each_row(x[rows]) == digests.of_each_row(pick(mapped, rows))
    y = np.zeros(9, np.int32)
    assert digests.of_examples(Examples(x, y, 2)) == digests.of_examples(Examples(mapped, y, 2))
    assert digests.of_examples(Examples(x, y, 2)) != digests.of_examples(Examples(x, y, 3))


def test_a_flipped_byte_and_another_name_in_a_folder(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "one").write_bytes(b"12")
    found = digests.of_path(tmp_path / "a")
    (tmp_path / "a" / "b" / "one").write_bytes(b"13")
    assert digests.of_path(tmp_path / "a") != found
    (tmp_path / "a" / "b" / "one").write_bytes(b"12")
    assert digests.of_path(tmp_path / "a") == found
    (tmp_path / "a" / "b" / "one").rename(tmp_path / "a" / "one")
    assert digests.of_path(tmp_path / "a") != found
    with pytest.raises(FileNotFoundError):
        digests.of_path(tmp_path / "none")


def test_a_tree_by_where_its_arrays_lie():
    one, two = np.zeros(2, np.float32), np.ones(2, np.float32)
    assert digests.of_tree({"a": one, "b": two}) != digests.of_tree({"a": two, "b": one})
    assert digests.of_tree({"b": two, "a": one}) == digests.of_tree({"a": one, "b": two})
