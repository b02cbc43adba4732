"""What the cells of one command share: checked folders, task, data, model, and the original model."""

import dataclasses
import hashlib
import json
import tempfile
import zlib
from pathlib import Path
from typing import Any

import absl.logging
import jax
import numpy as np

import camu_jax
from camu_jax import _validate, checkpoint, data, evaluate, tasks
from camu_jax.types import Examples
from experiments import claims, clock, console, devices
from experiments.config import UsageError

_VALIDATION_KEY = 1  # all seeds, methods and tasks share the held-out examples


@dataclasses.dataclass(frozen=True)
class Session:
    """Everything that the cells of one command share."""

    config: Any
    task: tasks.Task
    train: Examples
    test: Examples
    model: camu_jax.Model


def open_session(config: Any) -> Session:
    """Checks folders, task and data, and loads the data.

    Raises:
      UsageError, camu_jax.data.DataError: as `run`.
    """
    for folder in (config.out, config.checkpoint_dir, config.cache_dir):
        _writable(folder)
    jax.config.update("jax_compilation_cache_dir", str(Path(config.cache_dir, "xla").resolve()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    absl.logging.set_verbosity(absl.logging.ERROR)
    devices.use(config.devices)
    info = data.DATASETS[config.dataset]
    size = info.train_size if config.limit is None else config.limit
    try:
        _validate.between(2, info.train_size, limit=size)
        _validate.between(0, size - 2, validation=config.validation)
        task = tasks.parse_task(config.task, info.num_classes, size - config.validation)
        train, test = data.load(
            config.dataset,
            data_dir=config.data_dir,
            limit=config.limit,
            cache_dir=Path(config.cache_dir, "data"),
            on_device=not config.stream,
        )
        if config.validation:
            test, train = tasks.hold_out(jax.random.key(_VALIDATION_KEY), train, config.validation)
        tasks.split(jax.random.key(0), task, train)
    except data.DataError:
        raise
    except ValueError as error:
        raise UsageError(str(error)) from None
    return Session(config, task, train, test, _model(config, info))


def _model(config: Any, info: data.DataSet) -> camu_jax.Model:
    for name, values in (("mean", config.pipeline.mean), ("std", config.pipeline.std)):
        if len(values) not in (1, info.image_shape[2]):
            raise UsageError(f"pipeline.{name} is {values}; allowed: 1 or {info.image_shape[2]} numbers")
    shape = config.pipeline.image_shape(info.image_shape)
    model = config.model.build(info.num_classes, shape)
    try:
        jax.eval_shape(model.init, jax.random.key(0))
    except (ValueError, TypeError, ZeroDivisionError) as error:
        raise UsageError(
            f"model.architecture {config.model.architecture} does not take {shape} images ({error})"
        ) from None
    return model


def _writable(folder: str) -> None:
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UsageError(f"folder {folder} cannot be written ({error.strerror}); name another") from None


# --- the original model -------------------------------------------------------------------------------------------


def original_settings(session: Session) -> dict[str, Any]:
    """What the original model is made from: exactly this keys its checkpoint."""
    config = session.config
    settings = {
        "dataset": config.dataset,
        "limit": config.limit,
        "data": zlib.crc32(np.asarray(session.train.y).tobytes()),
        "model": dataclasses.asdict(config.model),
        "pipeline": plain(config.pipeline),
        "training": dataclasses.asdict(config.original),
        "seed": config.original_seed,
    }
    return {**settings, "validation": config.validation} if config.validation else settings


def plain(settings: Any) -> Any:
    """A settings dataclass as JSON would return it (tuples become lists)."""
    return json.loads(json.dumps(dataclasses.asdict(settings)))


def _original_path(session: Session) -> Path:
    settings = original_settings(session)
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
    return Path(session.config.checkpoint_dir) / f"{settings['dataset']}-{settings['model']['architecture']}-{digest}"


def find_original(session: Session) -> camu_jax.Variables | None:
    """The original model, if it was trained before; a damaged one is set aside."""
    where = _original_path(session)
    like = jax.eval_shape(session.model.init, jax.random.key(0))
    try:
        return dict(checkpoint.load(where, like, original_settings(session)))
    except FileNotFoundError:
        return None
    except checkpoint.CheckpointError as error:
        if devices.primary():
            console.warn(f"{error}; it is set aside as {checkpoint.set_aside(where).name} and trained anew")
        return None


def provide_original(session: Session) -> camu_jax.Variables:
    """The original model: the one trained before, or else it is trained and kept. Other processes wait for it."""
    with claims.claim(_original_path(session), wait=True):
        found = find_original(session)
        if devices.agree(found is None):
            return _train_original(session)
        assert found is not None
        return found


def _train_original(session: Session) -> camu_jax.Variables:
    config = session.config
    with console.progress_bar("original model") as progress, clock.measure() as span:
        variables = camu_jax.train(
            jax.random.key(config.original_seed),
            session.model,
            session.train,
            config.original,
            pipeline=config.pipeline,
            progress=progress,
        )
        jax.block_until_ready(variables)
    checkpoint.save(_original_path(session), variables, original_settings(session))
    predictor = camu_jax.Predictor((variables,), session.model, config.pipeline)
    accuracy = evaluate.accuracy(evaluate.outputs(predictor, session.test.x).logits, session.test.y)
    console.say(f"original model: T_s {accuracy:.2f}, {clock.took(span)}")
    return variables
