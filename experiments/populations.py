"""Populations of models that audits judge by their margins, and the files in the cache that keep the margins."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from camu_jax import Examples, Predictor, Problem, Variables, _validate, loop, splits
from camu_jax.audits import lira, population
from experiments import console, keys, machine, store
from experiments.config import AuditName
from experiments.experiment import digest
from experiments.job import Job
from experiments.margins import MarginFiles, Margins


@dataclasses.dataclass(frozen=True)
class Population:
    """Models of one method that an audit judges by their margins, which are kept in the cache model by model.

    Attributes:
      job: whose method makes them, on whose data and with whose settings.
      audit: whose own original models they start from.
      originals: of each model the number of the original model.
      what: all that the margins are made from.
      label: what they are called.
      make_one: `(key, original, *rows, progress=None) -> Predictor`; the rows are those of `arguments`.
      arguments: of a model by its number: key, and whatever `make_one` takes behind the original model.
      parts: whose margins.
    """

    job: Job
    audit: str
    originals: Sequence[int]
    what: store.Settings
    label: str
    make_one: population.Make
    arguments: Callable[[int], tuple[jax.Array, ...]]
    parts: tuple[Examples, ...]

    @property
    def examples(self) -> int:
        """How many examples each model is asked about."""
        return sum(map(len, self.parts))

    def missing(self) -> list[int]:
        """The numbers of the models whose margins are not kept yet."""
        kept = self._files()
        return [k for k in range(len(self.originals)) if k not in kept]

    def margins(self) -> Margins:
        """The margins, `[models, examples]`; another process that wants the same ones waits."""
        files = self._files()
        with machine.claim(files.folder, wait=True):
            return population.margins(
                functools.partial(self._kept, files.folder),
                lambda k: self.given(k, self._original(k)),
                len(self.originals),
                splits.join(*self.parts),
                cache=files,
                at_once=self.job.at_once,
                progress=lambda done, of: console.say(f"{self.label}: {done} of {of}"),
            )

    def _kept(self, where: Path, key: jax.Array, *given: object) -> Predictor:
        """One model, kept while it is made; of several in one program nothing is."""
        if not _validate.is_concrete(key):
            return self.make_one(key, *given)
        what = {**self.what, "key": np.asarray(jax.random.key_data(key)).tolist()}
        with self.job.experiment.kept(what, where):
            return jax.block_until_ready(self.make_one(key, *given))

    def given(self, number: int, original: Variables) -> tuple[object, ...]:
        """What `make_one` takes for a model."""
        key, *sets = self.arguments(number)
        return key, original, *sets

    def _original(self, number: int) -> Variables:
        if not self.job.entry[0].uses_original:
            return {}
        return self.job.experiment.original(self.audit, self.originals[number])

    def _files(self) -> "MarginFiles":
        folder = Path(self.job.experiment.config.cache_dir, "margins", digest(self.what))
        return MarginFiles(folder, self.examples)


def populations(job: Job, name: AuditName) -> list[Population]:
    """The populations that an audit of a job looks at: of klom first the retrained models, of lira a half each."""
    settings = job.experiment.config.audits
    if name == "klom":
        others = [] if job.method == "retrain" else [_unlearned(job, settings.models)]
        return [_unlearned(dataclasses.replace(job, method="retrain"), 2 * settings.models), *others]
    if name == "lira":
        shadows = deal(job)
        return [_of_half(job, shadows, number) for number in range(settings.halves)]
    return []


def deal(job: Job) -> lira.Shadows:
    """The halves and forget sets of U-LiRA's shadow models, those of every seed and method alike."""
    train, config = job.experiment.train, job.experiment.config
    share = len(job.rows()[0]) / len(train)
    return lira.deal(keys.halves(config.original_seed), len(train), config.audits.halves, share)


def _unlearned(job: Job, count: int) -> Population:
    """Models that unlearned the job's forget set, each from an original model of its own."""
    method, settings = job.entry
    problem = job.problem({})

    def make_one(key: jax.Array, original: Variables, *, progress: loop.Listener | None = None) -> Predictor:
        return method.unlearn(key, dataclasses.replace(problem, original=original), settings, progress=progress)

    return Population(
        job,
        "klom",
        range(count),
        {**job.settings(), "population": "klom"},
        f"{job.method} models",
        make_one,
        lambda k: (keys.population(job.seed, "klom", job.method, k),),
        (problem.forget, problem.retain, job.experiment.test),
    )


def _of_half(job: Job, shadows: lira.Shadows, number: int) -> Population:
    """U-LiRA's shadow models of one half; their margins on the whole training set."""
    experiment = job.experiment
    train, seed = experiment.train, experiment.config.original_seed
    on_half = dataclasses.replace(experiment, train=train.pick(jnp.asarray(shadows.halves[number])))
    method, settings = job.entry
    mine = shadows.clusters == number
    forget, retain = jnp.asarray(shadows.forget[mine]), jnp.asarray(shadows.retain[mine])

    def make_one(
        key: jax.Array,
        original: Variables,
        gone: jax.Array,
        kept: jax.Array,
        *,
        progress: loop.Listener | None = None,
    ) -> Predictor:
        parts = train.pick(gone), train.pick(kept)
        problem = Problem(experiment.model, original, *parts, experiment.config.pipeline)
        return method.unlearn(key, problem, settings, progress=progress)

    # All seeds share the shadow models: the seed of the job is not part of what they are made from.
    of_all_seeds = Job(on_half, job.method, seed)
    return Population(
        of_all_seeds,
        "lira",
        [number] * len(forget),
        {**of_all_seeds.settings(), "population": ["lira", number], "forget": forget.shape[1]},
        f"{job.method} shadows {number + 1} of {len(shadows.halves)}",
        make_one,
        lambda k: (keys.population(seed, "lira", job.method, f"{number}/{k}"), forget[k], retain[k]),
        (train,),
    )
