"""A report from result files alone: tables beside the paper's, pictures, one HTML page. Takes seconds, needs no JAX.

`python experiments/report.py --out=results`
"""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # `python experiments/report.py` from anywhere

from experiments import process  # noqa: E402

if __name__ == "__main__":
    process.begin()  # before the imports that take seconds

from experiments import UsageError, console, reporting, store  # noqa: E402


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """Makes report.md, report.html and pictures from the results of a folder."""

    out: str = "results"
    """Folder of the results, <out>/<dataset>/<task>/<method>/seed<k>.json."""
    report_dir: str | None = None
    """Folder of the report; without it <out>/report."""


def run(options: ReportOptions) -> None:
    """Reads the results and writes the report.

    Raises:
      UsageError: there is no result, or the name of the report's folder is that of no folder.
      OSError: the report cannot be written.
    """
    out = Path(options.out)
    target = Path(options.report_dir) if options.report_dir is not None else out / "report"
    found = reporting.load(out)
    for reason in found.damaged:
        console.warn(f"{reason}; it is left out")
    if not found.results and not found.relearned:
        raise UsageError(f"{out} holds no results; make some with camu-jax run, or give another --out")
    store.prepare("--report_dir", target)
    for file in reporting.write(found, target):
        console.say(f"written: {file}")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    return console.command(lambda: run(console.parse(argv, ReportOptions(), "experiments/report.py")))


if __name__ == "__main__":
    process.end(main())
