"""What our child process runs: the benchmarks through the library, exactly as the runner calls it."""

import dataclasses
import functools
import os
import time
from collections.abc import Callable
from typing import Any, cast
from unittest import mock

import absl.logging
import jax
import jax.numpy as jnp
import numpy as np

import camu_jax
from camu_jax import Camu, data, evaluate, loop
from camu_jax.methods.retrain import Retrain
from camu_jax.optimizers import adam_l2
from camu_jax.problem import Predictor, Problem
from camu_jax.training import TrainState, train_step
from camu_jax.types import Examples, Tuples
from experiments import machine
from experiments.bench import our_job
from experiments.bench.work import Prepared, Work
from experiments.defaults import Defaults, defaults
from experiments.tasks import Task

_LIMIT = 12_000  # training images that a benchmark of steps loads
_QUICK = 0.5  # seconds of a step that the loop may scan on a CPU
_DATA10 = Task("data10", "data", percent=10)


@dataclasses.dataclass(frozen=True)
class _Job:
    """`turn(n)` makes n steps or passes and returns what to wait for.

    `warm()` compiles them, if not `turn(1)` does; `compiled()` is the program of one step.
    """

    turn: Callable[[int], Any]
    rows: int
    steps_per_pass: int
    flops: float
    settings: Any
    compiled: Callable[[], Any] | None = None
    warm: Callable[[], Any] | None = None


class Side:
    """Our half of a pair."""

    def __init__(self) -> None:
        absl.logging.set_verbosity(absl.logging.ERROR)
        self.job: _Job | None = None

    def machine(self) -> dict[str, Any]:
        """Device and version."""
        backend = jax.default_backend()
        cores = len(os.sched_getaffinity(0))
        return {
            "jax": jax.__version__,
            "device": jax.devices()[0].device_kind,
            "cores": cores,
            "accelerator": backend != "cpu",
        }

    def matmul_rate(self, n: int, tries: int, dtype: str = "float32") -> float:
        """Floating-point operations a second of the best of several `n` by `n` products, at JAX's default precision."""
        a = jax.random.uniform(jax.random.key(0), (n, n), jnp.dtype(dtype))
        product = jax.jit(jnp.matmul)
        jax.block_until_ready(product(a, a))
        return 2 * n**3 / min(_seconds(lambda: product(a, a)) for _ in range(tries))

    def prepare(self, work: Work, path: str = "") -> Prepared:
        """Builds the benchmark, compiles it, and writes data and initial variables for PyTorch to `path`, if any."""
        train, test = load(work)
        chosen = defaults("digit" if work.architecture == "cnn" else "c10", "data10", "reference")
        pipeline = chosen.pipeline
        shape = train.x.shape[1:]
        built = dataclasses.replace(chosen.model, compute=work.compute, width=work.width)
        model = built.build(train.num_classes, shape)
        variables = jax.jit(model.init)(jax.random.key(0))
        if path:
            np.savez(path, **_arrays("train", train), **_arrays("test", test), **_flat(variables))

        problem = Problem(model, variables, train, train, pipeline)
        make = _MAKE[work.kind]
        self.job = job = make(work, problem, test, chosen)
        with machine.measure() as first:
            jax.block_until_ready(job.warm() if job.warm else job.turn(1))
        compile_seconds = first.compile_seconds
        scans = work.scan is not False and (jax.default_backend() != "cpu" or first.seconds < _QUICK)
        if scans and job.steps_per_pass > 1:  # the scanned program of a whole pass
            with machine.measure() as scanned:
                jax.block_until_ready(job.turn(job.steps_per_pass))
            compile_seconds += scanned.compile_seconds
        return Prepared(
            arrays=path,
            settings=dataclasses.asdict(job.settings) if job.settings else {},
            mean=pipeline.mean,
            std=pipeline.std,
            augment=pipeline.augment,
            num_classes=train.num_classes,
            accelerator=jax.default_backend() != "cpu",
            steps_per_pass=job.steps_per_pass,
            rows=job.rows,
            flops=job.flops,
            first_seconds=first.seconds,
            compile_seconds=compile_seconds,
        )

    def go(self, n: int) -> dict[str, Any]:
        """Makes `n` steps or passes: their `seconds`, and the `metrics` of a whole run."""
        assert self.job is not None
        turn = self.job.turn
        result: dict[str, Any] = {}
        seconds = _seconds(lambda: result.setdefault("out", turn(n)))
        metrics = result["out"] if isinstance(result["out"], dict) else None
        return {"seconds": seconds, "metrics": metrics}

    def compiled(self) -> Any:
        """The compiled program of one step; it tells its memory."""
        assert self.job is not None and self.job.compiled is not None
        return self.job.compiled()

    def peak_device_memory(self) -> float | None:
        """In MiB; None on the CPU."""
        return machine.peak_memory()["device"]

    def check(self, architecture: str, dtype: str, size: int, start: str, out: str) -> None:
        """Writes a state and a batch to `start`, what one training step and one CaMU update make of it to `out`."""
        with jax.default_matmul_precision("highest"), jax.enable_x64(dtype == "float64"):
            before, after = _check(architecture, jnp.dtype(dtype), size)
        np.savez(start, **before)
        np.savez(out, **after)


