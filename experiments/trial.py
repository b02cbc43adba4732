"""Trials: how long work will take on this machine, from a small part of it."""

import time
from collections.abc import Callable

import flax.linen as nn
import jax
import numpy as np

import camu_jax
from camu_jax import Predictor, Problem, evaluate, from_linen, loop
from camu_jax.audits import divergence, lira
from camu_jax.types import Examples
from experiments import keys, machine

_BATCHES = 5  # of images that a model is asked about
_FEW = 500  # examples whose margins are compared


class _Enough(Exception):
    """Ends a trial."""


def steps(work: Callable[[loop.Listener], object], *, least: float = 0.25, few: int = 8) -> machine.Span:
    """How long some work with a progress listener will take, from its first steps.

    Args:
      work: is stopped by an exception out of the listener.
      least: seconds that the timed steps have to take, so that the clock and the start of the loop do not matter; or
        `few` steps, whichever is the later.
      few: see `least`.

    Returns:
      What came before the first step, and seconds a step times all steps; the first step is not timed. And what was
      spent on compiling.

    Raises:
      ValueError: what the work is given does not go together.
    """
    began: list[tuple[int, float]] = []  # step and working time of the first call
    found = 0.0
    start = time.perf_counter()

    with machine.measure() as span:

        def listen(told: loop.Progress) -> None:
            nonlocal found
            jax.block_until_ready(told.metrics)
            now = time.perf_counter() - start - span.compile_seconds  # a ragged last batch compiles later on
            if not began:
                began.append((told.step, now))
                return
            done, seconds = told.step - began[0][0], now - began[0][1]
            before = max(0.0, began[0][1] - began[0][0] * seconds / done)
            found = before + seconds / done * told.steps
            if machine.agree(seconds >= least and done >= few):  # all processes of one command stop at one step
                raise _Enough

        try:
            work(listen)
        except ValueError:  # bad input, found before any work starts
            raise
        except _Enough:
            pass
        except Exception:  # it will fail again in the job, where it is noted and the other jobs go on
            if jax.process_count() > 1:  # the other processes may not have failed, and would wait for this one
                raise
    return machine.Span(found, span.compile_seconds)


def image(predictor: Predictor, examples: Examples) -> machine.Span:
    """How long a predictor takes for an image."""
    some = examples.x[: evaluate.usual_batch_size() * _BATCHES]
    jax.block_until_ready(evaluate.outputs(predictor, some))
    with machine.measure() as span:
        jax.block_until_ready(evaluate.outputs(predictor, some))
    return machine.Span(span.seconds / len(some))


class _Projection(nn.Module):
    """Answers at once, and like no other model."""

    classes: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.Dense(self.classes)(x.reshape(len(x), -1))


def attacks(problem: Problem, test: Examples, classes: tuple[int, ...]) -> machine.Span:
    """How long `camu_jax.audit` takes without the model's own answers: one that has next to nothing to compute."""
    model = from_linen(_Projection(problem.forget.num_classes), problem.forget.x.shape[1:])
    predictor = Predictor((jax.jit(model.init)(keys.trial()),), model)
    with machine.measure() as span:
        camu_jax.audit(keys.trial(), predictor, problem, test, classes=classes)
    return machine.Span(span.seconds, span.compile_seconds)


def klom(models: int, forget: int, examples: int) -> machine.Span:
    """How long `divergence.evidence` takes for populations of so many models."""
    few = min(forget, _FEW)
    margins = np.random.default_rng(0).normal(size=(3, models, few)).astype(np.float32)
    with machine.measure() as span:
        divergence.klom(margins[0], margins[1])
    seconds = 2 * span.seconds / few * examples
    with machine.measure() as span:
        divergence.forgetting_epsilon(margins[0], margins[1])
    return machine.Span(seconds + 2 * span.seconds / few * forget)


def u_lira(shadows: lira.Shadows) -> machine.Span:
    """How long `lira.evidence` takes for such shadow models."""
    few = min(shadows.state.shape[1], _FEW)
    margins = np.random.default_rng(0).normal(size=(len(shadows.state), few)).astype(np.float32)
    with machine.measure() as span:
        lira.evidence(keys.trial(), margins, shadows.state[:, :few], clusters=shadows.clusters)
    return machine.Span(span.seconds / few * shadows.state.shape[1], span.compile_seconds)
