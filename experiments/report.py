"""A report from result files alone: tables beside the paper's, figures, one HTML page. Takes seconds, needs no JAX.

`python experiments/report.py --out=results`
"""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # `python experiments/report.py` from anywhere

from experiments import console, flags, results  # noqa: E402
from experiments.reporting import build, collect, figures, html, markdown  # noqa: E402


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Makes report.md, report.html and figures from the results of a folder."""

    out: str = "results"
    """Folder of the results, <out>/<dataset>/<task>/<method>/seed<k>.json."""
    report_dir: str | None = None
    """Folder of the report; without it <out>/report."""


def run(options: Options) -> None:
    """Reads the results and writes the report.

    Raises:
      UsageError: there is no result, or the report cannot be written.
    """
    out = Path(options.out)
    target = Path(options.report_dir) if options.report_dir is not None else out / "report"
    found = collect.load(out)
    for reason in found.damaged:
        console.warn(f"{reason}; it is left out")
    if not found.runs and not found.relearned:
        raise flags.UsageError(f"{out} holds no results; make some with experiments/run.py, or give another --out")
    try:
        pictures = figures.save(figures.draw(found), target / "figures")
        report = build.build(found, pictures)
        for name, text in (("report.md", markdown.render(report, "figures")), ("report.html", html.render(report))):
            results.write_text(target / name, text)
            console.say(f"written: {target / name}")
    except OSError as error:
        raise flags.UsageError(f"{target} cannot be written ({error}); give another --report_dir") from None


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns 0 when done, 2 for what the user must change."""
    try:
        run(flags.parse(list(sys.argv[1:] if argv is None else argv), Options(), "experiments/report.py"))
    except flags.UsageError as error:
        console.fail(str(error))
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