def _seconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    jax.block_until_ready(work())
    return time.perf_counter() - start


def load(work: Work) -> tuple[Examples, Examples]:
    """The data set, whole for a whole run; `tiny` grows to 32x32x3 for ResNet-18."""
    limit = None if work.dataset == "tiny" or work.whole or work.kind in ("evaluate", "attack") else _LIMIT
    train, test = data.load(cast(data.Name, work.dataset), data_dir=work.data_dir, limit=limit)
    if work.architecture == "resnet18" and train.x.shape[-1] == 1:
        pad = ((0, 0), (2, 2), (2, 2), (0, 0))
        train, test = (
            dataclasses.replace(part, x=jnp.repeat(jnp.pad(part.x, pad), 3, axis=-1)) for part in (train, test)
        )
    if work.rows:
        count = 2 * work.rows if work.kind == "camu" else work.rows  # forget and retain examples
        train = train[jnp.arange(count) % len(train)]
    return train, test


def _arrays(name: str, part: Examples) -> dict[str, Any]:
    return {f"{name}/x": np.asarray(part.x), f"{name}/y": np.asarray(part.y)}


def _flat(variables: Any, prefix: str = "") -> dict[str, Any]:
    """Arrays by path, `params/Conv_0/kernel`."""
    leaves = jax.tree_util.tree_leaves_with_path(variables)
    return {prefix + "/".join(str(key.key) for key in path): np.asarray(leaf) for path, leaf in leaves}


