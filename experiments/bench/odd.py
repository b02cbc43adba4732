"""What a user can mistype: every flag of every command with odd values."""

import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path

from experiments import relearn, report, reproduce, run, tune

_COMMANDS: dict[str, object] = {
    "run": run.RunConfig(),
    "tune": tune.TuneConfig(),
    "relearn": relearn.RelearnConfig(),
    "reproduce": reproduce.ReproduceOptions(),
    "report": report.ReportOptions(),
}
_VALUES = (
    *("", "-1", "0", "1.5", "nan", "inf", "1e400", "9" * 20, "9" * 5000, str(2**63), "²", "²/³", "0/0", "None", "\n"),
    *("..", "x", "a\udcffb", "ä" * 300, "$\\frac{", "camu.epochs=1.5", "camu.epochs", "="),
    *("/dev/null", "/dev/full/x", "/proc/x"),
)
"""What a flag is given: nothing, numbers that are none or too large, text, names and paths that are odd."""
_CALLED = {"weights": "original"}  # fields whose flag has another name
TINY = ["--dataset=tiny", "--limit=80", "--seeds=0", "--methods=neggrad", "--original.epochs=12", "--neggrad.epochs=1"]
"""A small job that ends well in seconds."""


def command_lines(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Every flag of every command with every odd value, last."""
    folders = {"out": folder / "o", "checkpoint_dir": folder / "c", "cache_dir": folder / "cache"}
    small = {"reproduce": ["--datasets=tiny", "--limit=80"], "report": []}
    for (name, default), value in itertools.product(_COMMANDS.items(), _VALUES):
        own = [] if name == "report" else [f"--{flag}={where}" for flag, where in folders.items()]
        for flag in _flags(default):
            kept = [word for word in (*small.get(name, TINY), *own) if not word.startswith(f"--{flag}=")]
            yield name, [*kept, f"--{flag}={value}"]


def _flags(default: object, prefix: str = "") -> Iterator[str]:
    """The flags of a dataclass; those of a dictionary's dataclasses are called by its keys alone."""
    for field, value in (default if isinstance(default, dict) else vars(default)).items():
        if isinstance(value, dict):
            yield from _flags(value)
        elif dataclasses.is_dataclass(value):
            yield from _flags(value, f"{prefix}{field}.")
        else:
            yield f"{prefix}{_CALLED.get(field, field)}"
