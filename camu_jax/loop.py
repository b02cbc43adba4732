"""The one minibatch loop: it alone knows about epochs, shuffling, batches, ragged ends, backends and progress."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from camu_jax import _validate, parallel

State = TypeVar("State")
_SCAN = 64  # steps in one XLA program where the loop scans


Step = Callable[..., tuple[Any, dict[str, jax.Array]]]
"""`step(state, *batches, key=key) -> (state, metrics)`; pure, one batch for every stream."""


@dataclasses.dataclass(frozen=True)
class Stream:
    """Where a step's batches come from.

    Attributes:
      rows: a pytree of arrays with the same leading length N: JAX arrays, on the device, or NumPy arrays (memory-mapped
        ones as well), of which each minibatch is sent when its turn comes.
      batch_size: rows in a batch; the last batch of a pass holds what is left, none is dropped.
      shuffle: whether each pass has a new order.
      subset: numbers of the rows to use, `[N']`; None is all. Subsets of the same rows share one compiled program.
    """

    rows: Any
    batch_size: int
    shuffle: bool = True
    subset: jax.Array | None = None

    def __len__(self) -> int:
        return jax.tree.leaves(self.rows)[0].shape[0] if self.subset is None else len(self.subset)

    @property
    def batches(self) -> int:
        """Batches in one pass."""
        return -(-len(self) // self.batch_size)


@dataclasses.dataclass(frozen=True)
class Progress:
    """What the loop tells its listener. `metrics` are on the device: reading them waits for the step."""

    step: int
    steps: int
    metrics: dict[str, jax.Array]


Listener = Callable[[Progress], None]


def part(progress: Listener | None, done: int, steps: int) -> Listener | None:
    """The listener of one of several runs, which counts on after `done` of all `steps`."""
    if progress is None:
        return None
    return lambda heard: progress(Progress(done + heard.step, steps, heard.metrics))


def run(
    step: Step,
    state: State,
    *streams: Stream,
    key: jax.Array,
    epochs: int,
    first_epoch: int = 0,
    max_steps: int | None = None,
    progress: Listener | None = None,
    scan: bool | None = None,
    donate: bool = False,
) -> State:
    """Runs `step` over minibatches.

    An epoch is one pass over the first stream; the others go along, passing over their rows again and again. The
    order of every pass and the key of every step depend on `key` and the step's position alone.

    Args:
      step: a pure function, the same object for the same method, so that it compiles once.
      state: the first state; copied, so that it outlives the first step, unless `donate`.
      *streams: one for every batch that `step` takes.
      key: a `jax.random` key; consumed.
      epochs: passes over the first stream.
      first_epoch: the number of the first of them, for a run that goes on with an earlier one's key.
      max_steps: stop after so many steps, for timing; None runs every epoch to its end.
      progress: called after every step (after every chunk of steps where the loop scans).
      scan: whether many steps are one XLA program. None scans on accelerators, where it removes launch gaps, and not
        on the CPU, where XLA runs convolutions inside a loop ten times slower.
      donate: whether the state's buffers are given away, which saves a copy; nothing else may use them.

    Returns:
      The last state.

    Raises:
      ValueError: `epochs` is negative, a stream is empty, or a batch size is not positive.
    """
    _validate.at_least(0, epochs=epochs)
    for i, stream in enumerate(streams):
        _validate.at_least(1, **{f"streams[{i}].batch_size": stream.batch_size, f"rows of streams[{i}]": len(stream)})
    sent = any(isinstance(leaf, np.ndarray) for stream in streams for leaf in jax.tree.leaves(stream.rows))
    scan = not sent and (jax.default_backend() != "cpu" if scan is None else scan)
    state = state if donate else jax.tree.map(jnp.copy, state)
    data = tuple(stream.rows for stream in streams)
    count, total = streams[0].batches, epochs * streams[0].batches
    plans = [_plan(stream, count) for stream in streams]
    for epoch in range(epochs):
        left = count if max_steps is None else min(count, max(0, max_steps - epoch * count))
        chunks = _chunks([plan[:left] for plan in plans], _SCAN if scan else 1)
        epoch_key = jax.random.fold_in(key, first_epoch + epoch)
        orders: tuple[Any, ...] = tuple(
            _orders(jax.random.fold_in(epoch_key, i), s, count) for i, s in enumerate(streams)
        )
        if sent:
            orders = jax.tree.map(np.asarray, orders)
        for first, last in chunks:
            starts = np.array([[plan[k][0] for plan in plans] for k in range(first, last)], np.int32)
            sizes = tuple(plan[first][1] for plan in plans)
            steps = np.arange(first, last, dtype=np.int32)
            if sent:
                batches = _gather(data, orders, starts[0], sizes)
                state, metrics = _sent(step, state, batches, steps[0], epoch_key)
            else:
                advance = _scanned if last - first > 1 else _single
                state, metrics = advance(step, sizes, state, data, orders, starts, steps, epoch_key)
            if progress is not None:
                progress(Progress(epoch * count + last, total, metrics))
    return state


def _orders(key: jax.Array, stream: Stream, count: int) -> jax.Array:
    """The row numbers of as many passes as `count` batches need, `[passes * N]`."""
    n, passes = len(stream), -(-count // stream.batches)
    if stream.shuffle:
        order = jnp.concatenate([_permutation(k, n) for k in jax.random.split(key, passes)])
    else:
        order = jnp.tile(jnp.arange(n), passes)
    if stream.subset is None:
        return order
    total = jax.tree.leaves(stream.rows)[0].shape[0]
    return jnp.pad(stream.subset[order], (0, passes * (total - n)))  # one shape for all subsets; the end is not read


@functools.partial(jax.jit, static_argnums=1)
def _permutation(key: jax.Array, n: int) -> jax.Array:
    return jax.random.permutation(key, n)


def _plan(stream: Stream, count: int) -> list[tuple[int, int]]:
    """Start and size of each of `count` batches within the stream's orders."""
    n, b = len(stream), stream.batch_size
    at = [divmod(k, stream.batches) for k in range(count)]
    return [(p * n + j * b, min(b, n - j * b)) for p, j in at]


