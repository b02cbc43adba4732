"""One unlearning task on one data set: `python experiments/run.py --task=data10 --dataset=c100`."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # `python experiments/run.py` from anywhere

from experiments import cli, config, runner  # noqa: E402


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    return cli.run(lambda: runner.run(config.parse(argv, config.Config, "experiments/run.py")))


if __name__ == "__main__":
    sys.exit(main())
