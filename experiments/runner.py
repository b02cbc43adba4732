"""The work behind `run.py`: original model, splits, methods, metrics, results; resumable at every point."""

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
from experiments import clock, console, results
from experiments.config import UsageError
from experiments.config import method as method_of


@dataclasses.dataclass(frozen=True)
class Session:
    """Everything that the cells of one command share."""

    config: Any
    task: tasks.Task
    train: Examples
    test: Examples
    model: camu_jax.Model


def run(config: Any) -> None:
    """Runs every (seed, method) that has no result yet, then prints the table.

    Raises:
      UsageError: bad input, found before any work starts.
      camu_jax.data.DataError: the data set is missing or damaged.
    """
    session = open_session(config)
    todo = missing(session)
    original = find_original(session)
    announce(session, todo, trained=original is not None)
    if todo:
        variables = original if original is not None else train_original(session)
        for seed, method in todo:
            _cell(session, variables, method, seed)
    _print_table(session)


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
    info = data.DATASETS[config.dataset]
    size = info.train_size if config.limit is None else config.limit
    try:
        _validate.between(2, info.train_size, limit=size)
        task = tasks.parse_task(config.task, info.num_classes, size)
        train, test = data.load(
            config.dataset, data_dir=config.data_dir, limit=config.limit, cache_dir=Path(config.cache_dir, "data")
        )
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


def _original_settings(session: Session) -> dict[str, Any]:
    """What the original model is made from: exactly this keys its checkpoint."""
    config = session.config
    return {
        "dataset": config.dataset,
        "limit": config.limit,
        "data": zlib.crc32(np.asarray(session.train.y).tobytes()),
        "model": dataclasses.asdict(config.model),
        "pipeline": _plain(config.pipeline),
        "training": dataclasses.asdict(config.original),
        "seed": config.original_seed,
    }


def _plain(settings: Any) -> Any:
    """A settings dataclass as JSON would return it (tuples become lists)."""
    return json.loads(json.dumps(dataclasses.asdict(settings)))


def _original_path(session: Session) -> Path:
    settings = _original_settings(session)
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
    return Path(session.config.checkpoint_dir) / f"{settings['dataset']}-{settings['model']['architecture']}-{digest}"


def find_original(session: Session) -> camu_jax.Variables | None:
    """The original model, if it was trained before; a damaged one is set aside."""
    where = _original_path(session)
    like = jax.eval_shape(session.model.init, jax.random.key(0))
    try:
        return dict(checkpoint.load(where, like, _original_settings(session)))
    except FileNotFoundError:
        return None
    except checkpoint.CheckpointError as error:
        console.warn(f"{error}; it is set aside as {checkpoint.set_aside(where).name} and trained anew")
        return None


def train_original(session: Session) -> camu_jax.Variables:
    """Trains and keeps the original model."""
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
    checkpoint.save(_original_path(session), variables, _original_settings(session))
    predictor = camu_jax.Predictor((variables,), session.model, config.pipeline)
    accuracy = evaluate.accuracy(evaluate.outputs(predictor, session.test.x).logits, session.test.y)
    console.say(f"original model: T_s {accuracy:.2f}, {_took(span)}")
    return variables


def _took(span: clock.Span) -> str:
    return f"{span.seconds:.1f} s (and {span.compile_seconds:.1f} s compiling)"


# --- one cell: a method and a seed --------------------------------------------------------------------------------


def missing(session: Session, extra: results.Extra | None = None) -> list[tuple[int, str]]:
    """The (seed, method) that have no result yet."""
    config = session.config
    return [(s, m) for s in config.seeds for m in config.methods if read_result(session, m, s, extra) is None]


def result_settings(session: Session, method: str, seed: int, extra: results.Extra | None = None) -> dict[str, Any]:
    """Everything that decides a result; a result made from other settings is another result."""
    config, task = session.config, session.task
    entry, settings = method_of(config, method)
    result: dict[str, Any] = {
        "dataset": config.dataset,
        "limit": config.limit,
        "task": task.name,
        "rows": zlib.crc32(np.asarray(task.rows, np.int64).tobytes()) if task.rows else None,
        "seed": seed,
        "train_metrics": config.train_metrics,
        "model": dataclasses.asdict(config.model),
        "pipeline": _plain(config.pipeline),
        method: _plain(settings),
    }
    if entry.uses_original:
        result["original"] = _original_settings(session)
    return result if extra is None else {**result, extra.name: _plain(extra.settings)}


def result_path(session: Session, method: str, seed: int, extra: results.Extra | None = None) -> Path:
    """Where the result of a cell belongs."""
    config = session.config
    return results.path(config.out, config.dataset, session.task.name, method, seed, extra)


def read_result(session: Session, method: str, seed: int, extra: results.Extra | None = None) -> results.Result | None:
    """The result of a cell, None where there is none; a damaged one is set aside.

    Raises:
      UsageError: it was made from other settings.
    """
    where = result_path(session, method, seed, extra)
    try:
        found = results.read(where)
    except results.DamagedResult as error:
        console.warn(f"{error}; it is set aside as {checkpoint.set_aside(where).name} and made anew")
        return None
    if found is None:
        return None
    changed = results.difference(found["settings"], result_settings(session, method, seed, extra))
    if changed:
        raise UsageError(f"{where} was made from other settings ({changed}); give another --out, or move it away")
    return found