def _chunks(plans: list[list[tuple[int, int]]], most: int) -> list[tuple[int, int]]:
    """Splits the steps into runs of `most` steps of equal batch sizes; what does not fill one goes step by step."""
    sizes = [tuple(size for _, size in batch) for batch in zip(*plans, strict=True)]
    chunks, k = [], 0
    while k < len(sizes):
        whole = sizes[k : k + most] == [sizes[k]] * most
        chunks.append((k, k + most if whole else k + 1))
        k = chunks[-1][1]
    return chunks


def _gather(data: Any, orders: Any, start: Any, sizes: tuple[int, ...]) -> list[Any]:
    """One batch of each stream: on the device within `jax.jit`, else where the rows are."""
    batches = []
    picked: Any
    for i, (rows, order) in enumerate(zip(data, orders, strict=True)):
        if isinstance(order, np.ndarray):
            picked = order[start[i] : start[i] + sizes[i]]
        else:
            picked = jax.lax.dynamic_slice(order, (start[i],), (sizes[i],))
        batches.append(jax.tree.map(lambda a, picked=picked: a[picked], rows))
    return batches


def _call(step: Step, state: Any, batches: Any, number: Any, key: jax.Array) -> tuple[Any, dict[str, jax.Array]]:
    """One step, its batches split over the devices of the active mesh."""
    return parallel.replicate(step(state, *parallel.split(batches), key=jax.random.fold_in(key, number)))


@functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
def _sent(step, state, batches, number, key):  # type: ignore[no-untyped-def]
    return _call(step, state, batches, number, key)


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=2)
def _single(step, sizes, state, data, orders, starts, numbers, key):  # type: ignore[no-untyped-def]
    return _call(step, state, _gather(data, orders, starts[0], sizes), numbers[0], key)


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=2)
def _scanned(step, sizes, state, data, orders, starts, numbers, key):  # type: ignore[no-untyped-def]
    def body(state, at):  # type: ignore[no-untyped-def]
        start, number = at
        return _call(step, state, _gather(data, orders, start, sizes), number, key)

    state, metrics = jax.lax.scan(body, state, (starts, numbers))
    return state, jax.tree.map(lambda m: m[-1], metrics)
