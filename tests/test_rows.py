"""Rows that are picked when they are read: the same results as of copies, and no copies."""

import dataclasses
import tracemalloc

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import camu_jax
from camu_jax import Examples, Problem, evaluate, from_linen, make_tuples
from camu_jax.audits import population
from camu_jax.methods import method_of
from camu_jax.rows import Picked, concatenate, in_host_memory, is_mapped, pick
from camu_jax.splits import split
from tests.helpers import CLASSES, SETTINGS, Normed, Plain, arrays, assert_close, examples, fresh

IMAGE, TOTAL = (8, 8, 1), 120
RNG = np.random.default_rng(0)
X, Y = RNG.integers(0, 256, (TOTAL, *IMAGE), np.uint8), RNG.integers(0, CLASSES, TOTAL, np.int32)
MODEL = from_linen(Normed(), IMAGE)
ONE_EPOCH = {
    **{name: settings(epochs=1) for name, settings in SETTINGS.items()},
    "boundary:expand": SETTINGS["boundary"](epochs=1, variant="expand"),
    "bad_teacher:retrained": SETTINGS["bad_teacher"](epochs=1, teachers="retrained", teacher_epochs=1),
    "scrub:rewind": SETTINGS["scrub"](epochs=2, rewind=True),
    "unroll:single_gradient": SETTINGS["unroll"](variant="single_gradient"),
    "camu:paper": SETTINGS["camu"].paper(epochs=1),
}


@pytest.fixture
def mapped(tmp_path):
    """Writes an array to disk and maps it, as `data.load` does for `--stream`: as a plain view of the map."""

    def mapped(array):
        np.save(tmp_path / "array.npy", array)
        return np.asarray(np.load(tmp_path / "array.npy", mmap_mode="r"))

    return mapped


@pytest.mark.parametrize("place", [np.asarray, jnp.asarray], ids=["numpy", "jax"])
@pytest.mark.parametrize(
    "rows", [[3, 1, 1], np.array([5]), jnp.array([2, 0]), np.arange(6) % 2 == 0, slice(1, 5), slice(None, None, -2)]
)
def test_what_is_read_is_what_indexing_gives(place, rows):
    array = place(np.arange(24.0, dtype=np.float32).reshape(6, 4))
    rows = place(rows) if isinstance(rows, list) else rows
    found, expected = pick(array, rows), np.asarray(array)[rows]
    assert found.array is array and isinstance(found[:], type(array))
    assert (found.shape, found.dtype, found.ndim, len(found)) == (expected.shape, expected.dtype, 2, len(expected))
    for read in (found[:], np.asarray(found), jnp.asarray(found), np.stack(list(found))):
        np.testing.assert_array_equal(read, expected)
    for part in (slice(0, 2), place(np.array([0, -1])), place(np.arange(len(found)) == 0)):
        np.testing.assert_array_equal(found[part], expected[part])
        again = pick(found, part)
        assert again.array is array  # never nested
        np.testing.assert_array_equal(again[:], expected[part])


def test_picked_rows_are_a_pytree():
    array, rows = jnp.arange(8.0).reshape(4, 2), jnp.array([[2, 1], [0, 0]])
    many = jax.vmap(lambda r: pick(array, r)[:])(rows)
    np.testing.assert_array_equal(many, np.asarray(array)[np.asarray(rows)])
    np.testing.assert_array_equal(jax.jit(lambda p: p[1:])(pick(array, rows[0])), array[1:2])


def test_parts_of_one_array_are_joined_without_reading_it():
    a, b = np.arange(6), jnp.arange(6)
    joined = concatenate([pick(a, [1, 0]), pick(a, [5])])
    assert joined.array is a and joined[:].tolist() == [1, 0, 5]
    joined = concatenate([pick(b, jnp.array([1, 0])), pick(b, jnp.array([5]))])
    assert joined.array is b and joined[:].tolist() == [1, 0, 5]
    for parts, kind in (([pick(a, [1]), a], np.ndarray), ([pick(a, [1]), b], jax.Array), ([b, b], jax.Array)):
        joined = concatenate(parts)
        assert isinstance(joined, kind) and joined.tolist() == [i for part in parts for i in part[:].tolist()]


def test_a_memory_map_is_shared_by_its_parts_and_by_parts_of_these(mapped):
    images = mapped(X)
    assert is_mapped(images) and is_mapped(images[3:]) and not is_mapped(X) and not is_mapped(jnp.asarray(X))
    train = Examples(images, Y, CLASSES)
    forget, retain = split(train, [7, 3, 90])
    inner, _ = split(retain, [0, 3])
    for part, rows in ((forget, [3, 7, 90]), (retain, np.delete(np.arange(TOTAL), [3, 7, 90])), (inner, [0, 4])):
        assert part.x.array is images and part.x.rows.tolist() == list(rows) and in_host_memory(part.x)
        chex.assert_trees_all_equal(part[:], Examples(X[rows], Y[rows], CLASSES))
    problem = Problem.from_rows(MODEL, fresh(MODEL), train, [3, 7])
    assert problem.forget.x.array is problem.retain.x.array is images


