"""The whole paper or a part: `python experiments/reproduce.py --tables 2 3 --datasets digit fashion --seeds 0`.

Goes on where an earlier run stopped. Any number of processes and machines may share the folders; see --worker.
"""

import contextlib
import dataclasses
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # `python experiments/reproduce.py` from anywhere

from experiments import environment  # noqa: E402

environment.prepare(__name__)

from camu_jax import TrainSettings  # noqa: E402
from camu_jax.data import DataError  # noqa: E402
from experiments import (  # noqa: E402
    claims,
    cli,
    clock,
    config,
    console,
    flags,
    paper,
    relearn,
    results,
    runner,
    together,
)
from experiments.cells import Cell, all_cells  # noqa: E402
from experiments.session import Session, find_original, open_session  # noqa: E402

_TABLES = tuple(range(2, 14))
_FIGURES = {4: "data10", 5: "class0"}  # and the task behind each


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReproduceOptions:
    """Makes every result behind the paper's tables 2 to 13 and figures 4 and 5; `report.py` then draws them."""

    tables: tuple[int, ...] = _TABLES
    """Numbers of the paper's tables."""
    figures: tuple[int, ...] = tuple(_FIGURES)
    """Numbers of the paper's figures, which show relearning."""
    datasets: tuple[config.DatasetName, ...] = ("digit", "fashion", "c10", "c100")
    """Data sets; tiny, which is not in the paper, gets the tasks and methods of digit."""
    tasks: tuple[str, ...] = ()
    """Only these tasks."""
    methods: tuple[str, ...] = ()
    """Only these methods."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Seeds of the splits and of the methods."""
    audit: tuple[config.AuditName, ...] = ("paper",)
    """Audits of each result, as in run.py."""
    relearn_epochs: int = 10
    """Epochs of the figures' relearning."""
    data_dir: str | None = None
    """A prepared TFDS folder, as in run.py."""
    out: str = "results"
    """Folder of the results."""
    checkpoint_dir: str = "checkpoints"
    """Folder of the original models."""
    cache_dir: str = "cache"
    """Folder of compiled programs, decoded images and the audits' populations."""
    limit: int | None = None
    """Use only N training and at most N test examples, for a quick look."""
    keep_models: bool = True
    """Keep the unlearned models beside the results; without them relearning and audits unlearn again."""
    set: tuple[str, ...] = ()
    """Changed settings, method.setting=value; original.epochs=1 retrain.epochs=2, say, for a quick try."""
    devices: int = 1
    """Split each minibatch over so many devices of this process."""
    side_by_side: int = 1
    """How many seeds of a method, or models of an audit, are made in one program; more than 1 is for a GPU."""
    worker: str = "0/1"
    """i/n: the place where this process begins, of n that share the folders. Each takes what nobody works on."""


@dataclasses.dataclass(frozen=True)
class Job:
    """A result to make: of a cell with its audits, or with `relearn` its relearning curve."""

    cell: Cell
    relearn: TrainSettings | None = None

    @property
    def extra(self) -> results.Extra | None:
        """What tells the result from the cell's own."""
        return None if self.relearn is None else results.Extra("relearn", self.relearn)

    @property
    def path(self) -> Path:
        """Where the result belongs."""
        return self.cell.path(self.extra)

    def missing(self) -> bool:
        """Whether there is work to do."""
        return runner.missing(self.cell) if self.relearn is None else self.cell.read(self.extra) is None

    def units(self) -> float:
        """Forward-pass equivalents, not counting audits."""
        if self.relearn is not None:
            return 3.0 * len(self.cell.session.train) * self.relearn.epochs
        method, settings = self.cell.entry
        return method.cost(self.cell.problem({}), settings)

    def partners(self, others: "Sequence[Job]") -> "list[Job]":
        """Those of the others that are made in one program with this one."""
        if self.relearn is not None:
            return []
        same = [o for o in others if o.relearn is None and o.cell.method == self.cell.method and o != self]
        return [o for o in same if o.missing()][: together.at_once(self.cell) - 1]

    def make(self, partners: "Sequence[Job]" = ()) -> None:
        """Does the work, and that of the partners."""
        if self.relearn is None:
            runner.complete([self.cell, *(partner.cell for partner in partners)])
        else:
            relearn.complete(self.cell, self.relearn)

    def __str__(self) -> str:
        session = self.cell.session
        what = "" if self.relearn is None else ", relearning"
        return f"{session.config.dataset}, {session.task.name}, {self.cell.method}, seed {self.cell.seed}{what}"


Group = tuple[str, str, tuple[str, ...], bool]
"""Data set, task, methods, and whether a figure wants their relearning."""


