r"""The one minibatch loop: it alone knows about epochs, shuffling, batches, ragged ends, backends and progress.

    a stream of 5 rows, batch size 2:   [4 1] [0 3] [2]   [1 0] [2 4] [3]   ...
                                        \----- epoch 0 ----/ \--- epoch 1 ---/

Every batch is known by its start within the stream's order and its size, so a compiled step takes the order and the
start as data and the size as a static number: a ragged end compiles a second program, a new epoch none.
"""

import contextlib
import contextvars
import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any, Protocol, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from camu_jax import _validate, parallel
from camu_jax.rows import in_host_memory, is_picked

State = TypeVar("State")
_SCAN = 64  # steps in one XLA program where the loop scans
_SCAN_ON_CPU = 16  # as many as make the launch of a program cheap; a listener hears of each program
_LIGHT = 120_000_000  # numbers that a step computes in about a hundredth of a second


Step = Callable[..., tuple[Any, dict[str, jax.Array]]]
"""`step(state, *batches, key=key) -> (state, metrics)`; pure, one batch for every stream."""


@dataclasses.dataclass(frozen=True)
class Stream:
    """Where a step's batches come from.

    Attributes:
      rows: a pytree of arrays with the same leading length N: JAX arrays, on the device, or NumPy arrays (memory-mapped
        ones as well), of which each minibatch is sent when its turn comes; or `Picked` rows of either. Where they
        differ the largest decides.
      batch_size: rows in a batch; the last batch of a pass holds what is left, none is dropped.
      shuffle: whether each pass has a new order.
      subset: numbers of the rows to use, `[N']`; None is all. Subsets of the same rows share one compiled program.
    """

    rows: Any
    batch_size: int
    shuffle: bool = True
    subset: jax.Array | None = None

    def __len__(self) -> int:
        return self.total if self.subset is None else len(self.subset)

    @property
    def total(self) -> int:
        """All rows, whether or not they are in the subset."""
        return len(jax.tree.leaves(self.rows, is_leaf=is_picked)[0])

    @property
    def batches(self) -> int:
        """Batches in one pass."""
        return -(-len(self) // self.batch_size)

    @property
    def in_host_memory(self) -> bool:
        """Whether minibatches have to be sent to the device: whether the largest of the arrays lies there."""
        leaves = jax.tree.leaves(self.rows, is_leaf=is_picked)
        return in_host_memory(max(leaves, key=lambda a: math.prod(a.shape)))


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
    return lambda told: progress(Progress(done + told.step, steps, told.metrics))


class Keeper(Protocol):
    """Keeps the states of runs somewhere, so that work that was killed goes on where it was."""

    def restore(self, run: int, state: Any) -> tuple[Any, int] | None:
        """The state of a run and the steps that led there, on a device; None where nothing was kept.

        Args:
          run: its number.
          state: its first state: what is restored has its structure, shapes and dtypes.
        """

    def keep(self, run: int, state: Any, step: int, steps: int) -> None:
        """Is called after every program of a run; may keep the state, which the next program will overwrite.

        Args:
          run: its number.
          state: after `step` steps.
          step: how many of `steps` are done.
          steps: of the whole run.
        """


_kept: contextvars.ContextVar[tuple[Keeper, Iterator[int]] | None] = contextvars.ContextVar("_kept", default=None)


@contextlib.contextmanager
def keeping(keeper: Keeper) -> Iterator[None]:
    """Within it, the keeper has every `run`, numbered from 0 in their order, and says where each begins.

    Work that does the same runs in the same order with the same keys ends with the same bits, however often it was
    killed in between. Runs that `jax.vmap` or `jax.jit` trace are not kept.
    """
    token = _kept.set((keeper, itertools.count()))
    try:
        yield
    finally:
        _kept.reset(token)


def on_cpu() -> bool:
    """Whether programs that are called now run on a CPU. For loops that call programs, not for what is traced."""
    device = jax.config.values["jax_default_device"]
    if device is None:
        return jax.default_backend() == "cpu"
    return (device if isinstance(device, str) else device.platform) == "cpu"


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

        def step(total, batch, *, key):
            return total + batch.sum(), {"total": total}

        stream = Stream(jnp.arange(5.0), batch_size=2)
        run(step, jnp.zeros(()), stream, key=jax.random.key(0), epochs=3)  # 30.0: six batches of 2, three of 1

    Args:
      step: a pure function, the same object for the same method, so that it compiles once.
      state: the first state; copied, so that it outlives the first step, unless `donate`.
      *streams: one for every batch that `step` takes.
      key: a `jax.random` key; consumed.
      epochs: passes over the first stream.
      first_epoch: the number of the first of them, for a run that goes on with an earlier one's key.
      max_steps: stop after so many steps; None runs every epoch to its end.
      progress: is called after every step (after every chunk of steps where the loop scans).
      scan: whether many steps are one XLA program. None scans on accelerators, where it removes launch gaps, and on
        the CPU small steps without convolutions of XLA, which take ten times as long inside a loop there.
      donate: whether the state's buffers are given away, which saves a copy; nothing else may use them.

    Returns:
      The last state.

    Raises:
      ValueError: `epochs` is negative, a stream is empty, or a batch size is not positive.
    """
    _validate.at_least(0, epochs=epochs)
    for i, stream in enumerate(streams):
        _validate.at_least(1, **{f"streams[{i}].batch_size": stream.batch_size, f"rows of streams[{i}]": len(stream)})
    sent = any(stream.in_host_memory for stream in streams)
    most = 1 if sent or scan is False else _SCAN if scan or not on_cpu() else None
    state = state if donate else jax.tree.map(jnp.copy, state)
    keep, state, restored = _restore(state)

    data = tuple(stream.rows for stream in streams)
    if not sent:  # labels may still be NumPy's
        data = jax.tree.map(lambda a: jnp.asarray(a) if in_host_memory(a) else a, data, is_leaf=is_picked)
    count = streams[0].batches
    plans = [_plan(stream, count) for stream in streams]
    for epoch in range(epochs):
        order_key, step_key = jax.random.split(jax.random.fold_in(key, first_epoch + epoch))
        orders = []
        for i, stream in enumerate(streams):
            order = _order(jax.random.fold_in(order_key, i), stream, count)
            orders.append(np.asarray(order) if sent else order)  # rows in host memory are picked there

        if most is None:
            start, sizes = np.zeros(len(plans), np.int32), tuple(plan[0][1] for plan in plans)
            traced = _single.trace(step, sizes, state, data, orders, start, np.int32(0), step_key)
            most = _SCAN_ON_CPU if _is_light(traced.jaxpr.jaxpr) else 1
        left = count if max_steps is None else min(count, max(0, max_steps - epoch * count))
        begin = min(max(0, restored - epoch * count), left)  # whoever kept the state may have had other chunks
        for first, last in _chunks([plan[:left] for plan in plans], most, begin):
            sizes = tuple(plan[first][1] for plan in plans)
            starts = np.array([[plan[k][0] for plan in plans] for k in range(first, last)], np.int32)
            numbers = np.arange(first, last, dtype=np.int32)
            if sent:
                batches = _gather(data, orders, starts[0], sizes)
                state, metrics = _sent(step, state, batches, numbers[0], step_key)
            elif last - first == 1:
                state, metrics = _single(step, sizes, state, data, orders, starts[0], numbers[0], step_key)
            else:
                state, metrics = _scanned(step, sizes, state, data, orders, starts, numbers, step_key)
            state, metrics = parallel.in_turn((state, metrics))
            done, steps = epoch * count + last, epochs * count
            if keep is not None:
                keep(state, done, steps if max_steps is None else min(steps, max_steps))
            if progress is not None:
                progress(Progress(done, steps, metrics))
    return state


def _restore(state: State) -> tuple[Callable[[State, int, int], None] | None, State, int]:
    """How to keep the states of a new run, if it is kept; its state to begin with, and the steps that led there."""
    active = _kept.get()
    if active is None or any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(state)):
        return None, state, 0
    keeper, numbers = active
    number = next(numbers)
    state, done = keeper.restore(number, state) or (state, 0)
    return functools.partial(keeper.keep, number), state, done


def _order(key: jax.Array, stream: Stream, count: int) -> jax.Array:
    """The row numbers of as many passes as `count` batches need, `[passes * N]`."""
    n, passes = len(stream), -(-count // stream.batches)
    if stream.shuffle:
        order = jnp.concatenate([_permutation(k, n) for k in jax.random.split(key, passes)])
    else:
        order = jnp.tile(jnp.arange(n), passes)
    if stream.subset is None:
        return order
    # Subsets of different sizes share one compiled step: all orders are as long as all rows. The end is not read.
    return jnp.pad(stream.subset[order], (0, passes * (stream.total - n)))


@functools.partial(jax.jit, static_argnums=1)
def _permutation(key: jax.Array, n: int) -> jax.Array:
    return jax.random.permutation(key, n)


def _plan(stream: Stream, count: int) -> list[tuple[int, int]]:
    """Start and size of each of `count` batches within the stream's order: 5 rows by 2 are (0, 2), (2, 2), (4, 1)."""
    plan = []
    for k in range(count):
        number_of_pass, number_in_pass = divmod(k, stream.batches)
        begin = number_in_pass * stream.batch_size
        plan.append((number_of_pass * len(stream) + begin, min(stream.batch_size, len(stream) - begin)))
    return plan


def _chunks(plans: list[list[tuple[int, int]]], most: int, begin: int = 0) -> list[tuple[int, int]]:
    """First step and end of each program: `most` steps where so many have equal batch sizes, else one."""
    sizes = [tuple(size for _, size in batches) for batches in zip(*plans, strict=True)]
    chunks, k = [], begin
    while k < len(sizes):
        full = sizes[k : k + most] == [sizes[k]] * most
        end = k + most if full else k + 1
        chunks.append((k, end))
        k = end
    return chunks


def _is_light(jaxpr: core.Jaxpr) -> bool:
    """Whether a step is small and holds no convolution of XLA."""
    computed = 0
    for equation in _equations(jaxpr):
        if equation.primitive is jax.lax.conv_general_dilated_p:
            return False
        computed += sum(math.prod(getattr(out.aval, "shape", ())) for out in equation.outvars)
    return computed < _LIGHT


def _equations(jaxpr: core.Jaxpr) -> Iterator[core.JaxprEqn]:
    for equation in jaxpr.eqns:
        yield equation
        for inner in core.jaxprs_in_params(equation.params):
            yield from _equations(inner)


def _gather(data: Any, orders: Any, start: Any, sizes: tuple[int, ...]) -> list[Any]:
    """One batch of each stream: on the device within `jax.jit`, else where the rows are."""
    batches = []
    for i, (rows, order) in enumerate(zip(data, orders, strict=True)):
        picked: Any
        if isinstance(order, np.ndarray):
            picked = order[start[i] : start[i] + sizes[i]]
        else:
            picked = jax.lax.dynamic_slice(order, (start[i],), (sizes[i],))
        batches.append(jax.tree.map(lambda a, picked=picked: a[picked], rows, is_leaf=is_picked))
    return batches


def _call(step: Step, state: Any, batches: Any, number: Any, key: jax.Array) -> tuple[Any, dict[str, jax.Array]]:
    """One step, its batches split over the devices of the active mesh."""
    return parallel.replicate(step(state, *parallel.split(batches), key=jax.random.fold_in(key, number)))


@functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
def _sent(step, state, batches, number, key):  # type: ignore[no-untyped-def]
    return _call(step, state, batches, number, key)


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=2)
def _single(step, sizes, state, data, orders, start, number, key):  # type: ignore[no-untyped-def]
    return _call(step, state, _gather(data, orders, start, sizes), number, key)


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=2)
def _scanned(step, sizes, state, data, orders, starts, numbers, key):  # type: ignore[no-untyped-def]
    def body(state, at):  # type: ignore[no-untyped-def]
        start, number = at
        return _call(step, state, _gather(data, orders, start, sizes), number, key)

    state, metrics = jax.lax.scan(body, state, (starts, numbers))
    return state, jax.tree.map(lambda m: m[-1], metrics)
