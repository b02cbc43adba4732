"""The loop visits every row exactly once a pass, whatever the batch size, the streams and the backend."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from camu_jax import loop, models
from camu_jax.loop import Stream
from tests.helpers import assert_close


def log_step(state, *batches, key):
    """Writes the rows it sees, one log a stream, and the bits of its key."""
    logs, ends, keys, count = state
    logs = [jax.lax.dynamic_update_slice(a, b, (e,)) for a, b, e in zip(logs, batches, ends, strict=True)]
    ends = [e + len(b) for b, e in zip(batches, ends, strict=True)]
    keys = keys.at[count].set(jax.random.bits(key))
    return (logs, ends, keys, count + 1), {"sizes": jnp.array([len(b) for b in batches])}


def visits(*streams, key, steps=200, **options):
    """The rows that each stream gave, in order, the keys' bits, and the number of steps."""
    logs = [jnp.full(1000, -1, jnp.int32) for _ in streams]
    state = (logs, [jnp.int32(0) for _ in streams], jnp.zeros(steps, jnp.uint32), jnp.int32(0))
    logs, ends, keys, count = loop.run(log_step, state, *streams, key=key, **options)
    return [np.asarray(log)[: int(end)] for log, end in zip(logs, ends, strict=True)], keys[: int(count)].tolist()


def rows(n, batch_size, **options):
    return Stream(jnp.arange(n, dtype=jnp.int32), batch_size, **options)


