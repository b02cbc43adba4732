"""Algorithm 1: its guarantees for every key, and what it refuses."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from camu_jax import Examples, make_tuples
from camu_jax.tuples import draw_labels, draw_rows
from tests.helpers import differ, examples

RULES = ("uniform", "retain")


def is_uniform(counts):
    """Whether counts pass a chi-square test; a fair draw fails it in far fewer than 1 of 10 000 cases."""
    expected, df = counts.sum() / counts.size, counts.size - 1
    return ((counts - expected) ** 2 / expected).sum() < df + 5 * np.sqrt(2 * df) + 5


@given(
    n=st.sampled_from([1, 2, 5]),  # few sizes: each is compiled
    m=st.sampled_from([1, 3, 7]),
    c=st.integers(2, 12),
    seed=st.integers(0, 2**31 - 1),
    labels=st.sampled_from(RULES),
    replace=st.booleans(),
)
def test_guarantees(n, m, c, seed, labels, replace):
    F, R = examples(seed, n, classes=c), examples(seed + 1, m, classes=c)
    S = make_tuples(jax.random.key(seed), F, R, labels=labels, replace=replace)
    chex.assert_trees_all_equal(S.forget, F)
    chex.assert_trees_all_equal_shapes_and_dtypes(S.counterfactual, S.retain, F)
    rows = [int(np.flatnonzero((np.asarray(R.x) == x).all((1, 2, 3)))[0]) for x in np.asarray(S.retain.x)]
    assert (np.asarray(S.retain.y) == np.asarray(R.y)[rows]).all()
    mask = np.asarray(S.counterfactual.x, np.float64) - np.asarray(S.retain.x, np.float64)
    assert mask.min() >= -1e-6 and mask.max() <= 1 + 1e-6 and mask.std() > 0.1
    y_star = np.asarray(S.counterfactual.y)
    assert (y_star != np.asarray(F.y)).all() and y_star.min() >= 0 and y_star.max() < c
    if labels == "retain":
        kept = np.asarray(S.retain.y) != np.asarray(F.y)
        assert (y_star[kept] == np.asarray(S.retain.y)[kept]).all()
    if not replace:
        times = np.bincount(rows, minlength=m)
        assert times.max() - times.min() <= 1


def test_a_lone_other_class_is_always_drawn(key):
    y = jnp.array([0, 1] * 50)
    chex.assert_trees_all_equal(draw_labels(key, y, y, 2, labels="uniform"), 1 - y)


@pytest.mark.parametrize("rule", RULES)
def test_labels_are_uniform_over_the_others(key, rule):
    y_f = jnp.repeat(jnp.arange(5), 2000)
    drawn = draw_labels(key, y_f, y_f, 5, labels=rule)  # the rule `retain` draws where y_r = y_f
    table = np.zeros((5, 5))
    np.add.at(table, (np.asarray(y_f), np.asarray(drawn)), 1)
    assert (np.diag(table) == 0).all()
    assert all(is_uniform(np.delete(row, i)) for i, row in enumerate(table))


def test_rows_of_the_retain_set_are_drawn_uniformly(key):
    drawn = draw_rows(key, 5000, 10, replace=True)
    chex.assert_type(drawn, jnp.int32)
    assert is_uniform(np.bincount(drawn, minlength=10))


def test_masks_are_uniform_over_the_unit_interval(key):
    F = examples(0, 600)
    S = make_tuples(key, F, F)
    assert is_uniform(np.histogram(S.counterfactual.x - S.retain.x, 8, (0, 1))[0])


def test_the_test_of_uniformity_notices_a_biased_draw():
    rng = np.random.default_rng(0)
    moved = np.maximum(rng.integers(0, 5, 2000), 1)  # a draw of y_f itself moved to its neighbour
    smaller = rng.integers(0, 10, (2, 5000)).min(0)
    scaled = 0.95 * rng.random(9600)
    assert not is_uniform(np.bincount(moved)[1:]) and not is_uniform(np.bincount(smaller))
    assert not is_uniform(np.histogram(scaled, 8, (0, 1))[0])
    assert is_uniform(np.bincount(rng.integers(0, 10, 5000)))


def test_without_replacement_every_row_comes_before_any_repeats(key):
    drawn = np.asarray(draw_rows(key, 25, 10, replace=False))
    assert sorted(drawn[:10]) == sorted(drawn[10:20]) == list(range(10)) and len(set(drawn[20:])) == 5
    assert (drawn[:10] != drawn[10:20]).any() and (drawn[:10] != np.arange(10)).any() and drawn.dtype == np.int32


@pytest.mark.parametrize(("labels", "replace"), [("uniform", True), ("retain", False)])
def test_jit_and_vmap_equal_eager(key, labels, replace):
    F, R, keys = examples(0, 5), examples(1, 3), jax.random.split(key, 2)

    def prepare(k, F, R):
        return make_tuples(k, F, R, labels=labels, replace=replace)

    eager = [prepare(k, F, R) for k in keys]
    chex.assert_trees_all_equal(jax.jit(prepare)(keys[0], F, R), eager[0])
    together = jax.vmap(prepare, in_axes=(0, None, None))(keys, F, R)
    chex.assert_trees_all_equal(together, jax.tree.map(lambda *a: jnp.stack(a), *eager))


def test_the_key_alone_decides(key):
    F = examples(0, 600)
    first, same, other = (make_tuples(k, F, F) for k in (key, key, jax.random.key(1)))
    chex.assert_trees_all_equal(first, same)
    assert differ(first.counterfactual.x - first.retain.x, other.counterfactual.x - other.retain.x)
    assert differ(first.retain, other.retain) and differ(first.counterfactual.y, other.counterfactual.y)


def test_the_images_dtype_is_kept(key):
    F = examples(0, 5)
    F = Examples(F.x.astype(jnp.bfloat16), F.y, F.num_classes)
    chex.assert_type(make_tuples(key, F, F).counterfactual.x, jnp.bfloat16)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int64])
@pytest.mark.parametrize("labels", RULES)
def test_labels_of_every_integer_type(key, dtype, labels):
    """100 classes: the sum of two labels does not fit into a signed byte."""
    F = Examples(np.zeros((3000, 1), np.float32), np.full(3000, 99, dtype), 100)
    S = make_tuples(key, F, F, labels=labels)
    assert S.counterfactual.y.dtype == S.forget.y.dtype
    assert is_uniform(np.bincount(S.counterfactual.y, minlength=100)[:99])
    assert (S.counterfactual.y != 99).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_numpy_arrays_are_examples_too(key, dtype):
    F, R = (jax.tree.map(np.asarray, examples(seed, 5)) for seed in (0, 1))
    expected = make_tuples(key, F, R)
    F, R = (Examples(part.x.astype(dtype), part.y.astype(np.int64), part.num_classes) for part in (F, R))
    chex.assert_trees_all_equal(make_tuples(key, F, R), expected)
    batched = jax.vmap(lambda k: make_tuples(k, F, R))(key[None])
    chex.assert_trees_all_equal(jax.tree.map(lambda a: a[0], batched), expected)


def test_of_a_retain_set_in_host_memory_only_the_drawn_rows_are_read(key):
    class Counting(np.ndarray):
        read = 0

        def __getitem__(self, rows):
            found = super().__getitem__(rows)
            if isinstance(rows, np.ndarray):  # slices are looked at whether they are finite
                Counting.read += found.size
            return found

    F, R = examples(0, 2), jax.device_get(examples(1, 200))
    expected = make_tuples(key, F, R)
    counted = dataclasses.replace(R, x=R.x.view(Counting))
    chex.assert_trees_all_equal(make_tuples(key, F, counted), expected)
    chex.assert_trees_all_equal(make_tuples(key, F, jax.device_put(R)), expected)
    assert Counting.read == F.x.size


def test_examples_by_row():
    D = examples(0, 6)
    for rows in (jnp.array([4, 1]), np.arange(6) > 3, slice(2, 5)):
        chex.assert_trees_all_equal(D[rows], Examples(D.x[rows], D.y[rows], D.num_classes))
    assert len(D) == 6 and len(D[:2]) == 2


X, Y = np.zeros((4, 2, 2, 1), np.float32), np.array([0, 1, 2, 0], np.int32)
NAN = X.copy()
NAN[2, 0, 0] = np.nan
BAD = {
    "list": (dict(x=[1.0]), TypeError, "x is a list"),
    "label list": (dict(y=[1]), TypeError, "y is a list"),
    "stored images": (dict(x=X.astype(np.uint8)), TypeError, "x.* uint8"),
    "tokens": (dict(x=X.astype(np.int32)), TypeError, "x.* int32"),
    "float labels": (dict(y=Y.astype(np.float32)), TypeError, "y has dtype float32"),
    "bool labels": (dict(y=Y > 0), TypeError, "y has dtype bool"),
    "one pixel": (dict(x=X[:, 0, 0, 0]), ValueError, r"x has shape \(4,\)"),
    "one-hot labels": (dict(y=np.eye(4, dtype=np.int32)), ValueError, r"y has shape \(4, 4\)"),
    "lengths": (dict(y=Y[:3]), ValueError, "x holds 4 examples and [FR].y 3 labels"),
    "empty": (dict(x=X[:0], y=Y[:0]), ValueError, " is empty"),
    "negative label": (dict(y=Y - 1), ValueError, "y holds the label -1"),
    "large label": (dict(y=Y + 1), ValueError, "y holds the label 3; allowed: 0 to 2"),
    "NaN": (dict(x=NAN), ValueError, r"x holds NaN or infinity \(first in example 2\)"),
    "infinity": (dict(x=X + np.float32(np.inf)), ValueError, r"x holds NaN or infinity \(first in example 0\)"),
    "one class": (dict(y=Y * 0, num_classes=1), ValueError, "num_classes is 1; allowed: 2 or more"),
    "float classes": (dict(num_classes=3.0), TypeError, "num_classes is 3.0"),
    "byte labels": (dict(y=Y.astype(np.int8), num_classes=200), ValueError, "num_classes is 200.*int8"),
}


@pytest.mark.parametrize("which", ["F", "R"])
@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_by_name(key, case, which):
    changes, error, message = BAD[case]
    good, bad = Examples(X, Y, 3), Examples(**{"x": X, "y": Y, "num_classes": 3, **changes})
    F, R = (bad, good) if which == "F" else (good, bad)
    with pytest.raises(error, match=f"{which}.?{message}") as raised:
        make_tuples(key, F, R)
    assert "; allowed: " in str(raised.value)


OTHER = [
    (
        Examples(X[:, :1], Y, 3),
        ValueError,
        r"images of F have shape \(2, 2, 1\) and of R \(1, 2, 1\); allowed: the same",
    ),
    (Examples(X, Y, 4), ValueError, "num_classes of F is 3 and of R 4; allowed: the same"),
    (Examples(X.astype(np.float16), Y, 3), TypeError, "F.x has dtype float32 and R.x float16; allowed: the same"),
]


@pytest.mark.parametrize(("other", "error", "message"), OTHER)
@pytest.mark.parametrize("jit", [False, True])
def test_parts_that_do_not_match_are_refused(key, other, error, message, jit):
    with pytest.raises(error, match=message):
        (jax.jit(make_tuples) if jit else make_tuples)(key, Examples(X, Y, 3), other)


def test_an_unknown_label_rule_is_refused(key):
    with pytest.raises(ValueError, match="labels is 'other'; allowed: uniform, retain"):
        make_tuples(key, Examples(X, Y, 3), Examples(X, Y, 3), labels="other")
