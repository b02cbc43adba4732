"""Seconds, with compilation apart, and an estimate of them beforehand."""

import contextlib
import dataclasses
import time
from collections.abc import Iterator

import jax

from camu_jax import Examples, Model, Pipeline, TrainSettings, loop
from camu_jax.optimizers import adam_l2
from camu_jax.training import TrainState, train_step

_COMPILING = "/jax/core/compile/"
_compiled = 0.0


def _listen(event: str, duration_secs: float, **_: str | int) -> None:
    global _compiled
    if event.startswith(_COMPILING):
        _compiled += duration_secs


jax.monitoring.register_event_duration_secs_listener(_listen)


@dataclasses.dataclass
class Span:
    """What a measured block took: `seconds` without compilation, `compile_seconds` for tracing and compiling."""

    seconds: float = 0.0
    compile_seconds: float = 0.0


@contextlib.contextmanager
def measure() -> Iterator[Span]:
    """Times a block; block on its results inside (`jax.block_until_ready`)."""
    span, compiled, start = Span(), _compiled, time.perf_counter()
    yield span
    wall = time.perf_counter() - start
    span.compile_seconds = min(_compiled - compiled, wall)
    span.seconds = wall - span.compile_seconds


def seconds_per_forward(model: Model, examples: Examples, settings: TrainSettings, pipeline: Pipeline) -> float:
    """Times a few training steps on this device: seconds per forward-pass equivalent of one example."""
    variables = jax.jit(model.init)(jax.random.key(0))
    state = TrainState.create(model, variables, pipeline, adam_l2(settings.learning_rate, settings.l2))
    stream = loop.Stream(examples, settings.batch_size)

    def go(steps: int) -> float:
        with measure() as span:
            run = loop.run(train_step, state, stream, key=jax.random.key(0), epochs=1, max_steps=steps, scan=False)
            jax.block_until_ready(run)
        return span.seconds

    steps = min(stream.batches, 4)
    go(steps)
    seconds = go(steps)
    if seconds < 0.25:  # of which starting the loop is a large part
        steps = min(stream.batches, 64)
        seconds = go(steps)
    return seconds / (3.0 * min(steps * settings.batch_size, len(examples)))


def took(span: Span) -> str:
    """What a block took, in words."""
    return f"{span.seconds:.1f} s (and {span.compile_seconds:.1f} s compiling)"


def words(seconds: float) -> str:
    """A duration as people say it."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if seconds < 5400:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h"