@pytest.mark.parametrize("scan", [False, True])
@pytest.mark.parametrize(("n", "batch_size"), [(1, 1), (5, 8), (6, 3), (7, 3), (150, 2), (133, 2)])
def test_every_pass_visits_every_row_once(key, n, batch_size, scan):
    (log,), keys = visits(rows(n, batch_size), key=key, epochs=2, scan=scan)
    assert len(log) == 2 * n and len(keys) == 2 * -(-n // batch_size)
    for epoch in np.split(log, 2):
        assert sorted(epoch) == list(range(n))
    if n > 5:
        assert (log[:n] != log[n:]).any() and (log[:n] != np.arange(n)).any()


def test_the_ragged_last_batch_is_kept(key):
    sizes = []
    visits(rows(7, 3), key=key, epochs=2, progress=lambda heard: sizes.append(int(heard.metrics["sizes"][0])))
    assert sizes == [3, 3, 1, 3, 3, 1]


def test_the_other_streams_go_along_again_and_again(key):
    (first, short, long), _ = visits(rows(9, 3), rows(4, 2), rows(100, 5), key=key, epochs=2)
    assert len(first) == 18 and len(long) == 30
    for epoch in np.split(short, 2):  # three batches: one pass and a half
        assert sorted(epoch[:4]) == [0, 1, 2, 3] and len(set(epoch[4:6])) == 2
    for epoch in np.split(long, 2):
        assert len(set(epoch)) == 15


def test_a_ragged_end_within_a_longer_run(key):
    (first, other), _ = visits(rows(8, 2), rows(3, 2), key=key, epochs=1)
    assert sorted(first) == list(range(8)) and len(other) == 6
    assert sorted(other[:3]) == sorted(other[3:]) == [0, 1, 2]


def test_without_shuffling_rows_come_in_order(key):
    (log, other), _ = visits(rows(5, 2, shuffle=False), rows(2, 1, shuffle=False), key=key, epochs=2)
    assert log.tolist() == [0, 1, 2, 3, 4] * 2 and other.tolist() == [0, 1, 0] * 2


@pytest.mark.parametrize("scan", [False, True])
def test_a_subset_visits_its_own_rows_only(key, scan):
    subset = jnp.array([90, 3, 50, 7, 11])
    (log,), _ = visits(rows(100, 2, subset=subset), key=key, epochs=3, scan=scan)
    assert all(sorted(epoch) == [3, 7, 11, 50, 90] for epoch in np.split(log, 3))
    assert len(rows(100, 2, subset=subset)) == 5 and rows(100, 2, subset=subset).batches == 3


def test_subsets_of_the_same_rows_share_one_program(key):
    traced = []

    def step(state, batch, *, key):
        traced.append(len(batch))
        return state + batch.sum(), {}

    for subset, total in ((jnp.arange(4), 6), (jnp.arange(10, 16), 75)):
        stream = rows(30, 2, subset=subset)
        assert int(loop.run(step, jnp.int32(0), stream, key=key, epochs=1, scan=False)) == total
    assert traced == [2]


def test_the_key_alone_decides(key):
    first, same, other = (visits(rows(20, 3), rows(9, 2), key=k, epochs=2) for k in (key, key, jax.random.key(1)))
    for a, b, c in zip(first[0], same[0], other[0], strict=True):
        assert (a == b).all() and (a != c).any()
    assert first[1] == same[1] != other[1]


def test_every_step_has_its_own_key(key):
    _, keys = visits(rows(30, 2), key=key, epochs=3)
    assert len(set(keys)) == 45


def test_no_step_draws_what_the_order_drew(key):
    """Epochs of as many steps as rows; a step permutes the rows by its key as it is, and by its first child."""

    def step(state, batch, *, key):
        drawn = jnp.stack([jax.random.permutation(k, 9) for k in (key, jax.random.split(key, 1)[0])])
        log, tables, count = state
        return (log.at[count].set(batch[0]), tables.at[count].set(drawn), count + 1), {}

    state = jnp.zeros(18, jnp.int32), jnp.zeros((18, 2, 9), jnp.int32), jnp.int32(0)
    log, tables, _ = loop.run(step, state, rows(9, 1), key=key, epochs=2)
    drawn = {tuple(row) for row in tables.reshape(-1, 9).tolist()}
    assert len(drawn) == 36 and drawn.isdisjoint(tuple(order) for order in log.reshape(2, 9).tolist())


def test_a_later_epoch_goes_on_with_the_earlier_run(key):
    (whole,), keys = visits(rows(9, 2), key=key, epochs=3)
    (rest,), rest_keys = visits(rows(9, 2), key=key, epochs=2, first_epoch=1)
    assert whole[9:].tolist() == rest.tolist() and keys[5:] == rest_keys


@pytest.mark.parametrize("scan", [False, True])
@pytest.mark.parametrize(("max_steps", "expected"), [(0, 0), (1, 1), (10, 10), (70, 70), (76, 76), (500, 150)])
def test_max_steps(key, scan, max_steps, expected):
    (log,), keys = visits(rows(150, 2), key=key, epochs=2, scan=scan, max_steps=max_steps)
    assert len(keys) == expected and log.tolist() == visits(rows(150, 2), key=key, epochs=2)[0][0][: len(log)].tolist()


def test_zero_epochs_return_the_state(key):
    (log,), keys = visits(rows(5, 2), key=key, epochs=0)
    assert len(log) == 0 and keys == []


@pytest.mark.parametrize("scan", [False, True])
def test_progress_counts_to_the_end(key, scan):
    heard = []
    visits(rows(140, 2), key=key, epochs=2, scan=scan, progress=heard.append)
    assert {p.steps for p in heard} == {140}
    expected = [64, *range(65, 71), 134, *range(135, 141)] if scan else list(range(1, 141))
    assert [p.step for p in heard] == expected


def test_progress_of_a_part_counts_on(key):
    heard = []
    visits(rows(4, 2), key=key, epochs=1, progress=loop.part(heard.append, 10, 12))
    assert [(p.step, p.steps) for p in heard] == [(11, 12), (12, 12)] and loop.part(None, 10, 12) is None


@functools.cache
def descent():
    """One step of linear regression with momentum: matrix products only."""
    optimizer = optax.sgd(0.02, momentum=0.9)

    def step(state, batch, *, key):
        w, opt_state = state
        x, y = batch

        def loss_fn(w):
            return jnp.mean((x @ w - y + 0.1 * jax.random.normal(key, y.shape)) ** 2)

        loss, gradient = jax.value_and_grad(loss_fn)(w)
        updates, opt_state = optimizer.update(gradient, opt_state, w)
        return (optax.apply_updates(w, updates), opt_state), {"loss": loss}

    return step, optimizer


def test_scanning_changes_nothing(key):
    step, optimizer = descent()
    x = jnp.asarray(np.random.default_rng(0).normal(size=(200, 4)), jnp.float32)
    stream, w = Stream((x, x @ jnp.arange(4.0)), 3), jnp.zeros(4)
    losses = {False: [], True: []}
    found = {
        scan: loop.run(
            step,
            (w, optimizer.init(w)),
            stream,
            key=key,
            epochs=2,
            scan=scan,
            progress=lambda heard, scan=scan: losses[scan].append((heard.step, float(heard.metrics["loss"]))),
        )
        for scan in (False, True)
    }
    assert_close(found[True], found[False])
    assert_close(losses[True], [losses[False][step - 1] for step, _ in losses[True]])
    assert float(jnp.abs(found[False][0] - jnp.arange(4.0)).max()) < 0.2


@pytest.mark.parametrize(
    ("conv", "scans"),
    [(None, True), (models.convolve, models.missing() is None), (jax.lax.conv_general_dilated, False)],
    ids=["none", "ours", "xla"],
)
def test_small_steps_without_convolutions_of_xla_are_scanned_on_the_cpu(key, conv, scans):
    layer = None if conv is None else nn.Conv(1, (3, 3), use_bias=False, conv_general_dilated=conv)

    def step(kernel, x, *, key):
        def loss(kernel):
            y = x * kernel.sum() if layer is None else layer.apply({"params": {"kernel": kernel}}, x)
            return (y**2).mean()

        return kernel - 0.1 * jax.grad(loss)(kernel), {}

    stream = Stream(jnp.asarray(np.random.default_rng(0).normal(size=(80, 4, 4, 1)), jnp.float32), 2)
    kernel, heard = jnp.ones((3, 3, 1, 1)), []
    found = loop.run(step, kernel, stream, key=key, epochs=1, progress=lambda progress: heard.append(progress.step))
    assert heard == ([16, 32, *range(33, 41)] if scans else list(range(1, 41)))
    assert_close(found, loop.run(step, kernel, stream, key=key, epochs=1, scan=False))


def test_large_steps_are_not_scanned_on_the_cpu(key):
    """So that a listener hears of them one by one."""

    def step(total, batch, *, key):
        return total + jnp.broadcast_to(batch, (loop._LIGHT,)).sum(), {}

    heard = []
    stream = Stream(jnp.ones(20), 1)
    loop.run(step, jnp.zeros(()), stream, key=key, epochs=1, progress=lambda progress: heard.append(progress.step))
    assert heard == list(range(1, 21))


def test_the_first_state_survives_donation(key):
    step, optimizer = descent()
    w = jnp.zeros(4)
    state = (w, optimizer.init(w))
    loop.run(step, state, Stream((jnp.ones((5, 4)), jnp.ones(5)), 2), key=key, epochs=1)
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(state))


