"""The figures of all pieces as tables; reads their files alone."""

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

from rich import box
from rich.table import Table

from experiments import machine
from experiments.bench.on_gpu.pieces import Found, read


def tables(out: Path) -> list[Table]:
    """A table for each kind of piece that is there."""
    makers: dict[str, Callable[[list[tuple[str, Found]], dict[str, float]], list[Table]]] = {
        "check": lambda found, _: [checks(found)],
        "time": times,
        "profile": lambda found, rates: [profiles(found, rates)],
        "run": lambda found, _: [runs(found)],
    }
    rates = (read(out / "time/machine.json") or {}).get("matmul", {})
    made = []
    for kind, maker in makers.items():
        files = sorted((out / kind).glob("*.json"))
        found = [(file.stem, piece) for file in files if (piece := read(file)) is not None]
        made += maker(found, rates) if found else []
    return made


def errors(out: Path) -> list[str]:
    """The last line of what each piece that raised has left."""
    files = sorted(out.glob("*/*.error.txt"))
    return [f"{file.relative_to(out)}: {file.read_text().strip().splitlines()[-1]}" for file in files]


def _table(first: str, *names: str) -> Table:
    out = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    out.add_column(first, no_wrap=True)
    for name in names:
        out.add_column(name, justify="right", no_wrap=True)
    return out


def checks(found: Sequence[tuple[str, Found]]) -> Table:
    """What was compared with the CPU: the figure that is nearest to its tolerance, or furthest beyond."""
    out = _table(f"on {found[0][1]['device']}", "against the CPU", "worst", "difference", "allowed", "figures")
    for name, piece in found:
        differences, tolerances = piece["differences"], piece["tolerances"]
        share = {n: float("inf") if d is None else d / tolerances[n] for n, d in differences.items() if n in tolerances}
        worst = max(share, key=lambda n: share[n])
        far = "not finite" if differences[worst] is None else f"{differences[worst]:.2g}"
        verdict = "same" if piece["ok"] else "DIFFERENT"
        out.add_row(name, verdict, worst, far, f"{tolerances[worst]:g}", str(len(share)))
    return out


def times(found: Sequence[tuple[str, Found]], rates: dict[str, float]) -> list[Table]:
    """Steps; seeds side by side; and above them the machine."""
    steps = _table("step", "batch", "arithmetic", "loop", "ms", "rows/s", "TFLOP/s", "of matmul", "compile s")
    seeds = _table("seeds side by side", "arithmetic", "seeds", "ms a step", "ms a step and seed", "first time, s")
    here = _table("machine", *(f"{name}, TFLOP/s" for name in rates))
    for name, piece in found:
        if name == "machine":
            here.add_row(
                f"{piece['device']}, jax {piece['versions']['jax']}", *(f"{r / 1e12:.2f}" for r in rates.values())
            )
        elif "seeds" in piece:
            ms = 1e3 * piece["seconds_a_step_and_seed"]
            label = f"{piece['kind']} {piece['architecture']}, batch {piece['batch_size']}"
            columns = (f"{ms * piece['seeds']:.3f}", f"{ms:.3f}", f"{piece['first_seconds']:.1f}")
            seeds.add_row(label, piece["compute"], str(piece["seeds"]), *columns)
        else:
            work, achieved = piece["work"], piece["flops_per_second"]
            steps.add_row(
                work["name"].replace("_", " "),
                str(work["batch_size"]),
                work["compute"],
                "single" if work["scan"] is False else "scanned",
                f"{1e3 * statistics.median(piece['seconds']):.3f}",
                f"{piece['rate']:,.0f}",
                f"{achieved / 1e12:.2f}",
                _share(achieved, rates.get(work["compute"])),
                f"{piece['compile_seconds']:.1f}",
            )
    return [table for table in (here, steps, seeds) if table.row_count]


def profiles(found: Sequence[tuple[str, Found]], rates: dict[str, float]) -> Table:
    """Single steps under the profiler; `of matmul` is while kernels work."""
    out = _table(
        "one step, profiled", "batch", "arithmetic", "kernels", "busy ms", "from first to last ms", "of matmul",
        "memory MiB", "of it temporary", "longest kernel",
    )  # fmt: skip
    for _, piece in found:
        memory, busy = piece["memory_mib"], piece["busy_seconds"]
        held = memory["argument"] + memory["output"] + memory["temp"] - memory["alias"]
        longest, seconds = (piece["top"] or [["none", 0.0]])[0]
        out.add_row(
            f"{piece['kind']} {piece['architecture']}",
            str(piece["batch_size"]),
            piece["compute"],
            str(piece["kernels"]),
            f"{1e3 * busy:.3f}",
            f"{1e3 * piece['span_seconds']:.3f}",
            _share(piece["flops"] / busy if busy else 0.0, rates.get(piece["compute"])),
            f"{held:,.0f}",
            f"{memory['temp']:,.0f}",
            f"{longest[:40]} {1e3 * seconds:.3f} ms",
        )
    return out


def runs(found: Sequence[tuple[str, Found]]) -> Table:
    """Whole jobs: each figure's mean and standard deviation over the seeds, and a seed's share of the seconds."""
    metrics = [m for m in ("R_tr", "F_tr", "T_s", "R_ts", "F_ts", "M") if any(m in p["metrics"] for _, p in found)]
    out = _table(
        f"on {found[0][1]['device']}", *metrics, "seeds", "side by side", "s a seed", "compiling s", "all, wall"
    )
    for _, piece in found:
        out.add_row(
            f"{piece['dataset']}, {piece['task']}, {piece['method']}{'' if piece['ok'] else ', FAILED'}",
            *(_spread(piece["metrics"].get(metric, [])) for metric in metrics),
            str(len(piece["seconds"])),
            str(piece["side_by_side"]),
            f"{statistics.fmean(piece['seconds']):.1f}",
            f"{sum(piece['compile_seconds']):.1f}",
            machine.words(piece["wall_seconds"]),
        )
    return out


def _spread(values: Sequence[float]) -> str:
    if not values:
        return ""
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.2f}{spread}"


def _share(rate: float, of: float | None) -> str:
    return f"{100 * rate / of:.0f}%" if of else ""
