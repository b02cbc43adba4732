"""Times our updates against the same updates in PyTorch eager mode, turn by turn on one machine.

`python experiments/bench/speed.py --what camu_cnn train_cnn` needs no download; `--data_dir=DIR` takes Digit and CIFAR
from a prepared TFDS folder (`digit` and `job` need it). `--check` compares the results of one update instead. PyTorch
is not among the project's requirements: `pip install -r experiments/bench/requirements.txt` (the CPU build will do).
"""

import dataclasses
import importlib.util
import json
import math
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import tyro  # noqa: E402
from rich import box  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

from experiments.bench import check  # noqa: E402
from experiments.bench.pair import ChildError, Pair  # noqa: E402
from experiments.bench.work import Prepared, What, Work, select  # noqa: E402

_HALF = {"float32": "", "bfloat16": ", bf16"}
_PAUSE = 0.2  # seconds between turns, in which the threads of the library that worked go to sleep


@dataclasses.dataclass(frozen=True)
class Options:
    """Times our updates against the same updates in PyTorch eager mode."""

    what: tuple[What, ...] = ("camu_cnn", "train_cnn")
    """camu_*: the CaMU step; train_*: a training step; digit: a whole data10 run on Digit; evaluate: the test set;
    attack: the audit `paper`; job: all of a data10 job on Digit, from loaded data: original, Retrain, CaMU, metrics and
    the audit `paper` of both."""
    data_dir: str | None = None
    """A prepared TFDS folder; without it the steps run on `tiny`."""
    cifar: Literal["c10", "c100"] = "c10"
    """The images of ResNet-18, where data_dir is given."""
    rounds: int = 5
    """Rounds; in each, every variant has one turn."""
    seconds: float = 4.0
    """About how long our turn shall take (one step at least)."""
    epochs: int = 10
    """Epochs of a whole run, of `digit` and `job`; Retrain has twice as many."""
    compute: Literal["float32", "bfloat16"] = "float32"
    """Arithmetic of both models' passes; bfloat16 is autocast in PyTorch."""
    batch_sizes: tuple[int, ...] = ()
    """Only these, for camu_*."""
    json: Path | None = None
    """Where the figures go."""
    check: bool = False
    """Compares one training step and one CaMU update of both libraries, and times nothing."""

    def __post_init__(self) -> None:
        for name in ("rounds", "epochs", "seconds"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; allowed: above 0")


def paired_ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """How many times faster ours is: the median over the rounds of their seconds by ours, round by round."""
    return statistics.median(b / a for a, b in zip(ours, theirs, strict=True))


def steps_of_a_turn(first: float, prepared: Prepared, seconds: float) -> int:
    """Steps that take ours about `seconds`; whole passes on an accelerator, where the loop scans."""
    steps = max(1, round(seconds / first))
    whole = prepared.steps_per_pass
    return math.ceil(steps / whole) * whole if prepared.accelerator else steps


def measure(work: Work, options: Options) -> dict[str, Any]:
    """Runs one benchmark in a fresh pair of processes: see the keys below."""
    with tempfile.TemporaryDirectory() as folder, Pair() as pair:
        ours = pair.ours.ask("machine")
        theirs = pair.torch.ask("machine", ours["accelerator"])
        prepared: Prepared = pair.ours.ask("prepare", work, str(Path(folder, "arrays.npz")))
        peer = pair.torch.ask("prepare", work, prepared)
        first = prepared.first_seconds
        if not work.whole:
            first = min(pair.ours.ask("go", 1)["seconds"] for _ in range(2))
        n = 1 if work.whole else steps_of_a_turn(first, prepared, options.seconds)
        turns: dict[str, list[float]] = {"ours": [], **{v: [] for v in peer["variants"]}}
        metrics: dict[str, Any] = {}
        for _ in range(options.rounds):
            for variant, seconds in turns.items():
                time.sleep(_PAUSE)
                if not work.whole:
                    _turn(pair, variant, 1)  # not timed: right after the other's turn memory is handed out slowly
                done = _turn(pair, variant, n)
                seconds.append(done["seconds"] / n)
                if done["metrics"]:
                    metrics[variant] = done["metrics"]
        memory = {"ours": pair.ours.ask("peak_memory"), "torch": pair.torch.ask("peak_memory")}
    median = {variant: statistics.median(seconds) for variant, seconds in turns.items()}
    return {
        "work": dataclasses.asdict(work) | {"data_dir": None},
        "unit": work.unit,
        "steps_a_turn": n,
        "seconds": turns,
        "median_seconds": median,
        "rate": {variant: prepared.rows / seconds for variant, seconds in median.items()},
        "ratio": {v: paired_ratio(turns["ours"], turns[v]) for v in peer["variants"]},
        "flops": prepared.flops,
        "flops_per_second": prepared.flops / median["ours"],
        "compile_seconds": prepared.compile_seconds,
        "first_seconds": {"ours": prepared.first_seconds} | peer["first_seconds"],
        "torch_layout": peer["layout"],
        "peak_memory_mib": memory,
        "metrics": metrics,
        "machine": {"ours": ours, "torch": theirs},
    }


def _turn(pair: Pair, variant: str, n: int) -> dict[str, Any]:
    done: dict[str, Any] = pair.ours.ask("go", n) if variant == "ours" else pair.torch.ask("go", variant, n)
    return done


def machine() -> dict[str, Any]:
    """Device, versions and the rates of a 2048x2048 float32 matrix product, in operations a second."""
    with Pair() as pair:
        ours = pair.ours.ask("machine")
        theirs = pair.torch.ask("machine", ours["accelerator"])
        rates: dict[str, float] = {"ours": 0.0, "torch": 0.0}
        for _ in range(3):
            for name, child in (("ours", pair.ours), ("torch", pair.torch)):
                time.sleep(_PAUSE)
                rates[name] = max(rates[name], child.ask("matmul_rate", 2048, 10))
    return {
        "ours": ours,
        "torch": theirs,
        "python": platform.python_version(),
        "load_before": os.getloadavg()[0],
        "matmul": rates,
    }


def table(found: Sequence[dict[str, Any]], matmul: float) -> Table:
    """The figures of several benchmarks."""
    out = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    out.add_column("work", no_wrap=True)
    names = ["batch", "ours", "eager", "ratio", "tuned", "ratio", "of matmul", "compile s", "MiB ours", "torch"]
    places = ["host"]
    if any(line["peak_memory_mib"]["ours"]["device"] for line in found):
        names += ["on device", "torch"]
        places += ["device"]
    for name in names:
        out.add_column(name, justify="right", no_wrap=True)
    for line in found:
        rate, ratio = line["rate"], line["ratio"]
        tuned = (_figure(rate["tuned"]), f"{ratio['tuned']:.2f}") if "tuned" in rate else ("", "")
        out.add_row(
            f"{line['work']['name']} ({line['work']['dataset']}), {line['unit']}/s{_HALF[line['work']['compute']]}",
            str(line["work"]["batch_size"]),
            _figure(rate["ours"]),
            _figure(rate["eager"]),
            f"{ratio['eager']:.2f}",
            *tuned,
            f"{100 * line['flops_per_second'] / matmul:.0f}%" if line["flops"] else "",
            f"{line['compile_seconds']:.1f}",
            *(f"{line['peak_memory_mib'][side][place]:,.0f}" for place in places for side in ("ours", "torch")),
        )
    return out


def _figure(x: float) -> str:
    return f"{x:,.0f}" if x >= 100 else f"{x:.3g}"


def run(options: Options, console: Console) -> None:
    """Measures and prints."""
    works = [
        dataclasses.replace(work, compute=options.compute)
        for work in select(options.what, data_dir=options.data_dir, cifar=options.cifar, epochs=options.epochs)
    ]
    if options.batch_sizes:
        works = [w for w in works if w.kind != "camu" or w.batch_size in options.batch_sizes]
    here = machine()
    rates = here["matmul"]
    console.print(
        f"{here['ours']['device']}, {here['ours']['cores']} cores, load {here['load_before']:.1f}; jax "
        f"{here['ours']['jax']}, torch {here['torch']['torch']} ({here['torch']['threads']} threads); 2048x2048 matrix "
        f"product: {rates['ours'] / 1e9:.0f} GFLOP/s in jax, {rates['torch'] / 1e9:.0f} in torch",
        soft_wrap=True,
    )
    found: list[dict[str, Any]] = []
    try:
        for work in works:
            console.print(f"{work.name}, batch {work.batch_size} ...", style="dim")
            found.append(measure(work, options))
            for variant, figures in found[-1]["metrics"].items():
                told = ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
                console.print(f"  {variant}: {told}", style="dim", soft_wrap=True)
            if options.json:
                options.json.write_text(json.dumps({"machine": here, "results": found}, indent=1) + "\n")
    finally:  # what was measured before an error or an interrupt is shown
        if found:
            console.print(table(found, rates["ours"]), soft_wrap=True)
    console.print(
        "ratio: their seconds by ours, median over the rounds. eager: as the authors do; tuned: frozen embeddings "
        "computed once where they do not change, joined forward passes. of matmul: XLA's count of our operations by "
        "our matrix product's rate. A whole run counts as one.",
        soft_wrap=True,
    )


def run_check(console: Console) -> bool:
    """Compares both libraries' updates and prints the largest differences; whether all are within tolerance."""
    fine = True
    for architecture in ("cnn", "resnet18"):
        for dtype, tolerance in check.TOLERANCES.items():
            for variant, worst in check.check(architecture, dtype).items():
                judged = {name: value for name, value in worst.items() if name in check.JUDGED[dtype]}
                good = max(judged.values()) <= tolerance
                fine &= good
                figures = ", ".join(f"{name} {value:.1e}" for name, value in worst.items())
                verdict = "same" if good else "DIFFERENT"
                update = "training step" if variant == "train" else f"CaMU update ({variant})"
                console.print(f"{architecture} {dtype} {update}: {verdict}; {figures}", soft_wrap=True)
    return fine


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    options = tyro.cli(Options, args=argv)
    attacks = {"attack", "job"} & {*options.what}
    for module in ("torch", *(("xgboost",) if attacks else ())):
        if importlib.util.find_spec(module) is None:
            sys.exit(f"{module} is missing; pip install -r experiments/bench/requirements.txt")
    for what in ("digit", "job"):
        if what in options.what and options.data_dir is None:
            sys.exit(f"{what} needs --data_dir, a prepared TFDS folder that holds mnist")
    console = Console(highlight=False, width=max(Console().width, 140))
    try:
        if options.check:
            sys.exit(0 if run_check(console) else 1)
        run(options, console)
    except ChildError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
