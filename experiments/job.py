"""A job: one method and one seed of an experiment. Its settings, its result on disk, and the model that it makes."""

import dataclasses
import math
import shutil
import zlib
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from camu_jax import Examples, Predictor, Problem, Settings, Variables, checkpoint, evaluate
from camu_jax.audits import population
from camu_jax.methods import Method
from experiments import UsageError, console, keys, machine, store
from experiments.experiment import Experiment, plain


@dataclasses.dataclass(frozen=True)
class Job:
    """A method (one of `config.method_names()`) and a seed, on the data and the original model of an experiment."""

    experiment: Experiment
    method: str
    seed: int

    def __str__(self) -> str:
        return f"{self.method}, seed {self.seed}"

    @property
    def entry(self) -> tuple[Method, Settings]:
        """The method and its settings."""
        return self.experiment.config.method(self.method)

    @property
    def at_once(self) -> int:
        """How many models of this method are made in one program."""
        method, settings = self.entry
        return 1 if method.one_by_one(settings) else self.experiment.config.side_by_side

    def split(self) -> tuple[Examples, Examples]:
        """Forget and retain set; they share the images of the training set."""
        forget, retain = self.rows()
        return self.experiment.train.pick(forget), self.experiment.train.pick(retain)

    def rows(self) -> tuple[jax.Array, jax.Array]:
        """Numbers of the training examples that are forgotten, and of those that are retained."""
        train = self.experiment.train
        numbered = dataclasses.replace(train, x=jnp.arange(len(train)))
        forget, retain = self.experiment.task.split(keys.split(self.seed), numbered)
        return forget.x, retain.x

    def problem(self, original: Variables) -> Problem:
        """What the method has to solve."""
        return Problem(self.experiment.model, original, *self.split(), self.experiment.config.pipeline)

    def original(self) -> Variables:
        """The original model, trained if need be; `{}` for methods that do not start from it."""
        return self.experiment.original() if self.entry[0].uses_original else {}

    def settings(self) -> store.Settings:
        """Everything that decides the result; a result made from other settings is another result."""
        config, task = self.experiment.config, self.experiment.task
        method, settings = self.entry
        result: store.Settings = {
            **self.experiment.source.settings,
            "limit": config.limit,
            "task": task.name,
            "rows": zlib.crc32(np.asarray(task.rows, np.int64).tobytes()) if task.rows else None,
            "seed": self.seed,
            "train_metrics": config.train_metrics,
            "model": self.experiment.model_settings,
            "pipeline": plain(config.pipeline),
            self.method: plain(settings),
        }
        if config.validation:
            result["validation"] = config.validation
        if names := task.names(self.experiment.source.classes):
            result["classes"] = names
        if method.uses_original:
            result["original"] = self.experiment.original_settings()
        return result

    # --- on disk --------------------------------------------------------------------------------------------------

    def path(self, extra: store.Extra | None = None) -> Path:
        """Where the result belongs; the model lies beside it."""
        experiment = self.experiment
        out, folder, task = experiment.config.out, experiment.folder, experiment.task.name
        return store.path(out, folder, task, self.method, self.seed, extra)

    def read(self, extra: store.Extra | None = None) -> store.Result | None:
        """The result, None where there is none; a damaged one is set aside.

        Raises:
          UsageError: it was made from other settings.
        """
        where = self.path(extra)
        expected = self.settings() if extra is None else {**self.settings(), extra.name: extra.settings}
        try:
            found = store.read(where)
        except store.DamagedResult as error:
            if machine.primary():
                console.warn(f"{error}; it is set aside as {checkpoint.set_aside(where).name} and made anew")
            return None
        changed = store.difference(found["settings"], expected) if found is not None else None
        if changed:
            raise UsageError(f"{where} was made from other settings ({changed}); give another --out, or move it away")
        return found

    def failure(self) -> str | None:
        """Why the method has destroyed the model, where there is a result that says so."""
        return (self.read() or {}).get("failed")

    def kept(self) -> Predictor | None:
        """The unlearned model of an earlier command, None where it was not kept; a damaged one is set aside."""
        where = self.model_path
        try:
            return checkpoint.load(where, self.experiment.model, self.settings()) if where.exists() else None
        except checkpoint.CheckpointError as error:
            console.warn(f"{error}; it is set aside as {checkpoint.set_aside(where).name} and made anew")
            return None

    @property
    def model_path(self) -> Path:
        """Where the unlearned model is kept, beside the result."""
        return self.path().with_suffix(".model")

    # --- the work -------------------------------------------------------------------------------------------------

    def make(self, original: Variables) -> Predictor:
        """Unlearns, keeps the model, and measures and writes the result if there is none yet."""
        method, settings = self.entry
        problem = self.problem(original)
        with console.progress_bar(str(self)) as progress, self.experiment.kept(self.settings(), self.path()) as span:
            predictor = method.unlearn(keys.method(self.seed, self.method), problem, settings, progress=progress)
            jax.block_until_ready(predictor)
        self.finish(predictor, span)
        return predictor

    def finish(self, predictor: Predictor, span: machine.Span, *, side_by_side: int = 1) -> None:
        """Keeps the unlearned model, and measures and writes the result if there is none yet.

        Args:
          predictor: what the method made.
          span: what it took.
          side_by_side: with how many seeds in one program; each has its share of the time.
        """
        if self.experiment.config.keep_models:
            if machine.primary():
                shutil.rmtree(self.model_path, ignore_errors=True)  # of a process that was killed before its result
            machine.agree(True)  # no process looks before it is gone
            checkpoint.save(self.model_path, predictor, self.settings())
        if not machine.agree(self.read() is None):
            return
        metrics = self.accuracies(predictor)
        info = {name: float(value) for name, value in predictor.info.items()}
        result: store.Result = {
            "metrics": metrics,
            **span.as_json(),
            "info": {name: value if math.isfinite(value) else None for name, value in info.items()},
            "settings": self.settings(),
            "side_by_side": side_by_side,
            **machine.provenance(),
        }
        reason = evaluate.failure(predictor, self.split()[1], metrics["R_tr"])
        if reason is not None:
            result["failed"] = reason
        if machine.primary():
            store.write(self.path(), result)
        console.say(f"{self}: {console.metrics(metrics)}  {span}")
        if reason is not None:
            console.warn(f"{self} failed: {reason}")

    def predictor(self) -> Predictor:
        """The unlearned model: the kept one, or else the method runs (again)."""
        kept = self.kept()
        return kept if kept is not None else self.make(self.original())

    def accuracies(self, predictor: Predictor) -> dict[str, float]:
        """The paper's accuracies of a predictor on the data of this job."""
        forget, retain = self.split()
        return evaluate.accuracies(
            predictor,
            forget,
            retain,
            self.experiment.test,
            forget_classes=self.experiment.task.classes,
            augment_key=keys.measure(self.seed) if self.experiment.config.train_metrics == "augmented" else None,
        )


def jobs_of(experiment: Experiment) -> list[Job]:
    """Every job of an experiment, seed by seed."""
    config = experiment.config
    return [Job(experiment, method, seed) for seed in config.seeds for method in config.methods]


def make_together(jobs: Sequence[Job], original: Variables) -> list[Predictor]:
    """As `Job.make` for several seeds of one method in one program; each takes an equal share of the time."""
    method, settings = jobs[0].entry
    problem, train = jobs[0].problem(original), jobs[0].experiment.train

    def unlearn(key: jax.Array, forget: jax.Array, retain: jax.Array) -> Predictor:
        sets = dataclasses.replace(problem, forget=train.pick(forget), retain=train.pick(retain))
        return method.unlearn(key, sets, settings)

    arguments = [(keys.method(job.seed, job.method), *job.rows()) for job in jobs]  # the images are there once
    with machine.measure() as span:
        predictors = list(population.make(unlearn, arguments, at_once=len(jobs)))
        jax.block_until_ready(predictors)
    share = machine.Span(span.seconds / len(jobs), span.compile_seconds / len(jobs), span.shared)
    for job, predictor in zip(jobs, predictors, strict=True):
        job.finish(predictor, share, side_by_side=len(jobs))
    return predictors
