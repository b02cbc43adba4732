"""The whole paper or a part: `python experiments/reproduce.py --tables 2 3 --datasets digit fashion --seeds 0`.

Goes on where an earlier command stopped. Any number of processes and machines may share the folders; see --worker.
"""

import contextlib
import dataclasses
import re
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # `python experiments/reproduce.py` from anywhere

from experiments import process  # noqa: E402

if __name__ == "__main__":
    process.begin()  # before the imports that take seconds

from camu_jax import _validate  # noqa: E402
from camu_jax.data import DataError, Name  # noqa: E402
from experiments import (  # noqa: E402
    UsageError,
    audit,
    cluster,
    config,
    console,
    curve,
    estimate,
    fleet,
    grid,
    machine,
    paper,
    store,
    workers,
)
from experiments.experiment import Experiment, open_experiment, prepare_folders  # noqa: E402
from experiments.job import Job, jobs_of  # noqa: E402

_TABLES = tuple(range(2, 14))
_FIGURES = {4: "data10", 5: "class0"}  # and the task behind each


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReproduceOptions(config.Common):
    """Makes every result behind the paper's tables 2 to 13 and figures 4 and 5; `report.py` then draws them."""

    tables: tuple[int, ...] = _TABLES
    """Numbers of the paper's tables."""
    figures: tuple[int, ...] = tuple(_FIGURES)
    """Numbers of the paper's figures, which show relearning."""
    datasets: tuple[Name, ...] = ("digit", "fashion", "c10", "c100")
    """Data sets; tiny, which is not in the paper, gets the tasks and methods of digit."""
    tasks: tuple[str, ...] = ()
    """Only these tasks."""
    methods: tuple[str, ...] = ()
    """Only these methods."""
    audit: tuple[config.AuditName, ...] = ("paper",)
    """Audits of each result, as in run.py."""
    relearn_epochs: int = 10
    """Epochs of the figures' relearning."""
    set: tuple[str, ...] = ()
    """Changed settings, method.setting=value; original.epochs=1 retrain.epochs=2, say, for a quick try."""
    worker: str = "0/1"
    """i/n: the place where this process begins, of n that share the folders. Each takes what nobody works on."""
    announce: bool = True
    """Say first how long it will take, by trials of all that is to be made. The workers of the next two do not: they
    begin at once, also when they are requeued, and the display has the time left."""
    workers: int = 1
    """Fill this machine: so many processes, each on its share of the cores, and one display of all."""
    slurm: bool = False
    """Submit the work to SLURM as a job array, and show what it has made; needs `submitit`."""
    array: cluster.Array = cluster.Array()

    def __post_init__(self) -> None:
        _validate.at_least(1, relearn_epochs=self.relearn_epochs, workers=self.workers)


class Part(NamedTuple):
    """What the paper shows of one task on one data set.

    Attributes:
      dataset, task, methods: as in `Config`.
      relearned: whether a figure shows how the models relearn.
    """

    dataset: Name
    task: str
    methods: tuple[str, ...]
    relearned: bool


def parts(options: ReproduceOptions) -> list[Part]:
    """What the chosen tables and figures hold, and the original model, whose figures the paper leaves out.

    Raises:
      UsageError: an unknown table, figure, task or method, or nothing is left.
    """
    for name, numbers, allowed in (("tables", options.tables, _TABLES), ("figures", options.figures, tuple(_FIGURES))):
        for number in numbers:
            if number not in allowed:
                raise UsageError(f"{name} holds {number}; allowed: {', '.join(map(str, allowed))}")
    relearned = {_FIGURES[figure] for figure in options.figures}
    wanted = [*paper.rows(options.tables), *(row for row in paper.rows((2, 3)) if row[1] in relearned)]
    found: dict[tuple[Name, str], dict[str, None]] = {}
    for dataset in options.datasets:
        for printed, task, method in wanted:
            if printed == ("digit" if dataset == "tiny" else dataset):
                found.setdefault((dataset, task), {"original": None})[method] = None
    every_task, every_method = {task for _, task in found}, {m for methods in found.values() for m in methods}
    for name, values, known in (("tasks", options.tasks, every_task), ("methods", options.methods, every_method)):
        for value in values:
            if value not in known:
                raise UsageError(f"{name} holds {value}; allowed here: {', '.join(sorted(known))}")
    chosen = []
    for (dataset, task), methods in found.items():
        some = tuple(m for m in methods if not options.methods or m in options.methods)
        if some and (not options.tasks or task in options.tasks):
            chosen.append(Part(dataset, task, some, task in relearned))
    if not chosen:
        raise UsageError("nothing is chosen; allowed: tables or figures with results of --datasets")
    return chosen


def config_of(options: ReproduceOptions, part: Part) -> config.Config:
    """The configuration of the jobs of a part.

    Raises:
      UsageError: as `config.check` and `config.changed`.
    """
    common = {field.name: getattr(options, field.name) for field in dataclasses.fields(config.Common)}
    chosen = config.Config(dataset=part.dataset, task=part.task, methods=part.methods, **common)
    wanted = config.changed(chosen, options.set)  # --set model.size=small decides the defaults of the others
    return config.check(config.changed(config.with_defaults(wanted, chosen), options.set))


def pieces(experiment: Experiment, part: Part, options: ReproduceOptions) -> list[grid.Piece[Job]]:
    """The files of a part; curves come last, when the models that they start from are there."""
    jobs = jobs_of(experiment)
    results = [audit.piece(job) for job in jobs]
    if not part.relearned:
        return results
    settings = experiment.config.relearning(options.relearn_epochs)
    return results + [curve.piece(job, settings) for job in jobs if _relearns(job.method)]