def _runner(step: loop.Step, state: Any, *streams: loop.Stream, scan: bool | None = None) -> Callable[[int], Any]:
    """A turn of n steps of the shared loop; the state goes on from turn to turn."""
    held = [state]

    def turn(n: int) -> Any:
        epochs = -(-n // streams[0].batches)
        held[0] = loop.run(step, held[0], *streams, key=jax.random.key(1), epochs=epochs, max_steps=n, scan=scan)
        return held[0]

    return turn


def _step_job(work: Work, step: loop.Step, state: Any, streams: tuple[loop.Stream, ...], settings: Any) -> _Job:
    def compiled() -> Any:
        jitted, batches = _step_of(step, streams)
        return jitted.lower(state, *batches).compile()

    turn = _runner(step, state, *streams, scan=work.scan)
    count = _flops_of_step(step, state, streams)
    return _Job(turn, streams[0].batch_size, streams[0].batches, count, settings, compiled)


def _camu(work: Work, problem: Problem, test: Examples, chosen: Defaults) -> _Job:
    """What the method CaMU hands to the loop."""
    del test
    settings = _camu_settings(chosen, batch_size=work.batch_size)
    train = problem.forget
    rows = work.rows or (512 if len(train) < _LIMIT else 5888)  # whole minibatches of every size
    problem = dataclasses.replace(problem, forget=train[:rows], retain=train[rows:])
    return _step_job(work, *_caught(problem, settings), settings)


def _camu_settings(chosen: Defaults, **changes: Any) -> Camu:
    settings = chosen.settings["camu"]
    assert isinstance(settings, Camu)
    return dataclasses.replace(settings, **changes)


def _caught(problem: Problem, settings: Camu) -> tuple[loop.Step, Any, tuple[loop.Stream, ...]]:
    """Step, first state and streams that CaMU hands to the loop, which is not run."""
    caught: list[Any] = []

    def catch(step: loop.Step, state: Any, *streams: loop.Stream, **_: Any) -> Any:
        caught.append((step, state, streams))
        return state

    with mock.patch.object(loop, "run", catch):
        camu_jax.unlearn(jax.random.key(0), problem, settings)
    step, state, streams = caught[0]
    return step, state, streams


def flops(jitted: Any, *args: Any) -> float:
    """Floating-point operations of a jitted function, as XLA counts them before optimisation.

    Lowered for a GPU, where all convolutions are XLA's: it does not know what oneDNN's count.
    """
    return float(jitted.trace(*args).lower(lowering_platforms=("cuda",)).cost_analysis()["flops"])


def _flops_of_step(step: loop.Step, state: Any, streams: tuple[loop.Stream, ...]) -> float:
    jitted, batches = _step_of(step, streams)
    return flops(jitted, state, *batches)


def _step_of(step: loop.Step, streams: tuple[loop.Stream, ...]) -> tuple[Any, list[Any]]:
    """A step on its own, jitted, and minibatches for it."""
    batches = [jax.tree.map(lambda a, n=stream.batch_size: a[:n], stream.rows) for stream in streams]
    return jax.jit(functools.partial(step, key=jax.random.key(0))), batches


def _flops_of_image(problem: Problem) -> float:
    """Of one image's forward pass."""
    predictor = Predictor((problem.original,), problem.model, problem.pipeline)
    return flops(jax.jit(lambda p, x: p(x)), predictor, problem.forget.x[:32]) / 32


def _train(work: Work, problem: Problem, test: Examples, chosen: Defaults) -> _Job:
    del test
    settings = dataclasses.replace(chosen.original, batch_size=work.batch_size)
    optimizer = adam_l2(settings.learning_rate, settings.l2)
    state = TrainState.create(problem.model, problem.original, problem.pipeline, optimizer)
    whole = len(problem.forget) // work.batch_size * work.batch_size
    stream = loop.Stream(problem.forget[:whole], work.batch_size)
    return _step_job(work, train_step, state, (stream,), settings)


def _unlearn(work: Work, problem: Problem, test: Examples, chosen: Defaults) -> _Job:
    """From loaded data and an original model to the metrics, task data10."""
    settings = _camu_settings(chosen, batch_size=work.batch_size, epochs=work.epochs)
    train = problem.forget

    def split() -> Problem:
        forget, retain = _DATA10.split(jax.random.key(0), train)
        return dataclasses.replace(problem, forget=forget, retain=retain)

    def once() -> dict[str, float]:
        whole = split()
        predictor = camu_jax.unlearn(jax.random.key(1), whole, settings)
        return evaluate.accuracies(predictor, whole.forget, whole.retain, test)

    count = _flops_of_unlearning(split(), settings) + (len(train) + len(test)) * _flops_of_image(problem)
    return _Job(lambda n: [once() for _ in range(n)][-1], 1, 1, count, settings)


def _flops_of_unlearning(problem: Problem, settings: Camu) -> float:
    """Of CaMU, with the embeddings of R* and F*."""
    step, state, streams = _caught(problem, settings)
    steps = settings.epochs * len(streams[0]) / settings.batch_size
    return steps * _flops_of_step(step, state, streams) + 2 * len(streams[0]) * _flops_of_image(problem)


def _whole_job(work: Work, problem: Problem, test: Examples, chosen: Defaults) -> _Job:
    """A whole job, task data10; one epoch of each model compiles all of it."""
    retrain = chosen.settings["retrain"]
    assert isinstance(retrain, Retrain)
    settings = our_job.JobSettings(chosen.original, retrain, _camu_settings(chosen)).with_epochs(work.epochs)
    train = problem.forget
    forget, retain = _DATA10.split(jax.random.key(0), train)
    of_train = _train(work, problem, test, chosen).flops / work.batch_size
    trained = settings.original.epochs * len(train) + settings.retrain.epochs * len(retain)
    of_camu = _flops_of_unlearning(dataclasses.replace(problem, forget=forget, retain=retain), settings.camu)
    asked = 2 * (len(train) + len(test)) + len(test)  # the audits' own questions are few
    count = trained * of_train + of_camu + asked * _flops_of_image(problem)
    return _Job(
        lambda n: [our_job.run(problem, test, _DATA10, settings) for _ in range(n)][-1],
        rows=1,
        steps_per_pass=1,
        flops=count,
        settings=settings,
        warm=lambda: our_job.run(problem, test, _DATA10, settings.with_epochs(1)),
    )


def _evaluate(work: Work, problem: Problem, test: Examples, chosen: Defaults) -> _Job:
    del chosen
    predictor = Predictor((problem.original,), problem.model, problem.pipeline)

    def once() -> Any:
        return evaluate.outputs(predictor, test.x, batch_size=work.batch_size)

    count = len(test) * _flops_of_image(problem)
    return _Job(lambda n: [once() for _ in range(n)][-1], len(test), 1, count, None)


def _attack(work: Work, problem: Problem, test: Examples, chosen: Defaults) -> _Job:
    """Outputs and attacks of the audit `paper` on the original model, task data10."""
    del work, chosen
    forget, retain = _DATA10.split(jax.random.key(0), problem.forget)
    problem = dataclasses.replace(problem, forget=forget, retain=retain)
    predictor = Predictor((problem.original,), problem.model, problem.pipeline)

    def once() -> dict[str, float | None]:
        found = camu_jax.audit(jax.random.key(1), predictor, problem, test)
        return {name: estimate.value for name, estimate in found.figures.items()}

    return _Job(lambda n: [once() for _ in range(n)][-1], 1, 1, 0.0, None)


_MAKE = {
    "camu": _camu,
    "train": _train,
    "unlearn": _unlearn,
    "evaluate": _evaluate,
    "attack": _attack,
    "job": _whole_job,
}


def _check(architecture: str, dtype: Any, size: int) -> tuple[dict[str, Any], dict[str, Any]]:
    train, _ = load(Work(name="check", kind="train", architecture=architecture, batch_size=size, dataset="tiny"))
    chosen = defaults("digit" if architecture == "cnn" else "c10", "data10", "reference")
    model = chosen.model.build(10, train.x.shape[1:])
    settings = _camu_settings(chosen)
    rates = [chosen.original.learning_rate, settings.kl_learning_rate, settings.ce_learning_rate]
    init_key, noise_key, mean_key, var_key = jax.random.split(jax.random.key(0), 4)
    with jax.enable_x64(False):  # the layers are initialised in float32
        variables = model.init(init_key)
    variables = jax.tree.map(lambda a: a.astype(dtype), variables)
    stats = _perturbed(mean_key, var_key, variables["batch_stats"])
    variables = {**variables, "batch_stats": stats}

    x = train.x[: 2 * size].astype(dtype) / 255
    forget, retain = Examples(x[:size], train.y[:size], 10), Examples(x[size:], train.y[size : 2 * size], 10)
    noise = jax.random.uniform(noise_key, retain.x.shape, dtype)
    y_star = jnp.where(retain.y == forget.y, (forget.y + 1) % 10, retain.y)
    batch = Tuples(forget, Examples(retain.x + noise, y_star, 10), retain)

    before = {
        "forget": forget.x,
        "y_forget": forget.y,
        "counterfactual": batch.counterfactual.x,
        "y_star": y_star,
        "retain": retain.x,
        "y_retain": retain.y,
        "rates": np.asarray(rates),
    }
    state = TrainState.create(model, variables, camu_jax.Pipeline(), adam_l2(rates[0], 1e-4))
    state, train_metrics = jax.jit(train_step)(state, forget, key=jax.random.key(0))
    params = camu_jax.init_camu(
        model,
        variables,
        settings.losses,
        kl_optimizer=adam_l2(settings.kl_learning_rate, settings.l2),
        ce_optimizer=adam_l2(settings.ce_learning_rate, settings.l2),
    )
    params, metrics = camu_jax.camu_step(params, batch)
    after = {
        **_flat(state.variables, "train/"),
        "train/loss": np.asarray(train_metrics["loss"]),
        **_flat(params.variables, "camu/"),
        **{f"camu/{name}": np.asarray(value) for name, value in metrics.items()},
    }
    return {**{name: np.asarray(a) for name, a in before.items()}, **_flat(variables)}, after


def _perturbed(mean_key: jax.Array, var_key: jax.Array, stats: Any) -> Any:
    """Running statistics that are not the initial 0 and 1."""
    leaves, tree = jax.tree_util.tree_flatten_with_path(stats)
    changed = []
    for i, (path, leaf) in enumerate(leaves):
        if path[-1].key == "var":
            changed.append(jax.random.uniform(jax.random.fold_in(var_key, i), leaf.shape, leaf.dtype, 0.5, 1.5))
        else:
            changed.append(0.1 * jax.random.normal(jax.random.fold_in(mean_key, i), leaf.shape, leaf.dtype))
    return jax.tree.unflatten(tree, changed)
