"""Runs main jobs, each by its own `run.py`, and prints their times and their peak of memory.

`python experiments/bench/main_job.py --datasets digit fashion --data_dir=DIR`: an original model, CaMU, the metrics.
Decoded images and compiled programs in `--cache_dir` are used; original models and results are made anew.
"""

import dataclasses
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import tyro  # noqa: E402
from rich import box  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

from experiments import store  # noqa: E402

_SCRIPT = Path(__file__).resolve().parents[1] / "run.py"


@dataclasses.dataclass(frozen=True)
class Options:
    """Runs main jobs and prints their times and their peak of memory."""

    datasets: tuple[str, ...] = ("tiny",)
    """One line each."""
    data_dir: str | None = None
    """A prepared TFDS folder, as in run.py."""
    task: str = "data10"
    """As in run.py."""
    method: str = "camu"
    """As in run.py; one, with an original model."""
    epochs: int | None = None
    """Of the original model and of the method; None is the defaults of the data set."""
    limit: int | None = None
    """As in run.py."""
    cache_dir: str = "cache"
    """As in run.py."""

    def __post_init__(self) -> None:
        if self.epochs is not None and self.epochs < 1:
            raise ValueError(f"epochs is {self.epochs}; allowed: 1 or more")


def command(options: Options, dataset: str, folder: str) -> list[str]:
    """How `run.py` is called for a data set, with results and original models in `folder`."""
    words = [sys.executable, str(_SCRIPT), f"--dataset={dataset}", f"--task={options.task}", "--seeds", "0"]
    words += ["--methods", options.method, f"--out={folder}/results", f"--checkpoint_dir={folder}/originals"]
    words += [f"--cache_dir={options.cache_dir}"]
    words += [f"--{name}={value}" for name in ("data_dir", "limit") if (value := getattr(options, name)) is not None]
    if options.epochs is not None:
        words += [f"--{part}.epochs={options.epochs}" for part in ("original", options.method)]
    return words


def measure(options: Options, dataset: str) -> dict[str, Any]:
    """Runs one job: its result, and the `wall_seconds` of the whole process.

    Raises:
      CalledProcessError: it failed, and said why.
    """
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        huge_pages = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"} | os.environ
        subprocess.run(command(options, dataset, folder), check=True, env=huge_pages)
        wall = time.perf_counter() - start
        found = store.read(store.path(f"{folder}/results", dataset, options.task, options.method, 0))
    assert found is not None
    return {**found, "wall_seconds": wall}


def table(found: dict[str, dict[str, Any]]) -> Table:
    """The figures of several jobs, by data set."""
    out = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    out.add_column("main job", no_wrap=True)
    for name in ("T_s", "unlearning s", "compiling s", "whole job s", "host MiB", "device MiB"):
        out.add_column(name, justify="right", no_wrap=True)
    for dataset, result in found.items():
        memory = result["peak_memory_mib"]
        out.add_row(
            f"{dataset}, {result['settings']['task']}",
            f"{result['metrics']['T_s']:.2f}",
            f"{result['seconds']:.1f}",
            f"{result['compile_seconds']:.1f}",
            f"{result['wall_seconds']:.0f}",
            f"{memory['host']:,.0f}",
            "as host" if memory["device"] is None else f"{memory['device']:,.0f}",
        )
    return out


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    options = tyro.cli(Options, args=argv)
    console = Console(highlight=False, width=max(Console().width, 100))
    try:
        found = {dataset: measure(options, dataset) for dataset in options.datasets}
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)
    console.print(table(found), soft_wrap=True)


if __name__ == "__main__":
    main()
