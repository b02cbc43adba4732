"""An experiment: what the jobs of one command share. Its data, task and model, and its original models."""

import contextlib
import dataclasses
import functools
import hashlib
import json
import zlib
from pathlib import Path

import absl.logging
import jax
import jax.numpy as jnp
import numpy as np

import camu_jax
from camu_jax import Examples, Predictor, Variables, _validate, checkpoint, data, evaluate, loop, splits, weights
from camu_jax.audits import attack
from experiments import UsageError, console, keys, machine, own_model, sources, store, unfinished
from experiments.config import Common, Config
from experiments.defaults import ModelSettings
from experiments.tasks import Task, kind_of, parse_task


@dataclasses.dataclass(frozen=True)
class Experiment:
    """One task on one data set with one model.

    Attributes:
      config: all settings.
      source: where the data comes from.
      task: what is forgotten.
      train, test: the data (of the test set the held-out examples with `--validation`).
      model: the model.
      weights: the user's own original model; None has it trained here.
    """

    config: Config
    source: sources.Source
    task: Task
    train: Examples
    test: Examples
    model: camu_jax.Model
    weights: Variables | None = None

    @property
    def title(self) -> str:
        """Data set and task, for headings; classes have their names."""
        return f"{self.config.label(self.source.title)}, {self.task.title(self.source.classes)}"

    @property
    def folder(self) -> str:
        """The folder of the results, within `--out`."""
        return self.config.folder(self.source.name)

    @functools.cached_property
    def model_settings(self) -> store.Settings:
        """What tells results of this model from those of others."""
        return model_settings(self.config.model)

    def original_settings(self, audit: str | None = None, number: int = 0) -> store.Settings:
        """What an original model is made from: exactly this keys its checkpoint.

        Args:
          audit: whose own original model it is; None is the one that all jobs share.
          number: of the audit's original models.
        """
        config = self.config
        if self.weights is not None and audit is None:
            return {"weights": self._weights_digest}
        settings: store.Settings = {
            **self.source.settings,
            "limit": config.limit,
            "data": zlib.crc32(np.asarray(self.train.y).tobytes()),
            "model": self.model_settings,
            "pipeline": plain(config.pipeline),
            "training": plain(config.original),
            "seed": config.original_seed,
        }
        if config.validation:
            settings["validation"] = config.validation
        if audit is not None:
            settings["population"] = [audit, number]
        return settings

    def find_original(self, audit: str | None = None, number: int = 0) -> Variables | None:
        """The original model, if it is the user's or was trained before; a damaged one is set aside."""
        if self.weights is not None and audit is None:
            return self.weights
        settings = self.original_settings(audit, number)
        where = self._original_path(settings)
        try:
            return checkpoint.load(where, self.model, settings).variables
        except FileNotFoundError:
            return None
        except checkpoint.CheckpointError as error:
            if machine.primary():
                console.warn(f"{error}; it is set aside as {checkpoint.set_aside(where).name} and trained anew")
            return None

    def original(self, audit: str | None = None, number: int = 0) -> Variables:
        """The original model: the user's, the one trained before, or else it is trained and kept.

        Other processes wait for it.
        """
        if self.weights is not None and audit is None:
            return self.weights
        settings = self.original_settings(audit, number)
        with machine.claim(self._original_path(settings), wait=True):
            found = self.find_original(audit, number)
            if machine.agree(found is None):
                found = self._train_original(keys.original(self.config.original_seed, audit, number), settings)
            assert found is not None
            return found

    @property
    def original_path(self) -> Path:
        """Where the original model lies once it is there: the user's, or the one that was trained here."""
        if self.config.weights is not None:
            return Path(self.config.weights)
        return self._original_path(self.original_settings())

    def _original_path(self, settings: store.Settings) -> Path:
        name = f"{self.source.name}-{self.config.model.name}-{digest(settings)}"
        return Path(self.config.checkpoint_dir) / name

    def _train_original(self, key: jax.Array, settings: store.Settings) -> Variables:
        with (
            console.progress_bar("original model") as progress,
            self.kept(settings, self._original_path(settings)) as span,
        ):
            variables = self.train_original(key, progress)
            jax.block_until_ready(variables)
        checkpoint.save(self._original_path(settings), self.predictor(variables), settings)
        console.say(f"original model: T_s {self.accuracy(variables):.2f}, {span}")
        return variables

    def predictor(self, variables: Variables) -> Predictor:
        """The model with some variables."""
        return Predictor((variables,), self.model, self.config.pipeline)

    def accuracy(self, variables: Variables) -> float:
        """Accuracy on the test set, in percent."""
        return evaluate.accuracy(evaluate.outputs(self.predictor(variables), self.test.x).logits, self.test.y)

    @functools.cached_property
    def _weights_digest(self) -> str:
        assert self.weights is not None
        return weights.digest(self.weights)

    def kept(self, settings: store.Settings, where: Path) -> contextlib.AbstractContextManager[machine.Span]:
        """Times work, and keeps its state every few minutes; see `unfinished.kept`.

        Args:
          settings: what the work is known by.
          where: what it makes, which the caller has claimed: the same work for another folder is on its own.
        """
        folder = Path(self.config.cache_dir, "unfinished", digest({**settings, "path": str(where.resolve())}))
        return unfinished.kept(folder, self.config.keep_minutes)

    def train_original(self, key: jax.Array, progress: loop.Listener | None = None) -> Variables:
        """Trains an original model and keeps nothing."""
        options = self.config
        return camu_jax.train(
            key, self.model, self.train, options.original, pipeline=options.pipeline, progress=progress
        )