@dataclasses.dataclass(frozen=True)
class Unlearned:
    """What a method made in one cell: the predictor, its problem, its key for measuring, and the time it took."""

    predictor: camu_jax.Predictor
    problem: camu_jax.Problem
    metric_key: jax.Array
    span: clock.Span


def unlearn(session: Session, original: camu_jax.Variables, method: str, seed: int) -> Unlearned:
    """Splits the data and runs one method."""
    config = session.config
    split_key, method_key, metric_key = jax.random.split(jax.random.key(seed), 3)
    forget, retain = tasks.split(split_key, session.task, session.train)
    with console.progress_bar(f"{method}, seed {seed}") as progress:
        problem = camu_jax.Problem(
            model=session.model,
            original=original,
            forget=forget,
            retain=retain,
            pipeline=config.pipeline,
            progress=progress,
        )
        entry, settings = method_of(config, method)
        with clock.measure() as span:
            predictor = entry.unlearn(_method_key(method_key, method), problem, settings)
            jax.block_until_ready(predictor)
    return Unlearned(predictor, problem, metric_key, span)


def accuracies(session: Session, done: Unlearned, predictor: camu_jax.Predictor) -> dict[str, float]:
    """The paper's accuracies of a predictor on the data of a cell."""
    return evaluate.accuracies(
        predictor,
        done.problem.forget,
        done.problem.retain,
        session.test,
        forget_classes=session.task.classes,
        augment_key=done.metric_key if session.config.train_metrics == "augmented" else None,
    )


def _cell(session: Session, original: camu_jax.Variables, method: str, seed: int) -> None:
    done = unlearn(session, original, method, seed)
    entry, settings = method_of(session.config, method)
    metrics = accuracies(session, done, done.predictor)
    result = {
        "metrics": metrics,
        "seconds": done.span.seconds,
        "compile_seconds": done.span.compile_seconds,
        "forward_equivalents": entry.cost(done.problem, settings),
        "info": {name: float(value) for name, value in done.predictor.info.items()},
        "settings": result_settings(session, method, seed),
        **results.provenance(),
    }
    results.write(result_path(session, method, seed), result)
    figures = "  ".join(f"{name} {value:.2f}" for name, value in metrics.items())
    console.say(f"{method}, seed {seed}: {figures}  {_took(done.span)}")


def _method_key(key: jax.Array, method: str) -> jax.Array:
    """A method's own key; an ablation has that of its method, so that both see the same draws."""
    return jax.random.fold_in(key, zlib.crc32(method.partition(":")[0].encode()))


# --- what is said before and after --------------------------------------------------------------------------------


def announce(session: Session, todo: list[tuple[int, str]], *, trained: bool, extra_units: float = 0.0) -> None:
    """Says what will be done, and about how long it will take on this device.

    Args:
      session: what was opened.
      todo: the missing (seed, method).
      trained: whether the original model is there.
      extra_units: forward-pass equivalents of a cell beyond the method's own.
    """
    config = session.config
    cells = len(config.seeds) * len(config.methods)
    forget, retain = tasks.split(jax.random.key(0), session.task, session.train)
    console.say(
        f"{config.dataset}, {session.task.name}: forget {len(forget)} of {len(session.train)} training examples, "
        f"{len(session.test)} test examples"
    )
    console.say(
        f"{', '.join(config.methods)}; seeds {', '.join(map(str, config.seeds))}; on {results.device_name()} "
        f"({jax.default_backend()})"
    )
    if not todo:
        console.say(f"all {cells} results are in {config.out}; nothing to do")
        return
    rate = clock.seconds_per_forward(session.model, session.train, config.original, config.pipeline)
    units = 0.0 if trained else 3.0 * len(session.train) * config.original.epochs
    problem = camu_jax.Problem(model=session.model, original={}, forget=forget, retain=retain, pipeline=config.pipeline)
    for _, name in todo:
        entry, settings = method_of(config, name)
        units += entry.cost(problem, settings) + extra_units
    parts = [f"{len(todo)} of {cells} results to make"] + ([] if trained else ["the original model to train"])
    console.say(f"{' and '.join(parts)}: about {clock.words(units * rate)}, and compilation")


def _print_table(session: Session) -> None:
    config = session.config
    metrics = ["R_tr", "F_tr", "T_s", "R_ts", "F_ts"]
    found: dict[str, list[results.Result]] = {}
    for method in config.methods:
        runs = [read_result(session, method, seed) for seed in config.seeds]
        found[method] = [r for r in runs if r is not None]
    shown = [m for m in metrics if all(m in r["metrics"] for runs in found.values() for r in runs)]
    console.print_results(config.dataset, session.task.name, found, shown, with_paper=config.limit is None)