def goals(options: ReproduceOptions) -> list[fleet.Goal]:
    """The files that the command makes, known without the data."""
    found = []
    for part in parts(options):
        chosen = config_of(options, part)
        extra = curve.extra_of(chosen.relearning(options.relearn_epochs))
        for seed in chosen.seeds:
            for method in part.methods:
                name = (options.out, chosen.folder(part.dataset), part.task, method, seed)
                found.append(fleet.Goal(store.path(*name), chosen.audit))
                if part.relearned and _relearns(method):
                    found.append(fleet.Goal(store.path(*name, extra)))
    return found


def _relearns(method: str) -> bool:
    """Whether the figures show it: not the ablations, and what has forgotten nothing has nothing to relearn."""
    return ":" not in method and method != "original"


def start(options: ReproduceOptions, argv: Sequence[str]) -> int:
    """Does the work here, or has several processes do it.

    Args:
      options: what `argv` says.
      argv: the flags, for those processes.

    Returns, Raises: as `run`.
    """
    if options.workers == 1 and not options.slurm:
        return run(options)
    if options.worker != "0/1" or options.slurm and options.workers > 1:
        raise UsageError(
            f"workers is {options.workers}, worker {options.worker}, slurm {options.slurm}; allowed: one of the three"
        )
    every = goals(options)
    prepare_folders(options)
    if options.slurm:
        return cluster.run(every, argv, options.array, Path(options.out))
    return workers.run(every, argv, options.workers, Path(options.out), devices=options.devices)


def run(options: ReproduceOptions) -> int:
    """Makes what is missing; a result that fails is noted, and the others are made.

    Returns:
      0, or 1 where something failed.

    Raises:
      UsageError: bad input, found before any work starts.
    """
    first, count = _worker(options.worker)
    if count > 1:
        machine.share_memory()
    chosen = parts(options)
    configs = [config_of(options, part) for part in chosen]

    plan: list[tuple[int, int]] = []  # the part, and the number of the piece within it
    failed: list[str] = []
    total, expected = 0, estimate.Estimate()
    for number, part in enumerate(chosen):
        try:
            experiment = open_experiment(configs[number])
        except DataError as error:
            failed.append(f"{configs[number].label(part.dataset)}, {part.task}: {error}")
            continue
        every = pieces(experiment, part, options)
        todo = [k for k, piece in enumerate(every) if piece.todo()]
        if todo:
            prepare_folders(configs[number])
        jobs = jobs_of(experiment)
        failed += _failures(jobs)
        if options.announce and first == 0:
            results = [every[k].subject for k in todo if every[k].kind != curve.KIND]
            curves = [every[k].subject for k in todo if every[k].kind == curve.KIND]
            settings = experiment.config.relearning(options.relearn_epochs)
            expected.add(results, [(job, settings) for job in curves])
        plan += [(number, k) for k in todo]
        total += len(every)
    console.say(f"{len(plan)} of {total} results to make on {machine.device_name()}")
    if advice := machine.advice():
        console.warn(advice)
    if expected.seconds:
        console.say(f"about {machine.words(expected.seconds)} for one process; compilation not counted")

    held, done, opened = 0, 0, -1
    begin = len(plan) * first // count
    for number, k in plan[begin:] + plan[:begin]:
        if number != opened:
            experiment, opened = open_experiment(configs[number]), number
        every = pieces(experiment, chosen[number], options)
        piece = every[k]
        with contextlib.ExitStack() as claimed:
            if not claimed.enter_context(store.claim(piece.path, wait=False)):
                held += 1
                continue
            try:
                if piece.todo():
                    partners = piece.partners(every)
                    ours = [p for p in partners if claimed.enter_context(store.claim(p.path, wait=False))]
                    grid.make([piece, *ours])
                    failed += _failures([p.subject for p in (piece, *ours)])
                done += 1
                _error_file(piece.path).unlink(missing_ok=True)
            except Exception as error:  # whatever it was, the other results are made
                store.write_text(_error_file(piece.path), traceback.format_exc())
                what = f"{configs[number].label(chosen[number].dataset)}, {chosen[number].task}, {piece.subject}"
                failed.append(f"{what}: {type(error).__name__}: {error}; see {_error_file(piece.path)}")
                console.fail(failed[-1])
    failed = list(dict.fromkeys(failed))  # a job comes again with its curve
    console.say(f"{done} results are there, {held} are made by other workers, {len(failed)} failed")
    for text in failed:
        console.fail(text)
    return 1 if failed else 0


def _failures(jobs: Sequence[Job]) -> list[str]:
    """A line for each job whose method has destroyed its model."""
    return [f"{job.experiment.title}, {job} failed: {why}" for job in jobs if (why := job.failure())]


def _error_file(path: Path) -> Path:
    """Where it is noted that making a file failed."""
    return path.with_suffix(".error.txt")


def _worker(text: str) -> tuple[int, int]:
    match = re.fullmatch("([0-9]{1,9})/([0-9]{1,9})", text)
    if not match or int(match[1]) >= int(match[2]):
        raise UsageError(f"worker is {text}; allowed: i/n with i from 0 to n - 1")
    return int(match[1]), int(match[2])


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    given = list(sys.argv[1:] if argv is None else argv)
    return console.command(
        lambda: start(console.parse(given, ReproduceOptions(), "experiments/reproduce.py"), given), DataError
    )


if __name__ == "__main__":
    process.end(main())