def groups(options: ReproduceOptions) -> list[Group]:
    """What the chosen tables and figures hold.

    Raises:
      UsageError: an unknown table, figure, task or method, or nothing is left.
    """
    for name, allowed in (("tables", _TABLES), ("figures", tuple(_FIGURES))):
        for number in getattr(options, name):
            if number not in allowed:
                raise config.UsageError(f"{name} holds {number}; allowed: {', '.join(map(str, allowed))}")
    found: dict[tuple[config.DatasetName, str], dict[str, None]] = {}
    wanted = list(paper.rows(options.tables))
    wanted += [r for r in paper.rows((2, 3)) if any(_FIGURES[f] == r[1] for f in options.figures)]
    for dataset in options.datasets:
        for in_paper, task, method in wanted:
            if in_paper == ("digit" if dataset == "tiny" else dataset):
                found.setdefault((dataset, task), {})[method] = None
    known = {"tasks": {task for _, task in found}, "methods": {m for methods in found.values() for m in methods}}
    for name, values in known.items():
        for value in getattr(options, name):
            if value not in values:
                raise config.UsageError(f"{name} holds {value}; allowed here: {', '.join(sorted(values))}")
    chosen: list[Group] = []
    for (dataset, task), methods in found.items():
        some = tuple(m for m in methods if not options.methods or m in options.methods)
        if some and (not options.tasks or task in options.tasks):
            chosen.append((dataset, task, some, any(_FIGURES[f] == task for f in options.figures)))
    if not chosen:
        raise config.UsageError("nothing is chosen; allowed: tables or figures with results of --datasets")
    return chosen


def settings(options: ReproduceOptions, group: Group) -> Any:
    """The runner's configuration of a group.

    Raises:
      UsageError: as `config.parse` and `config.changed`.
    """
    dataset, task, methods, _ = group
    parsed = config.parse([f"--dataset={dataset}", f"--task={task}"])
    folders, others = ("data_dir", "out", "checkpoint_dir", "cache_dir"), ("limit", "keep_models", "devices")
    same = {name: getattr(options, name) for name in ("seeds", "audit", "side_by_side", *folders, *others)}
    parsed = dataclasses.replace(parsed, methods=methods, **same)
    for assignment in options.set:
        parsed = config.changed(parsed, assignment)
    return config.check(parsed)


def jobs(session: Session, group: Group, options: ReproduceOptions) -> list[Job]:
    """The results of a group; curves come last, when the models that they start from are there."""
    cells = all_cells(session)
    curves = []
    if group[3]:
        curve = dataclasses.replace(session.config.original, epochs=options.relearn_epochs)
        curves = [Job(cell, curve) for cell in cells if ":" not in cell.method]
    return [Job(cell) for cell in cells] + curves


def run(options: ReproduceOptions) -> int:
    """Makes what is missing; a result that fails is noted, and the others are made.

    Returns:
      0, or 1 where something failed.

    Raises:
      UsageError: bad input, found before any work starts.
    """
    first, count = _worker(options.worker)
    chosen = groups(options)
    configs = [settings(options, group) for group in chosen]
    failed: list[str] = []
    plan: list[tuple[int, int]] = []
    total, seconds = 0, _Seconds()
    for number, group in enumerate(chosen):
        try:
            session = open_session(configs[number])
        except DataError as error:
            failed.append(f"{group[0]}, {group[1]}: {error}")
            continue
        every = jobs(session, group, options)
        missing = [k for k, job in enumerate(every) if job.missing()]
        seconds.add(session, [every[k] for k in missing])
        plan += [(number, k) for k in missing]
        total += len(every)
    console.say(f"{len(plan)} of {total} results to make on {results.device_name()}")
    if plan:
        console.say(f"about {clock.words(seconds.total)} for one process, without audits and compilation")

    held, done, opened = 0, 0, -1
    begin = len(plan) * first // count
    for number, k in plan[begin:] + plan[:begin]:
        if number != opened:
            session, opened = open_session(configs[number]), number
        every = jobs(session, chosen[number], options)
        job = every[k]
        with contextlib.ExitStack() as claimed:
            if not claimed.enter_context(claims.claim(job.path, wait=False)):
                held += 1
                continue
            try:
                if job.missing():
                    with_it = job.partners(every)
                    job.make([p for p in with_it if claimed.enter_context(claims.claim(p.path, wait=False))])
                done += 1
                _error_file(job).unlink(missing_ok=True)
            except Exception as error:  # whatever it was, the other results are made
                _error_file(job).write_text(traceback.format_exc())
                failed.append(f"{job}: {type(error).__name__}: {error}; see {_error_file(job)}")
                console.fail(failed[-1])
    console.say(f"{done} results are there, {held} are made by other workers, {len(failed)} failed")
    for text in failed:
        console.fail(text)
    return 1 if failed else 0


def _error_file(job: Job) -> Path:
    return job.path.with_suffix(".error.txt")


def _worker(text: str) -> tuple[int, int]:
    place, _, count = text.partition("/")
    if not (place.isdigit() and count.isdigit() and int(place) < int(count)):
        raise config.UsageError(f"worker is {text}; allowed: i/n with i from 0 to n - 1")
    return int(place), int(count)


class _Seconds:
    """Adds up what jobs will take; one kind of model is timed once, one original model is counted once."""

    def __init__(self) -> None:
        self.total = 0.0
        self._rates: dict[str, float] = {}
        self._originals: set[str] = set()

    def add(self, session: Session, todo: list[Job]) -> None:
        """Adds the jobs of one session."""
        if not todo:
            return
        options = session.config
        kind = f"{options.dataset}"
        if kind not in self._rates:
            self._rates[kind] = clock.seconds_per_forward(
                session.model, session.train, options.original, options.pipeline
            )
        units = sum(job.units() for job in todo)
        if kind not in self._originals and find_original(session) is None:
            units += 3.0 * len(session.train) * options.original.epochs
        self._originals.add(kind)
        self.total += units * self._rates[kind]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    return cli.run(lambda: run(flags.parse(arguments, ReproduceOptions(), "experiments/reproduce.py")))


if __name__ == "__main__":
    sys.exit(main())
