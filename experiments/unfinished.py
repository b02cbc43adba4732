"""Work that was killed goes on where it was: the states of training and unlearning, kept every few minutes."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from time import monotonic
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from camu_jax import loop
from experiments import console, cores, machine

State = TypeVar("State")
_SHARED = "shared"  # the file that says so
Raw = np.ndarray[tuple[int, ...], np.dtype[np.generic]]  # type: ignore[explicit-any]  # of any type


@contextlib.contextmanager
def kept(folder: Path, minutes: float) -> Iterator[machine.Span]:
    """Times the work within, and keeps the states of its runs (`loop.run`) in a folder, which goes when it is done.

    The same work finds them there after it was killed, goes on from the last ones, and ends with the same bits. Its
    time is then that of both processes, without what was lost.

    Args:
      folder: tells the work apart from all other work; the caller has claimed it.
      minutes: how much work may be lost; 0 keeps nothing, nor do several processes of one command (`--hosts`).
    """
    with machine.measure() as span:
        if not minutes or jax.process_count() > 1:
            yield span
            return
        keeper = _Unfinished(folder, 60 * minutes, span)
        with loop.keeping(keeper):
            yield span
    span.seconds += keeper.earlier
    if keeper.was_shared():
        span.shared = True
    shutil.rmtree(folder, ignore_errors=True)


class _Unfinished:
    """A folder for each run, `<folder>/<run>/<step>`, with its last state.

    A run that has ended must be there before a later one is. Its state waits in host memory until then.
    """

    def __init__(self, folder: Path, seconds: float, span: machine.Span) -> None:
        self.folder, self.seconds, self.span = folder.absolute(), seconds, span
        self.start = self.last = monotonic()
        self.earlier = 0.0  # seconds of work before this process
        self.waiting: dict[int, tuple[int, list[Raw]]] = {}
        self.watch = cores.Watch()

    def was_shared(self) -> bool:
        """Whether others worked on the cores before a state that this work went on from, or may go on from."""
        return (self.folder / _SHARED).exists()

    def restore(self, run: int, state: State) -> tuple[State, int] | None:
        """See `loop.Keeper`."""
        steps = _steps(self.folder / str(run))
        if not steps:
            return None
        import orbax.checkpoint.experimental.v1 as ocp  # takes a second: only those who need it wait for it

        leaves, structure = jax.tree.flatten(state)
        like = {"state": list(map(_raw, leaves)), "seconds": np.float64(0)}
        try:
            found = ocp.load(self.folder / str(run) / str(steps[-1]), like)
        except Exception as error:  # Orbax raises many types on what was damaged or has another structure
            console.warn(f"{self.folder / str(run)} cannot be read ({error}); this part of the work begins anew")
            return None
        self.earlier = max(self.earlier, float(found["seconds"]))
        return jax.tree.unflatten(structure, map(_restored, found["state"], leaves)), steps[-1]

    def keep(self, run: int, state: object, step: int, steps: int) -> None:
        """See `loop.Keeper`."""
        now = monotonic()
        due = now - self.last >= self.seconds
        if due or step == steps:
            self.waiting[run] = (step, list(map(_raw, jax.tree.leaves(state))))
        if due:
            for number, (at, leaves) in self.waiting.items():
                self._write(number, at, leaves)
            self.waiting.clear()
            self.last = monotonic()

    def _write(self, run: int, step: int, leaves: list[Raw]) -> None:
        """Writes a state, all of it or nothing, and removes the one before."""
        import orbax.checkpoint.experimental.v1 as ocp

        folder = self.folder / str(run)
        spent = self.earlier + monotonic() - self.start - self.span.compile_seconds
        folder.mkdir(parents=True, exist_ok=True)
        if machine.shared(self.watch):
            (self.folder / _SHARED).touch()
        ocp.save(folder / str(step), {"state": leaves, "seconds": np.float64(spent)}, overwrite=True)
        for left in folder.iterdir():
            if left.name != str(step):
                shutil.rmtree(left, ignore_errors=True)


def _steps(folder: Path) -> list[int]:
    """Steps at which states were kept; Orbax names what it has not finished otherwise."""
    return sorted(int(path.name) for path in folder.glob("*") if path.name.isdecimal())


def _raw(leaf: jax.Array) -> Raw:
    """An array in host memory; of random keys their data."""
    is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return np.array(jax.random.key_data(leaf) if is_key else leaf)  # a copy: the state is overwritten


def _restored(raw: Raw, like: jax.Array) -> jax.Array:
    """What `_raw` was made of."""
    if jnp.issubdtype(like.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(jnp.asarray(raw), impl=jax.random.key_impl(like))
    return jnp.asarray(raw)
