"""The command `camu-jax`: each of its commands is a script of this folder, run as `python experiments/run.py` is."""

import os
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

NAME = "CAMU_JAX_COMMAND"
"""Variable of the environment that tells a script what its user has called it."""


class Command(NamedTuple):
    """A command: its script, flags that come before the user's, and what it does."""

    script: str
    flags: tuple[str, ...]
    does: str


COMMANDS = {
    "run": Command("run.py", (), "unlearn a task of a data set with several methods, and print a table"),
    "forget": Command("forget.py", (), "delete rows from your own model, with a receipt"),
    "audit": Command("run.py", ("--audit", "paper"), "as run, and attack the unlearned models; --audit all for more"),
    "relearn": Command("relearn.py", (), "train unlearned models on, and watch what comes back"),
    "tune": Command("tune.py", (), "try settings on examples that are held out"),
    "reproduce": Command("reproduce.py", (), "make the results behind the paper's tables and figures"),
    "report": Command("report.py", (), "tables and pictures of the results of a folder"),
}
_HELP = "\n".join(
    [
        "usage: camu-jax COMMAND [FLAGS]; camu-jax COMMAND --help lists the flags",
        "",
        *(f"  {name:10} {command.does}" for name, command in COMMANDS.items()),
    ]
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit code where its script does not end the process itself."""
    name, *flags = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    if name in ("-h", "--help"):
        print(_HELP)
        return 0
    if name == "--version":
        from importlib import metadata

        print(metadata.version("camu_jax"))
        return 0
    if name not in COMMANDS:
        return _wrong(f"command is {name!r}; allowed: {', '.join(COMMANDS)}")
    command = COMMANDS[name]
    script = Path(__file__).with_name(command.script)
    if not script.is_file():
        return _wrong(f"command {name} is not part of this installation: {script} is not there")
    os.environ[NAME] = f"camu-jax {name}"
    sys.argv = [str(script), *command.flags, *flags]
    try:
        runpy.run_path(str(script), run_name="__main__")
    except ModuleNotFoundError as error:
        return _wrong(f"command {name} needs the module {error.name}, which is not here; {_ADVICE}")
    return 0


_ADVICE = "pip install 'camu_jax[experiments]'"


def _wrong(text: str) -> int:
    print(f"error: {text}", file=sys.stderr)
    return 2
