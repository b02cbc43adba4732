"""How long jobs will take on this machine, from a trial of a few steps, and what a command says before it begins."""

import functools
import time
from collections.abc import Callable, Sequence

import jax

from camu_jax import Variables, loop
from experiments import UsageError, console, keys, machine
from experiments.experiment import prepare_folders
from experiments.job import Job


def announce(jobs: Sequence[Job], todo: Sequence[Job], *, uncounted: Sequence[str] = ()) -> None:
    """Says what will be done, and about how long it will take on this device.

    Args:
      jobs: all jobs of the command.
      todo: those with work to do.
      uncounted: work besides unlearning that the time leaves out; audits always are.
    """
    experiment = jobs[0].experiment
    config = experiment.config
    forget, _ = jobs[0].split()
    console.say(
        f"{experiment.title}: forget {len(forget)} of {len(experiment.train)} training examples, "
        f"{len(experiment.test)} {'validation' if config.validation else 'test'} examples"
    )
    console.say(
        f"{', '.join(config.methods)}; seeds {', '.join(map(str, config.seeds))}; on {machine.device_name()} "
        f"({jax.default_backend()})"
    )
    if advice := machine.advice():
        console.warn(advice)
    if not todo:
        console.say(f"all {len(jobs)} results are in {config.out}; nothing to do")
        return
    prepare_folders(config)
    if experiment.weights is not None:
        console.say(f"original model: T_s {experiment.accuracy(experiment.weights):.2f}, from {config.weights}")
    unmade = [job for job in todo if machine.agree(job.read() is None)]
    train = any(job.entry[0].uses_original for job in todo) and machine.agree(experiment.find_original() is None)
    parts = [f"{len(todo)} of {len(jobs)} results to make"] + ["the original model to train"] * train
    expected = estimate(unmade)
    left_out = [*uncounted, *(f"audit {name}" for name in config.audit)]
    console.say(
        f"{' and '.join(parts)}: about {machine.words(expected.seconds)}, after {expected.compile_seconds:.0f} s of "
        f"compiling{'; not counted: ' if left_out else ''}{', '.join(left_out)}"
    )


def estimate(jobs: Sequence[Job]) -> machine.Span:
    """How long jobs of one experiment will take, with the original model if it is missing.

    Every method is tried for a few steps. What it compiles for them it will need anyway: the jobs find it compiled.

    Returns:
      The seconds that the jobs will take, and those that the trials have spent on compiling.

    Raises:
      UsageError: a method's settings do not go with the data.
    """
    total = machine.Span()
    if not jobs:
        return total

    def add(name: str, work: Callable[[loop.Listener], object], times: int) -> None:
        try:
            span = trial(work)
        except ValueError as error:
            raise UsageError(f"{name}: {error}") from error
        total.seconds += span.seconds * times
        total.compile_seconds += span.compile_seconds

    experiment = jobs[0].experiment
    original = experiment.find_original()
    if machine.agree(original is None):
        if any(job.entry[0].uses_original for job in jobs):
            add("original", lambda listen: experiment.train_original(keys.original(0), listen), 1)
        original = jax.jit(experiment.model.init)(keys.original(0))  # the steps take as long as with a trained one
    for name in dict.fromkeys(job.method for job in jobs):
        same = [job for job in jobs if job.method == name]
        add(name, functools.partial(_unlearn, same[0], original or {}), len(same))
    return total


def _unlearn(job: Job, original: Variables, listen: loop.Listener) -> object:
    """What a job's method does. The problem is made here, so that no two of them are held at once."""
    method, settings = job.entry
    return method.unlearn(keys.method(job.seed, job.method), job.problem(original), settings, progress=listen)


class _Enough(Exception):
    """Ends a trial."""


def trial(work: Callable[[loop.Listener], object], *, least: float = 0.25, steps: int = 8) -> machine.Span:
    """How long some work with a progress listener will take, from its first steps.

    Args:
      work: is stopped by an exception out of the listener.
      least: seconds that the timed steps have to take, so that the clock and the start of the loop do not matter; or
        `steps` steps, whichever is the later.
      steps: see `least`.

    Returns:
      Seconds a step, times all steps; the first step is not timed. And what was spent on compiling.

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
            found = seconds / done * told.steps
            if machine.agree(seconds >= least and done >= steps):  # all processes of one command stop at one step
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