def test_a_state_that_is_given_away_is_not_copied(key):
    step, optimizer = descent()

    def run(**options):
        w = jnp.zeros(4)
        state = (w, optimizer.init(w))
        stream = Stream((jnp.ones((5, 4)), jnp.ones(5)), 2)
        return w, loop.run(step, state, stream, key=key, epochs=1, **options)

    (kept, copied), (given, donated) = run(), run(donate=True)
    assert given.is_deleted() and not kept.is_deleted()
    jax.tree.map(np.testing.assert_array_equal, donated, copied)


@pytest.mark.parametrize(
    ("streams", "epochs", "message"),
    [
        ([rows(5, 2)], -1, "epochs is -1"),
        ([rows(5, 0)], 1, r"streams\[0\].batch_size is 0"),
        ([rows(5, 2), rows(5, -1)], 1, r"streams\[1\].batch_size is -1"),
        ([rows(0, 2)], 1, r"rows of streams\[0\] is 0"),
        ([rows(5, 2), rows(5, 2, subset=jnp.arange(0))], 1, r"rows of streams\[1\] is 0"),
    ],
)
def test_errors(key, streams, epochs, message):
    with pytest.raises(ValueError, match=message):
        visits(*streams, key=key, epochs=epochs)


def test_where_the_loop_runs():
    """Where programs run that are called now, whichever device comes first."""
    with jax.default_device(jax.devices("cpu")[1]):
        assert loop.on_cpu()
    assert loop.on_cpu() == (jax.default_backend() == "cpu")