def open_experiment(config: Config, *, unlabelled: bool = False) -> Experiment:
    """Checks folders, task and data, and loads the data.

    Args:
      config: all settings.
      unlabelled: allow training rows without a label; `source.unlabelled` says which.

    Raises:
      UsageError, camu_jax.data.DataError: bad input, found before any work starts.
    """
    with contextlib.suppress(OSError):  # what is finished can still be shown
        prepare_folders(config)
    jax.config.update("jax_compilation_cache_dir", str(Path(config.cache_dir, "xla").resolve()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    absl.logging.set_verbosity(absl.logging.FATAL)  # Orbax prints the errors that it raises, with their tracebacks
    machine.use(config.devices)
    try:
        source = sources.find(
            config.dataset,
            config.data_dir,
            cache_dir=Path(config.cache_dir, "data"),
            side=config.pipeline.image_size,
            unlabelled=unlabelled,
        )
        size = source.train_size if config.limit is None else config.limit
        _validate.between(2, source.train_size, limit=size)
        _validate.between(0, size - 2, validation=config.validation)
        if kind_of(config.task) == "indices" and config.limit is not None and config.dataset not in data.DATASETS:
            raise ValueError(
                f"limit is {size}; allowed with {config.task} on data of your own: none, as rows would move"
            )
        task = parse_task(config.task, source.num_classes, size)
        train, test = source.load(config.limit, on_device=not config.stream)
        if config.validation:
            held = splits.random_rows(keys.validation(config.original_seed), len(train), config.validation)
            task = task.without(held)
            test, train = splits.split(train, held)
        task.split(keys.split(config.seeds[0]), train)
        if "paper" in config.audit:
            attack.comparable(np.asarray(test.y), task.classes)
    except data.DataError:
        raise
    except ValueError as error:
        raise UsageError(str(error)) from None
    model = build_model(config.model, config.pipeline, source.image_shape, source.dtype, source.num_classes)
    return Experiment(config, source, task, train, test, model, _weights(config, model))


def _weights(config: Config, model: camu_jax.Model) -> Variables | None:
    """The user's own original model, where there is one."""
    if config.weights is None:
        return None
    try:
        return weights.load(config.weights, jax.eval_shape(model.init, keys.trial()))
    except (weights.WeightsError, FileNotFoundError) as error:
        raise UsageError(f"original: {error}") from None


def prepare_folders(config: Common) -> None:
    """Makes the folders of a command fit to write into; call it again when there is work to do.

    Raises:
      UsageError, OSError: as `store.prepare`.
    """
    for name in ("out", "checkpoint_dir", "cache_dir"):
        store.prepare(f"--{name}", getattr(config, name))


def build_model(
    settings: ModelSettings, pipeline: camu_jax.Pipeline, shape: tuple[int, ...], dtype: str, num_classes: int
) -> camu_jax.Model:
    """The model of some settings, checked before any work.

    Args:
      settings: which model.
      pipeline: how stored images reach it.
      shape: of an input as stored.
      dtype: of the inputs as stored.
      num_classes: C.

    Raises:
      UsageError: the model does not take such inputs, or the user's own cannot be made.
    """
    taken = "float32"
    if dtype == "uint8":
        for name, values in (("mean", pipeline.mean), ("std", pipeline.std)):
            if len(values) not in (1, shape[2]):
                raise UsageError(f"pipeline.{name} is {values}; allowed: 1 or {shape[2]} numbers")
        shape = pipeline.image_shape(shape)
    elif jnp.issubdtype(dtype, jnp.integer):
        taken = dtype
    if settings.factory is not None:
        return settings.in_its_arithmetic(own_model.make(settings.factory, shape, num_classes, dtype=taken))
    model = settings.build(num_classes, shape)
    try:
        jax.eval_shape(model.init, keys.trial())
    except (ValueError, TypeError, ZeroDivisionError, OverflowError, IndexError) as error:
        raise UsageError(
            f"model.architecture {settings.architecture} does not take {shape} images ({error}); "
            "--model.factory=FILE.py:NAME gives your own model"
        ) from None
    return model


def model_settings(model: ModelSettings) -> store.Settings:
    """What decides a model; of one's own its code, wherever it lies."""
    settings = plain(model)
    factory = settings.pop("factory", None)
    if factory is None:
        return settings
    return {"factory": model.name, "code": own_model.digest(str(factory)), "compute": model.compute}


# What results and checkpoints that do not name it were made with.
_ADDED = {"schedule": "constant", "size": "full", "factory": None}


def plain(settings: object) -> store.Settings:
    """A settings dataclass as JSON would return it (tuples become lists); without what `_ADDED` holds."""
    assert dataclasses.is_dataclass(settings) and not isinstance(settings, type)
    found = json.loads(json.dumps(dataclasses.asdict(settings)))
    return {name: value for name, value in found.items() if (name, value) not in _ADDED.items()}


def digest(settings: store.Settings) -> str:
    """A short name for settings."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
