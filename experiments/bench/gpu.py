"""All that is to be measured on a machine with a GPU, in pieces of less than ten minutes, each of which goes on.

    python experiments/bench/gpu.py check      training, CaMU, every method, every audit: the CPU's figures?
    python experiments/bench/gpu.py time       steps scanned and single, bfloat16, batch sizes, seeds side by side
    python experiments/bench/gpu.py profile    one step of each model: kernels, memory
    python experiments/bench/gpu.py run        C100, C10, Fashion and Digit at full length
    python experiments/bench/gpu.py report     all of it as tables

A call ends by itself after `--minutes`, with exit code 130 as long as pieces are left: the same command goes on. What
a piece has found is a small JSON file below `--out`; those that are there are skipped. `--quick` tries everything with
small sizes, on a CPU as well. Nothing but `run` needs data.

The machine needs no network, no TFDS and no TensorFlow. To carry: this repository; wheels of what pyproject.toml
names beside those two and is missing there; and, for `run`, decoded images. Where TFDS is, once for each of `c100`,
`c10`, `fashion` and `digit`,

    python -c 'from camu_jax import data; data.load("c100", data_dir="DIR", cache_dir="cache/data")'

writes them to cache/data (184, 184, 55 and 55 MB), two folders a data set, which are carried as they are; a data set
that is not there is noted, and the others are run. Results, original models and the states from which interrupted work
goes on are in `--out`, checkpoints and cache: keep all three from call to call.
"""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from experiments import process  # noqa: E402

if __name__ == "__main__":
    process.begin()  # before the imports that take seconds

import tyro  # noqa: E402
from rich.console import Console  # noqa: E402

from experiments import UsageError, console, machine  # noqa: E402
from experiments.bench.on_gpu import check, full, pieces, profile, tables, timing  # noqa: E402
from experiments.config import method_names  # noqa: E402


@dataclasses.dataclass(frozen=True, kw_only=True)
class Call:
    """What every command takes."""

    out: Path = Path("results/gpu")
    """Folder of the pieces; those of --quick are in <out>/quick."""
    minutes: float = 9.0
    """Begin nothing, and end what `run` has begun, after so many minutes."""
    quick: bool = False
    """Small sizes, to try the script."""
    only: tuple[str, ...] = ()
    """Only pieces whose names begin so: check/run, time/side_by_side, run/c100-data10."""

    def __post_init__(self) -> None:
        if not 0 < self.minutes < float("inf"):
            raise ValueError(f"minutes is {self.minutes}; allowed: above 0")

    @property
    def folder(self) -> Path:
        """Where the pieces are."""
        return self.out / "quick" if self.quick else self.out


@dataclasses.dataclass(frozen=True, kw_only=True)
class Check(Call):
    """Compares the device's figures with the CPU's: updates, first steps of every method, whole runs with audits."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Time(Call):
    """Times steps, scanned and single, in both arithmetics and several batch sizes, and seeds side by side."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Profile(Call):
    """Profiles one step of each model."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run(Call):
    """Runs the paper's jobs at full length; needs their images, see the script's first lines."""

    datasets: tuple[str, ...] = ("c100", "c10", "fashion", "digit")
    """As in run.py."""
    tasks: tuple[str, ...] = ("data10", "class0")
    """As in run.py."""
    methods: tuple[str, ...] = ("camu", "retrain", "neggrad", "boundary", "bad_teacher", "scrub", "sisa", "unroll")
    """As in run.py, one by one."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """As in run.py."""
    side_by_side: int = 5
    """Seeds in one program. A job that needs more than a whole call gets half as many in the next; one seed on its own
    goes on where it was stopped."""
    flags: tuple[str, ...] = ()
    """Further flags of run.py: model.compute=bfloat16 limit=1000."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.side_by_side < 1:
            raise ValueError(f"side_by_side is {self.side_by_side}; allowed: 1 or more")
        for method in self.methods:
            if method not in method_names():
                raise ValueError(f"methods holds {method!r}; allowed: {', '.join(method_names())}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """Prints all that was found."""

    out: Path = Path("results/gpu")
    """Folder of the pieces; of --quick, <out>/quick."""


Command = (
    Annotated[Check, tyro.conf.subcommand("check")]
    | Annotated[Time, tyro.conf.subcommand("time")]
    | Annotated[Profile, tyro.conf.subcommand("profile")]
    | Annotated[Run, tyro.conf.subcommand("run")]
    | Annotated[Report, tyro.conf.subcommand("report")]
)


def plan(call: Call, clock: pieces.Clock) -> list[pieces.Piece]:
    """The pieces of a command, in their order."""
    sizes = timing.QUICK if call.quick else timing.FULL
    every: list[pieces.Piece] = []
    if isinstance(call, Check):
        every = check.pieces(call.folder, quick=call.quick)
    elif isinstance(call, Time):
        every = timing.pieces(sizes)
    elif isinstance(call, Profile):
        every = profile.pieces(sizes)
    elif isinstance(call, Run):
        names = [field.name for field in dataclasses.fields(full.Jobs) if field.name != "out"]
        jobs = full.Jobs(out=call.folder, **{name: getattr(call, name) for name in names})
        every = full.pieces(jobs, clock, call.minutes)
    chosen = [piece for piece in every if not call.only or piece.name.startswith(call.only)]
    if not chosen:
        raise UsageError(f"only is {call.only}; allowed: beginnings of {', '.join(piece.name for piece in every)}")
    return chosen


def run(command: Call | Report) -> int:
    """Makes what is missing, or prints; returns the exit code."""
    if isinstance(command, Report):
        wide = Console(highlight=False, width=max(Console().width, 160))
        for table in tables.tables(command.out):
            wide.print(table, soft_wrap=True)
        for line in tables.errors(command.out):
            console.fail(line)
        return process.DONE
    if isinstance(command, Check):
        machine.share_memory()  # children work on the same GPU
    clock = pieces.Clock(command.minutes)
    chosen = plan(command, clock)
    return pieces.run(chosen, command.folder, clock, stops_itself=isinstance(command, Run))


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    return console.command(lambda: run(tyro.cli(Command, args=argv, prog="experiments/bench/gpu.py")))


if __name__ == "__main__":
    process.end(main())
