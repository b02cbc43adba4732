"""Counts what each method computes: floating-point operations of its steps, as XLA counts them, in forward passes.

`python experiments/bench/units.py` prints them for one unlearning of `tiny` data10 by each method with its default
settings (a forward pass of one image is 1, its part of a training step about 3), beside what the method's `cost` says.
Every step is lowered for every minibatch size, none is run: the counts do not depend on the machine.
"""

import contextlib
import dataclasses
import functools
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from experiments import environment  # noqa: E402

environment.prepare(__name__)

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import tyro  # noqa: E402
from rich import box  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

import camu_jax  # noqa: E402
from camu_jax import data, evaluate, loop, tasks  # noqa: E402
from camu_jax.methods import METHODS, boundary  # noqa: E402
from experiments.settings import ModelSettings  # noqa: E402


@dataclasses.dataclass(frozen=True)
class Options:
    """Counts what each method computes, in forward passes."""

    architecture: Literal["cnn", "resnet18"] = "cnn"
    """The paper's CNN, or ResNet-18 on 28x28 images of one channel."""
    augment: Literal["none", "crop_flip"] = "none"
    """With augmentation frozen models are asked in every step, without it once an example."""


def flops(jitted: Any, *args: Any) -> float:
    """Floating-point operations of a jitted function, as XLA counts them before optimisation."""
    return float(jitted.lower(*args).cost_analysis()["flops"])


@contextlib.contextmanager
def counting() -> Iterator[list[float]]:
    """Collects the operations of everything that passes the shared loop or a frozen model; steps are not run."""
    counted: list[float] = []

    def run(step: loop.Step, state: Any, *streams: loop.Stream, key: jax.Array, epochs: int, **_: Any) -> Any:
        plans = [loop._plan(stream, streams[0].batches) for stream in streams]
        sizes = [tuple(size for _, size in batch) for batch in zip(*plans, strict=True)]
        for each in set(sizes):
            batches = [jax.tree.map(lambda a, n=n: a[:n], s.rows) for s, n in zip(streams, each, strict=True)]
            once = flops(jax.jit(functools.partial(step, key=key)), state, *batches)
            counted.append(once * epochs * sizes.count(each))
        return state

    ask, nearest_labels = evaluate._call, boundary._nearest

    def call(predictor: camu_jax.Predictor, x: jax.Array) -> camu_jax.Outputs:
        counted.append(flops(ask, predictor, x))
        return jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(ask, predictor, x))

    def nearest(*args: Any) -> tuple[jax.Array, jax.Array]:
        counted.append(flops(nearest_labels, *args))
        labels = args[4].y
        return labels, labels == labels

    with (
        mock.patch.object(loop, "run", run),
        mock.patch.object(evaluate, "_call", call),
        mock.patch.object(boundary, "_nearest", nearest),
    ):
        yield counted


def run(options: Options) -> None:
    """Counts and prints."""
    train, _ = data.load("tiny")
    forget, retain = tasks.split(jax.random.key(0), tasks.parse_task("data10", 10, len(train)), train)
    model = ModelSettings(architecture=options.architecture).build(10, train.x.shape[1:])
    pipeline = camu_jax.Pipeline(augment=options.augment)
    problem = camu_jax.Problem(
        model=model, original=model.init(jax.random.key(0)), forget=forget, retain=retain, pipeline=pipeline
    )
    predictor = camu_jax.Predictor((problem.original,), model, pipeline)
    forward = flops(jax.jit(lambda p, x: p(x)), predictor, train.x[:32]) / 32

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("method", no_wrap=True)
    for name in ("counted", "cost()", "ratio"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, method in METHODS.items():
        settings = method.settings()
        with counting() as counted:
            method.unlearn(jax.random.key(0), problem, settings)
        measured, declared = sum(counted) / forward, method.cost(problem, settings)
        table.add_row(name, f"{measured:,.0f}", f"{declared:,.0f}", f"{measured / declared:.2f}")
    console = Console(highlight=False)
    console.print(
        f"{options.architecture}, augment {options.augment}, forget {len(forget)}, retain {len(retain)}: "
        f"forward passes of one image ({forward / 1e6:.1f} million operations) in one unlearning",
        soft_wrap=True,
    )
    console.print(table)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    run(tyro.cli(Options, args=argv))


if __name__ == "__main__":
    main()
