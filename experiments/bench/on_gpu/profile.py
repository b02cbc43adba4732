"""One step of each model under JAX's profiler: which kernels work, for how long, and what memory the program takes."""

import collections
import tempfile
from collections.abc import Iterator
from pathlib import Path

import jax

from experiments import machine
from experiments.bench.on_gpu.pieces import Found, Piece
from experiments.bench.on_gpu.timing import Architecture, Compute, Sizes, work_of
from experiments.bench.our_side import Side

_SHOWN = 12  # kernels, those that take most


def pieces(sizes: Sizes) -> list[Piece]:
    """A training step and a CaMU step of each model, at its smallest and its largest batch."""
    found = []
    for architecture, batches in sizes.batches.items():
        for kind in ("train", "camu"):
            for batch in dict.fromkeys((batches[0], batches[-1])):
                for compute in ("float32", "bfloat16"):
                    name = f"profile/{kind}-{architecture}-{batch}-{compute}"
                    arguments = (sizes, architecture, kind, batch, compute)
                    found.append(Piece(name, lambda arguments=arguments: step(*arguments)))  # type: ignore[misc]
    return found


def step(sizes: Sizes, architecture: Architecture, kind: str, batch: int, compute: Compute) -> Found:
    """The step on its own: its kernels, how long any of them worked, and the compiled program's memory."""
    side = Side()
    prepared = side.prepare(work_of(sizes, architecture, kind, batch, compute, False))
    side.go(2)  # the epoch's order is compiled as well
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            side.go(1)
        events = list(_kernels(next(Path(folder).rglob("*.xplane.pb"))))
    totals: dict[str, float] = collections.defaultdict(float)
    for name, start, end in events:
        totals[name] += end - start
    longest = sorted(totals.items(), key=lambda item: -item[1])[:_SHOWN]
    memory = side.compiled().memory_analysis()
    return {
        "kind": kind,
        "architecture": architecture,
        "batch_size": batch,
        "compute": compute,
        "kernels": len(events),
        "busy_seconds": _covered([(start, end) for _, start, end in events]),
        "span_seconds": max((e for _, _, e in events), default=0.0) - min((s for _, s, _ in events), default=0.0),
        "flops": prepared.flops,
        "top": [[name, seconds] for name, seconds in longest],
        "memory_mib": {
            name: getattr(memory, f"{name}_size_in_bytes") / 2**20 for name in ("argument", "output", "temp", "alias")
        },
        "device": machine.device_name(),
    }


def _kernels(trace: Path) -> Iterator[tuple[str, float, float]]:
    """Name, begin and end in seconds of all that a device computed; on a CPU of what XLA's threads did."""
    planes = list(jax.profiler.ProfileData.from_file(str(trace)).planes)
    devices = [plane for plane in planes if plane.name.startswith("/device:")]
    lines = [line for plane in devices for line in plane.lines if line.name.startswith("Stream")]
    if not devices:
        lines = [line for plane in planes for line in plane.lines if line.name.startswith("tf_XLA")]
    for line in lines:
        for event in line.events:
            if event.duration_ns > 0 and "::" not in event.name and not event.name.startswith("end: "):
                yield event.name, event.start_ns / 1e9, (event.start_ns + event.duration_ns) / 1e9


def _covered(spans: list[tuple[float, float]]) -> float:
    """The length of the union of spans: time in which at least one kernel worked."""
    total, until = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, until))
        until = max(until, end)
    return total
