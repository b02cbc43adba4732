"""The grid over jobs: which are missing, how long they will take, and making them, each claimed by one process."""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence

import jax

from camu_jax import loop
from experiments import audit, console, keys, machine
from experiments.job import Job, make_together


def missing(job: Job) -> bool:
    """Whether a job lacks its result, or one of the wanted audits of it."""
    return machine.agree(job.read() is None or bool(audit.missing(job)))


def groups(jobs: Sequence[Job]) -> Iterator[list[Job]]:
    """Puts seeds of one method together, as many as are made at once; without `side_by_side` nothing changes place."""
    if not jobs or jobs[0].experiment.config.side_by_side == 1:
        yield from ([job] for job in jobs)
        return
    for method in dict.fromkeys(job.method for job in jobs):
        same = [job for job in jobs if job.method == method]
        count = same[0].at_once
        for first in range(0, len(same), count):
            yield same[first : first + count]


def complete(jobs: Sequence[Job]) -> None:
    """Makes what a job lacks, or several jobs of one method; the caller has claimed them."""
    without = [job for job in jobs if machine.agree(job.read() is None)]
    if len(without) > 1:
        make_together(without, without[0].original())
    elif without:
        without[0].make(without[0].original())
    for job in jobs:
        for name in audit.missing(job):
            audit.add(job, name)


def run(jobs: Sequence[Job]) -> None:
    """Makes every job that is missing, waiting for those that another process makes."""
    todo = [job for job in jobs if missing(job)]
    announce(jobs, todo)
    for group in groups(todo):
        with contextlib.ExitStack() as claimed:
            for path in sorted(job.path() for job in group):  # in one order, or two processes wait for each other
                claimed.enter_context(machine.claim(path, wait=True))
            complete(group)


# --- how long it will take ----------------------------------------------------------------------------------------


def announce(jobs: Sequence[Job], todo: Sequence[Job]) -> None:
    """Says what will be done, and about how long it will take on this device."""
    experiment = jobs[0].experiment
    config = experiment.config
    forget, _ = jobs[0].split()
    console.say(
        f"{config.dataset}, {experiment.task.name}: forget {len(forget)} of {len(experiment.train)} training examples, "
        f"{len(experiment.test)} {'validation' if config.validation else 'test'} examples"
    )
    console.say(
        f"{', '.join(config.methods)}; seeds {', '.join(map(str, config.seeds))}; on {machine.device_name()} "
        f"({jax.default_backend()})"
    )
    if not todo:
        console.say(f"all {len(jobs)} results are in {config.out}; nothing to do")
        return
    unmade = [job for job in todo if machine.agree(job.read() is None)]
    train = any(job.entry[0].uses_original for job in todo) and machine.agree(experiment.find_original() is None)
    parts = [f"{len(todo)} of {len(jobs)} results to make"] + ["the original model to train"] * train
    uncounted = [*config.audit, "compilation"]
    console.say(f"{' and '.join(parts)}: about {machine.words(estimate(unmade))}; {', '.join(uncounted)} not counted")


def estimate(jobs: Sequence[Job]) -> float:
    """Seconds that jobs of one experiment will take, with the original model if it is missing, without compilation.

    Every method is tried for a few steps. What it compiles for them it will need anyway.
    """
    if not jobs:
        return 0.0
    experiment = jobs[0].experiment
    original = experiment.find_original()
    total = 0.0
    if machine.agree(original is None):
        if any(job.entry[0].uses_original for job in jobs):
            total += seconds_of(lambda listen: experiment.train_original(keys.original(0), listen))
        original = jax.jit(experiment.model.init)(jax.random.key(0))  # the steps take as long as with a trained one
    for method in dict.fromkeys(job.method for job in jobs):
        same = [job for job in jobs if job.method == method]
        entry, settings = same[0].entry
        problem = same[0].problem(original or {})

        def unlearn(listen: loop.Listener, entry=entry, settings=settings, problem=problem) -> object:  # type: ignore[no-untyped-def]
            return entry.unlearn(keys.method(0, entry.name), problem, settings, progress=listen)

        total += seconds_of(unlearn) * len(same)
    return total


class _Enough(Exception):
    """Ends a trial."""


def seconds_of(work: Callable[[loop.Listener], object], *, least: float = 0.25, steps: int = 8) -> float:
    """How long some work with a progress listener will take, from its first steps.

    Args:
      work: is stopped by an exception out of the listener.
      least: seconds that the timed steps have to take, so that the clock and the start of the loop do not matter; or
        `steps` steps, whichever is the later.
      steps: see `least`.

    Returns:
      Seconds a step, times all steps. The first step is not timed: it compiles.
    """
    began: list[tuple[int, float]] = []  # step and working time of the first call
    found = 0.0
    start = time.perf_counter()

    # What fails in the trial will fail again in the job, where it is noted and the other jobs go on.
    with machine.measure() as span, contextlib.suppress(Exception):

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

        work(listen)
    return found
