"""Times of steps, scanned and one by one, and of seeds side by side, on images of `tiny`."""

import dataclasses
import statistics
import time
from collections.abc import Callable
from typing import Any, Literal

import jax

import camu_jax
from camu_jax import loop
from camu_jax.audits import population
from experiments import machine
from experiments.bench.on_gpu.pieces import Found, Piece
from experiments.bench.our_side import Side, load
from experiments.bench.work import Work
from experiments.defaults import defaults

Architecture = Literal["cnn", "resnet18"]
Compute = Literal["float32", "bfloat16"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much is done; `QUICK` is for a try on a CPU."""

    steps: int = loop._SCAN  # of an epoch: one program where the loop scans
    turn_seconds: float = 1.0
    turns: int = 3
    matmul: int = 8192
    batches: dict[Architecture, tuple[int, ...]] = dataclasses.field(
        default_factory=lambda: {"cnn": (32, 256, 2048), "resnet18": (32, 128, 512)}
    )
    seeds: tuple[int, ...] = (1, 2, 4, 8, 16)
    width: dict[Architecture, int | None] = dataclasses.field(default_factory=lambda: {"cnn": None, "resnet18": None})


FULL = Sizes()
QUICK = Sizes(
    steps=2,
    turn_seconds=0.0,
    turns=1,
    matmul=128,
    batches={"cnn": (8,), "resnet18": (4,)},
    seeds=(1, 2),
    width={"cnn": None, "resnet18": 4},
)


def pieces(sizes: Sizes) -> list[Piece]:
    """The machine's rates; every model's steps; seeds side by side."""
    computes: tuple[Compute, ...] = ("float32", "bfloat16")
    found = [Piece("time/machine", lambda: rates(sizes))]
    for architecture, batches in sizes.batches.items():
        for kind in ("train", "camu"):
            for work in works(sizes, architecture, kind, computes, batches):
                name = f"time/{kind}-{architecture}-{work.batch_size}-{work.compute}"
                name += "-single" if work.scan is False else ""
                found.append(Piece(name, lambda work=work: steps(work, sizes)))  # type: ignore[misc]
        for kind in ("train", "camu"):
            for compute in computes:
                for seeds in sizes.seeds:
                    name = f"time/side_by_side-{kind}-{architecture}-{compute}-{seeds:02}"
                    make = _side_by_side(sizes, architecture, kind, compute, seeds)
                    found.append(Piece(name, make))
    return found


def works(
    sizes: Sizes, architecture: Architecture, kind: str, computes: tuple[Compute, ...], batches: tuple[int, ...]
) -> list[Work]:
    """Scanned epochs of every batch size and arithmetic; and single steps of the smallest batch."""
    plans: list[tuple[int, Compute, bool | None]] = [
        (batch, compute, None) for batch in batches for compute in computes
    ]
    plans += [(batches[0], compute, False) for compute in computes]
    return [work_of(sizes, architecture, kind, batch, compute, scan) for batch, compute, scan in plans]


def work_of(
    sizes: Sizes, architecture: Architecture, kind: str, batch: int, compute: Compute, scan: bool | None
) -> Work:
    """A benchmark of the step `kind`, `train` or `camu`."""
    return Work(
        name=f"{kind}_{architecture}",
        kind="train" if kind == "train" else "camu",
        architecture=architecture,
        batch_size=batch,
        dataset="tiny",
        rows=batch * sizes.steps,
        compute=compute,
        width=sizes.width[architecture],
        scan=scan,
    )


def rates(sizes: Sizes) -> Found:
    """Operations a second of a matrix product, by dtype: what every other figure is a share of."""
    side = Side()
    rate = {dtype: side.matmul_rate(sizes.matmul, 10, dtype) for dtype in ("float32", "bfloat16")}
    with jax.default_matmul_precision("highest"):
        rate["float32, highest"] = side.matmul_rate(sizes.matmul, 10)
    return {"matmul": rate, "size": sizes.matmul, **machine.provenance()}


def steps(work: Work, sizes: Sizes) -> Found:
    """Seconds a step, the median of some turns of whole epochs."""
    side = Side()
    prepared = side.prepare(work)
    epoch = prepared.steps_per_pass
    side.go(epoch)
    first = side.go(epoch)["seconds"]
    n = epoch * max(1, round(sizes.turn_seconds / first))
    seconds = [side.go(n)["seconds"] / n for _ in range(sizes.turns)]
    step = statistics.median(seconds)
    return {
        "work": dataclasses.asdict(work),
        "seconds": seconds,
        "rate": prepared.rows / step,
        "flops": prepared.flops,
        "flops_per_second": prepared.flops / step,
        "compile_seconds": prepared.compile_seconds,
        "device": machine.device_name(),
    }


def _side_by_side(
    sizes: Sizes, architecture: Architecture, kind: str, compute: Compute, seeds: int
) -> Callable[[], Found]:
    return lambda: side_by_side(sizes, architecture, kind, compute, seeds)


def side_by_side(sizes: Sizes, architecture: Architecture, kind: str, compute: Compute, seeds: int) -> Found:
    """Seconds of an epoch of the method (`train` is Retrain) for so many seeds in one program, each with its rows."""
    chosen = defaults("digit" if architecture == "cnn" else "c10", "data10", "reference")
    batch = sizes.batches[architecture][0]
    work = work_of(sizes, architecture, "train", 2 * batch, compute, None)
    train, _ = load(work)
    built = dataclasses.replace(chosen.model, compute=compute, width=work.width)
    model = built.build(train.num_classes, train.x.shape[1:])
    original = jax.jit(model.init)(jax.random.key(0))
    settings = chosen.settings["retrain" if kind == "train" else "camu"]
    settings = dataclasses.replace(settings, epochs=1, batch_size=batch)  # type: ignore[call-arg]

    def make_one(key: jax.Array, forget: jax.Array, retain: jax.Array) -> camu_jax.Predictor:
        problem = camu_jax.Problem(model, original, train.pick(forget), train.pick(retain), chosen.pipeline)
        return camu_jax.unlearn(key, problem, settings)

    def argument(seed: int) -> tuple[Any, ...]:
        rows = jax.random.permutation(jax.random.key(seed), len(train))
        return jax.random.key(seed), rows[: len(train) // 2], rows[len(train) // 2 :]

    arguments = [argument(seed) for seed in range(seeds)]

    def once() -> float:
        start = time.perf_counter()
        jax.block_until_ready(list(population.make(make_one, arguments, at_once=seeds)))
        return time.perf_counter() - start

    first = once()
    seconds = [once() for _ in range(sizes.turns)]
    return {
        "kind": kind,
        "architecture": architecture,
        "compute": compute,
        "seeds": seeds,
        "steps": sizes.steps,
        "batch_size": batch,
        "first_seconds": first,
        "seconds": seconds,
        "seconds_a_step_and_seed": statistics.median(seconds) / seeds / sizes.steps,
        "device": machine.device_name(),
    }
