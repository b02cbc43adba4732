"""One unlearning task on one data set: `python experiments/run.py --task=data10 --dataset=c100`."""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # `python experiments/run.py` from anywhere

from experiments import environment  # noqa: E402

environment.prepare(__name__)

from experiments import cli, config, devices, runner  # noqa: E402


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig(config.Config):  # type: ignore[valid-type,misc]
    """Unlearns one task on one data set with several methods and prints them beside the paper's figures.

    The defaults below are those of the chosen --dataset, --task and --preset: add them before --help.
    """

    hosts: devices.Hosts = devices.Hosts()


def run(options: Any) -> None:
    """Connects the processes, if there are several, and runs.

    Raises:
      UsageError: bad input, found before any work starts.
    """
    if options.hosts.coordinator is not None and options.audit:
        raise config.UsageError("audit needs one process; run it again without --hosts when the results are there")
    if options.hosts.coordinator is not None and options.side_by_side > 1:
        raise config.UsageError(f"side_by_side is {options.side_by_side}; allowed with --hosts: 1")
    devices.connect(options.hosts)
    runner.run(options)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    return cli.run(lambda: run(config.parse(argv, RunConfig, "experiments/run.py")))


if __name__ == "__main__":
    sys.exit(main())