def test_rows_in_host_memory_give_the_same(key, tmp_path):
    """NumPy arrays, memory-mapped ones as well, beside rows on the device."""
    np.save(tmp_path / "rows.npy", np.arange(7, dtype=np.int32))
    mapped = np.load(tmp_path / "rows.npy", mmap_mode="r")
    subset = jnp.array([0, 2, 3, 6])
    expected = visits(rows(7, 3), rows(9, 2), rows(7, 2, subset=subset), key=key, epochs=2)
    streams = Stream(mapped, 3), rows(9, 2), Stream(np.asarray(mapped), 2, subset=subset)
    assert [stream.in_host_memory for stream in streams] == [True, False, True]
    found = visits(*streams, key=key, epochs=2, scan=True)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_the_largest_array_says_where_rows_lie(key):
    """Labels of NumPy beside images on the device: they go along; the other way round each minibatch is sent."""
    images, labels = np.arange(14, dtype=np.float32).reshape(7, 2), np.arange(7, dtype=np.float32)

    def step(total, batch, *, key):
        return total + (batch["x"].sum(1) * batch["y"]).sum(), {}

    found = []
    for x, y in ((images, labels), (jnp.asarray(images), labels), (images, jnp.asarray(labels))):
        stream = Stream({"x": x, "y": y}, 2)
        assert stream.in_host_memory == isinstance(x, np.ndarray)
        found.append(loop.run(step, jnp.zeros(()), stream, key=key, epochs=2))
    np.testing.assert_allclose(found, 2 * (images.sum(1) * labels).sum())


@pytest.mark.parametrize("kept_at", [1, 5, 8, 10, 13, 19, 20])
def test_a_run_goes_on_within_what_is_now_one_program(key, kept_at, monkeypatch):
    """A state may have been kept by a machine that puts other numbers of steps into a program."""
    monkeypatch.setattr(loop, "_SCAN", 4)
    stream = Stream(jnp.arange(20), 2)

    def step(count, batch, *, key):
        return count + 1, {}

    class Kept:
        def restore(self, run, state):
            return jnp.int32(kept_at), kept_at

        def keep(self, run, state, step, steps):
            assert int(state) == step <= steps == 20

    with loop.keeping(Kept()):
        assert loop.run(step, jnp.int32(0), stream, key=key, epochs=2, scan=True) == 20


@pytest.mark.parametrize("scan", [False, True])
def test_an_epoch_reads_nothing_back_and_sends_no_rows(key, scan, monkeypatch):
    """Traced, its values cannot be read. Its programs get from the host where batches begin, and step numbers."""
    monkeypatch.setattr(loop, "_SCAN", 4)

    def step(total, batch, other, *, key):
        return total + batch.sum() + other.sum(), {"total": total}

    images, heard, sent = jnp.ones((20, 28, 28)), [], []

    def run(total, key):
        stream, other = Stream(images, 2), Stream(images, 4)
        return loop.run(step, total, stream, other, key=key, epochs=2, scan=scan, progress=heard.append)

    jax.eval_shape(run, jnp.float32(0), key)
    assert len(heard) == (8 if scan else 20) and all(isinstance(h.metrics["total"], jax.core.Tracer) for h in heard)

    for name in ("_single", "_scanned"):
        jitted = getattr(loop, name)

        def listening(step, sizes, *args, jitted=jitted):
            sent.append([leaf.nbytes for leaf in jax.tree.leaves(args) if not isinstance(leaf, jax.Array)])
            return jitted(step, sizes, *args)

        monkeypatch.setattr(loop, name, listening)
    run(jnp.float32(0), key)
    assert sum(map(sum, sent)) == 20 * 3 * 4  # of each step two starts and a number, int32
