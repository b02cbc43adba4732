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
    for folder in (config.out, config.checkpoint_dir, config.cache_dir):
        _writable(folder)
    jax.config.update("jax_compilation_cache_dir", str(Path(config.cache_dir, "xla").resolve()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    absl.logging.set_verbosity(absl.logging.ERROR)
    session = _open(config)
    todo = [(seed, method) for seed in config.seeds for method in config.methods if not _done(session, method, seed)]
    original = _find_original(session)
    _announce(session, todo, trained=original is not None)
    if todo:
        variables = original if original is not None else _train_original(session)
        for seed, method in todo:
            _cell(session, variables, method, seed)
    _print_table(session)


def _open(config: Any) -> Session:
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
    shape = config.pipeline.image_shape(info.image_shape)
    return Session(config, task, train, test, config.model.build(info.num_classes, shape))


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


def _find_original(session: Session) -> camu_jax.Variables | None:
    where = _original_path(session)
    like = jax.eval_shape(session.model.init, jax.random.key(0))
    try:
        return dict(checkpoint.load(where, like, _original_settings(session)))
    except FileNotFoundError:
        return None
    except checkpoint.CheckpointError as error:
        console.warn(f"{error}; it is set aside as {checkpoint.set_aside(where).name} and trained anew")
        return None


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
    checkpoint.save(_original_path(session), variables, _original_settings(session))
    predictor = camu_jax.Predictor((variables,), session.model, config.pipeline)
    accuracy = evaluate.accuracy(evaluate.outputs(predictor, session.test.x).logits, session.test.y)
    console.say(f"original model: T_s {accuracy:.2f}, {_took(span)}")
    return variables


def _took(span: clock.Span) -> str:
    return f"{span.seconds:.1f} s (and {span.compile_seconds:.1f} s compiling)"


# --- one cell: a method and a seed --------------------------------------------------------------------------------


def _settings(session: Session, method: str, seed: int) -> dict[str, Any]:
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
    return result


def _path(session: Session, method: str, seed: int) -> Path:
    return results.path(session.config.out, session.config.dataset, session.task.name, method, seed)


def _done(session: Session, method: str, seed: int) -> bool:
    where = _path(session, method, seed)
    try:
        found = results.read(where)
    except results.DamagedResult as error:
        console.warn(f"{error}; it is set aside as {checkpoint.set_aside(where).name} and made anew")
        return False
    if found is None:
        return False
    changed = results.difference(found["settings"], _settings(session, method, seed))
    if changed:
        raise UsageError(f"{where} was made from other settings ({changed}); give another --out, or move it away")
    return True


def _cell(session: Session, original: camu_jax.Variables, method: str, seed: int) -> None:
    config = session.config
    split_key, method_key, metric_key = jax.random.split(jax.random.key(seed), 3)
    forget, retain = tasks.split(split_key, session.task, session.train)
    label = f"{method}, seed {seed}"
    with console.progress_bar(label) as progress:
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
    metrics = evaluate.accuracies(
        predictor,
        forget,
        retain,
        session.test,
        forget_classes=session.task.classes,
        augment_key=metric_key if config.train_metrics == "augmented" else None,
    )
    result = {
        "metrics": metrics,
        "seconds": span.seconds,
        "compile_seconds": span.compile_seconds,
        "forward_equivalents": entry.cost(problem, settings),
        "info": {name: float(value) for name, value in predictor.info.items()},
        "settings": _settings(session, method, seed),
        **results.provenance(),
    }
    results.write(_path(session, method, seed), result)
    figures = "  ".join(f"{name} {value:.2f}" for name, value in metrics.items())
    console.say(f"{label}: {figures}  {_took(span)}")


def _method_key(key: jax.Array, method: str) -> jax.Array:
    """A method's own key; an ablation has that of its method, so that both see the same draws."""
    return jax.random.fold_in(key, zlib.crc32(method.partition(":")[0].encode()))


# --- what is said before and after --------------------------------------------------------------------------------


def _announce(session: Session, todo: list[tuple[int, str]], *, trained: bool) -> None:
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
        units += entry.cost(problem, settings)
    parts = [f"{len(todo)} of {cells} results to make"] + ([] if trained else ["the original model to train"])
    console.say(f"{' and '.join(parts)}: about {clock.words(units * rate)}, and compilation")


def _print_table(session: Session) -> None:
    config = session.config
    metrics = ["R_tr", "F_tr", "T_s", "R_ts", "F_ts"]
    found: dict[str, list[results.Result]] = {}
    for method in config.methods:
        runs = [results.read(_path(session, method, seed)) for seed in config.seeds]
        found[method] = [r for r in runs if r is not None]
    shown = [m for m in metrics if all(m in r["metrics"] for runs in found.values() for r in runs)]
    console.print_table(console.result_table(config.dataset, session.task.name, found, shown))
