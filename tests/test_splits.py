"""Two parts that are disjoint and together everything, whichever way the rows are named."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from camu_jax import Examples
from camu_jax.splits import random_rows, split

N = 12
D = Examples(np.arange(N, dtype=np.float32).reshape(N, 1), np.arange(N) % 5, 5)


@given(st.sampled_from([1, 4, N - 1]), st.permutations(range(N)))  # few sizes: each is compiled
def test_the_parts_are_disjoint_and_together_everything_in_order(size, order):
    rows = order[:size]
    mask = np.isin(np.arange(N), rows)
    chosen, others = split(D, rows)
    assert chosen.x[:, 0].tolist() == sorted(rows) and others.x[:, 0].tolist() == np.flatnonzero(~mask).tolist()
    for part in (chosen, others):
        assert part.y.tolist() == [int(i) % 5 for i in part.x[:, 0]] and part.num_classes == 5
    for same in (tuple(rows), np.array(rows, np.uint8), jnp.array(rows), mask, mask.tolist(), jnp.asarray(mask)):
        chex.assert_trees_all_equal(split(D, same), (chosen, others))


def test_examples_in_host_memory_stay_there_and_those_on_the_device_too():
    for place in (np.asarray, jnp.asarray):
        here = jax.tree.map(place, D)
        assert all(type(leaf) is type(here.x) for leaf in jax.tree.leaves(split(here, [3, 1])))


@pytest.mark.parametrize(
    ("rows", "error", "message"),
    [
        ([], ValueError, "rows chooses 0 of 12 examples; allowed: 1 to 11"),
        (np.zeros(N, bool), ValueError, "rows chooses 0 of 12 examples; allowed: 1 to 11"),
        (range(N), ValueError, "rows chooses 12 of 12 examples; allowed: 1 to 11"),
        (np.ones(N, bool), ValueError, "rows chooses 12 of 12"),
        ([12], ValueError, "rows holds 12; allowed: 0 to 11"),
        ([3, -1], ValueError, "rows holds -1; allowed: 0 to 11"),
        ([2, 5, 2], ValueError, "rows holds 2 twice; allowed: each row once"),
        (np.array([2**64 - 1], np.uint64), ValueError, "rows holds 18446744073709551615; allowed: 0 to 11"),
        ([[1, 2]], ValueError, r"rows has shape \(1, 2\); allowed: one list of row numbers, or a boolean mask"),
        (3, ValueError, r"rows has shape \(\)"),
        (np.ones(N - 1, bool), ValueError, r"rows is a mask of shape \(11,\); allowed: \[12\]"),
        ([1.0], TypeError, "rows has dtype float64; allowed: row numbers, or a boolean mask"),
        (["1"], TypeError, "rows has dtype <U1"),
    ],
)
def test_wrong_rows_are_named(rows, error, message):
    with pytest.raises(error, match=message):
        split(D, rows)


@pytest.mark.parametrize("count", [1, 7, N - 1])
def test_random_rows_are_so_many_different_ones(key, count):
    rows = random_rows(key, N, count)
    assert len(rows) == len(set(rows.tolist())) == count and rows.min() >= 0 and rows.max() < N
    np.testing.assert_array_equal(rows, random_rows(key, N, count))
    assert len(split(D, rows)[0]) == count


def test_random_rows_are_drawn_uniformly():
    """600 draws of 3 of 12 rows: each row comes 150 times, give or take a few standard deviations of 10.6."""
    draws = np.concatenate([random_rows(key, N, 3) for key in jax.random.split(jax.random.key(0), 600)])
    assert np.abs(np.bincount(draws, minlength=N) - 150).max() < 5 * 10.6


@pytest.mark.parametrize("count", [0, -1, N, N + 1])
def test_random_rows_leave_no_part_empty(key, count):
    with pytest.raises(ValueError, match=f"count is {count}; allowed: 1 to 11"):
        random_rows(key, N, count)
