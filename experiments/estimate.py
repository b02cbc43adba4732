"""How long work will take on this machine, audits and relearning included, and what a command says before it begins."""

import dataclasses
from collections.abc import Callable, Hashable, Sequence

import jax

from camu_jax import Examples, Predictor, TrainSettings, Variables, loop
from camu_jax.audits import membership, relearning
from experiments import UsageError, audit, console, keys, machine, trial
from experiments.config import AuditName
from experiments.experiment import Experiment, digest, prepare_folders
from experiments.job import Job
from experiments.populations import Population, deal, populations

Curve = tuple[Job, TrainSettings]
"""Relearning: whose model learns again, and how."""


def announce(jobs: Sequence[Job], todo: Sequence[Job], curves: Sequence[Curve] = ()) -> None:
    """Says what will be done, and about how long it will take on this device.

    Args:
      jobs: all jobs of the command.
      todo: those that lack their result or an audit.
      curves: relearning that is to be done.
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
    count = len(todo) + len(curves)
    if not count:
        console.say(f"all {len(jobs)} results are in {config.out}; nothing to do")
        return
    prepare_folders(config)
    if experiment.weights is not None:
        console.say(f"original model: T_s {experiment.accuracy(experiment.weights):.2f}, from {config.weights}")
    expected = Estimate()
    expected.add(todo, curves)
    parts = [f"{count} of {len(jobs)} results to make"]
    if expected.originals:
        one = expected.originals == 1
        parts.append("the original model to train" if one else f"{expected.originals} original models to train")
    if expected.others:
        parts.append(f"{expected.others} models of audits to make")
    console.say(
        f"{' and '.join(parts)}: about {machine.words(expected.seconds)}, after {expected.compile_seconds:.0f} s of "
        "compiling"
    )


class Estimate:
    """How long the work of a command will take: jobs, audits and relearning; what they share counts once.

    Every method is tried for a few steps. What it compiles for them it will need anyway: the jobs find it compiled.

    Attributes:
      seconds: what the work will take.
      compile_seconds: what the trials have spent on compiling.
      originals: how many original models have to be trained.
      others: how many models have to be made for audits alone.
    """

    def __init__(self) -> None:
        self.seconds = self.compile_seconds = 0.0
        self.originals = self.others = 0
        self._counted: set[Hashable] = set()
        self._tried: dict[Hashable, float] = {}  # seconds, of the experiment at hand

    def add(self, jobs: Sequence[Job], curves: Sequence[Curve] = ()) -> None:
        """Counts work on one experiment.

        Args:
          jobs: those that lack their result or an audit.
          curves: relearning to do.

        Raises:
          UsageError: a method's settings do not go with the data.
        """
        self._tried.clear()
        for job in jobs:
            lacking = audit.lacking(job)
            if lacking or machine.agree(job.read() is None):
                self._job(job)  # which the audits need not make again
            for name in lacking:
                self._audit(job, name)
        for job, settings in curves:
            self._job(job)
            self._relearning(job, job.split()[1], settings)
            self._images(job, (settings.epochs + 1) * _all_images(job))

    # --- what there is to do --------------------------------------------------------------------------------------

    def _job(self, job: Job) -> None:
        """A job's model, if it is not kept by then, and measuring it the first time."""
        again, made = self._again("job", job.path()), machine.agree(job.read() is not None)
        if job.experiment.config.keep_models if again else machine.agree(made and job.model_path.exists()):
            return
        method, settings = job.entry
        if method.uses_original:
            self._original(job.experiment)

        def unlearn(listen: loop.Listener) -> object:  # the problem is made here, so that no two are held at once
            problem = job.problem(_untrained(job.experiment) if method.uses_original else {})
            return method.unlearn(keys.method(job.seed, job.method), problem, settings, progress=listen)

        self._spend((job.method, len(job.experiment.train)), lambda: trial.steps(unlearn))
        if not made and not again:
            self._images(job, _all_images(job))

    def _original(self, experiment: Experiment, audit: str | None = None, number: int = 0) -> None:
        """An original model, if it was not trained before."""
        settings = experiment.original_settings(audit, number)
        if self._again(digest(settings)) or machine.agree(experiment.find_original(audit, number) is not None):
            return
        self.originals += 1

        def train(listen: loop.Listener) -> object:
            return experiment.train_original(keys.original(0), listen)

        self._spend(("original", len(experiment.train)), lambda: trial.steps(train))

    def _audit(self, job: Job, name: AuditName) -> None:
        """An audit of a job's model, with the populations that it lacks."""
        experiment, (forget, _) = job.experiment, job.split()
        for models in populations(job, name):
            self._population(models)
        asked = len(forget)  # for the histogram
        if name == "paper":
            classes, test = experiment.task.classes, experiment.test
            asked += len(forget) + len(test) + (membership.learned(len(test)) if len(test) >= membership.LEAST else 0)
            self._spend((name,), lambda: trial.attacks(job.problem({}), test, classes))
        elif name == "klom":
            count = experiment.config.audits.models
            self._job(dataclasses.replace(job, method="retrain"))
            self._original(experiment)
            self._relearning(job, forget, experiment.config.relearning(1))  # how much it takes depends on the model
            asked += 3 * len(forget)
            self._spend((name,), lambda: trial.klom(count, len(forget), _all_images(job)))
        else:
            self._spend((name,), lambda: trial.u_lira(deal(job)))
        self._images(job, asked)

    def _population(self, models: Population) -> None:
        """The models of a population that are missing, and asking them."""
        job = models.job
        method, _ = job.entry
        for number in models.missing():
            if self._again(digest(models.what), number):
                continue
            self.others += 1
            if method.uses_original:
                self._original(job.experiment, models.audit, models.originals[number])

            def make(listen: loop.Listener, number: int = number) -> object:
                original = _untrained(job.experiment) if method.uses_original else {}
                return models.make_one(*models.given(number, original), progress=listen)

            self._spend((job.method, len(job.experiment.train)), lambda: trial.steps(make))
            self._images(job, models.examples)

    def _relearning(self, job: Job, examples: Examples, settings: TrainSettings) -> None:
        """Training a job's model on, every member of it."""

        def relearn(listen: loop.Listener) -> object:
            key, predictor = keys.relearn(job.seed), _predictor(job.experiment)
            return relearning.curve(key, predictor, examples, settings, lambda _: None, progress=listen)

        self._spend(("relearning", len(examples), settings), lambda: trial.steps(relearn), _members(job))

    def _images(self, job: Job, count: int) -> None:
        """Asking a job's model about so many images."""
        experiment = job.experiment
        work = lambda: trial.image(_predictor(experiment), experiment.test)  # noqa: E731
        self._spend(("image",), work, count * _members(job))

    # --- how it is counted ----------------------------------------------------------------------------------------

    def _again(self, *what: Hashable) -> bool:
        """Whether something was counted before; it now is."""
        before = what in self._counted
        self._counted.add(what)
        return before

    def _spend(self, what: tuple[Hashable, ...], work: Callable[[], machine.Span], times: int = 1) -> None:
        """Adds what work takes, tried where that is not known yet; the first of its names stands in errors."""
        if what not in self._tried:
            try:
                span = work()
            except ValueError as error:
                raise UsageError(f"{what[0]}: {error}") from error
            self._tried[what] = span.seconds
            self.compile_seconds += span.compile_seconds
        self.seconds += self._tried[what] * times


def _all_images(job: Job) -> int:
    """What the accuracies of a job are measured on."""
    return len(job.experiment.train) + len(job.experiment.test)


def _members(job: Job) -> int:
    method, settings = job.entry
    return method.members(settings)


def _untrained(experiment: Experiment) -> Variables:
    """An original model to try: steps take as long as with a trained one."""
    return jax.jit(experiment.model.init)(keys.original(0))


def _predictor(experiment: Experiment) -> Predictor:
    return Predictor((_untrained(experiment),), experiment.model, experiment.config.pipeline)