def problems(images):
    """The same problem with copies, and with rows of the training set, both where `images` are."""
    train = Examples(images, jnp.asarray(Y), CLASSES)
    rows = np.arange(TOTAL) % 8 == 0
    copies = train[jnp.flatnonzero(rows)], train[jnp.flatnonzero(~rows)]
    picked = train.pick(jnp.flatnonzero(rows)), train.pick(jnp.flatnonzero(~rows))
    return [Problem(MODEL, fresh(MODEL), *parts) for parts in (copies, picked)]


@pytest.mark.parametrize("place", [np.asarray, jnp.asarray], ids=["numpy", "jax"])
@pytest.mark.parametrize("name", ONE_EPOCH)
@pytest.mark.slow
def test_every_method_ends_as_with_copies(key, name, place):
    copies, picked = problems(place(X))
    expected, found = (camu_jax.unlearn(key, problem, ONE_EPOCH[name]) for problem in (copies, picked))
    chex.assert_trees_all_equal(found, expected)
    chex.assert_trees_all_equal(*(evaluate.outputs(found, p.retain.x, batch_size=50) for p in (copies, picked)))
    chex.assert_trees_all_equal(found(picked.forget.x), found(copies.forget.x))


def largest(jaxpr):
    return max(array.size for array in arrays(jaxpr))


TOGETHER = [name for name, settings in ONE_EPOCH.items() if not method_of(settings).one_by_one(settings)]


@pytest.mark.parametrize("name", TOGETHER)
def test_models_side_by_side_share_one_training_set(key, name):
    """No array of the program of four is as large as the training set alone; with copies one is four times as large."""
    model, total = from_linen(Plain(), IMAGE), 4 * TOTAL
    train = Examples(jnp.tile(X, (4, 1, 1, 1)), jnp.tile(Y, 4), CLASSES)
    rows = jnp.stack([jax.random.permutation(k, total) for k in jax.random.split(key, 4)])

    def program(take):
        def make_one(key, rows):
            problem = Problem(model, fresh(model), take(rows[:8]), take(rows[8:]))
            return camu_jax.unlearn(key, problem, ONE_EPOCH[name]).members

        return jax.make_jaxpr(jax.vmap(make_one))(jax.random.split(key, 4), rows)

    assert largest(program(train.pick).jaxpr) <= 4 * 100 * X[0].size < train.x.size  # 100 at once when it evaluates
    assert largest(program(train.__getitem__).jaxpr) >= 4 * (total - 8) * X[0].size


@pytest.mark.parametrize("name", TOGETHER)
def test_models_side_by_side_are_those_made_one_by_one(key, name):
    train = Examples(jnp.asarray(X), jnp.asarray(Y), CLASSES)
    rows = jnp.stack([jax.random.permutation(k, TOTAL) for k in jax.random.split(key, 2)])

    def make_one(key, rows):
        problem = Problem(MODEL, fresh(MODEL), train.pick(rows[:32]), train.pick(rows[32:]))
        return camu_jax.unlearn(key, problem, ONE_EPOCH[name])

    arguments = list(zip(jax.random.split(key, 2), rows, strict=True))
    together = list(population.make(make_one, arguments, at_once=2))
    for model, alone in zip(together, arguments, strict=True):
        assert_close(model.members, make_one(*alone).members, atol=1e-4)


@pytest.mark.parametrize("name", ONE_EPOCH)
@pytest.mark.slow
def test_streaming_copies_no_memory_map(key, name, mapped):
    """Neither into the host's memory, as NumPy tells `tracemalloc`, nor to the device."""
    images = mapped(np.tile(X, (20, 8, 8, 1)))  # 2 400 images of 4 096 pixels
    model = from_linen(Plain(), images.shape[1:])
    train = Examples(images, np.tile(Y, 20), CLASSES)
    problem = Problem.from_rows(model, jax.jit(model.init)(key), train, range(40))
    held = []

    def listen(told):
        held.append(max(array.nbytes for array in jax.live_arrays() if not array.is_deleted()))

    tracemalloc.start()
    found = camu_jax.unlearn(key, problem, ONE_EPOCH[name], progress=listen)
    jax.block_until_ready(found.members)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < images.nbytes / 2 and max(held) < images.nbytes / 2


def test_make_tuples_of_picked_rows(key):
    F, R = examples(0, 6), examples(1, 9)
    both = Examples(concatenate([F.x, R.x]), concatenate([F.y, R.y]), CLASSES)
    expected = make_tuples(key, F, R)
    for place in (np.asarray, jnp.asarray):
        parts = jax.tree.map(place, both).pick(slice(0, 6)), jax.tree.map(place, both).pick(slice(6, None))
        chex.assert_trees_all_equal(make_tuples(key, *parts), expected)


def test_contents_of_picked_rows_are_looked_at_in_pieces(monkeypatch):
    x = np.zeros((10, 3), np.float32)
    x[7, 1] = np.nan
    monkeypatch.setattr(camu_jax._validate, "_PIECE", 6)
    Examples(x, np.zeros(10, int), 2).pick(slice(0, 7)).validate("part")
    for part, row in ((Examples(x, np.zeros(10, int), 2), 7), (Examples(x, np.zeros(10, int), 2).pick([0, 1, 7]), 2)):
        with pytest.raises(ValueError, match=f"part.x holds NaN or infinity .first in example {row}.; allowed: finite"):
            part.validate("part")
    wrong = dataclasses.replace(Examples(x, np.zeros(10, int), 2), x=Picked([1.0], np.array([0])))
    with pytest.raises(TypeError, match="part.x is a list"):
        wrong.validate("part")
