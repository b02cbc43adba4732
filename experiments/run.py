"""One unlearning task on one data set: `python experiments/run.py --task=data10 --dataset=c100`."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # `python experiments/run.py` from anywhere

from camu_jax.data import DataError  # noqa: E402
from experiments import config, console, runner  # noqa: E402


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code: 0 done, 2 something the user must change, 130 interrupted."""
    try:
        runner.run(config.parse(argv))
    except (config.UsageError, DataError) as error:
        console.fail(str(error))
        return 2
    except KeyboardInterrupt:
        console.fail("interrupted; the same command goes on where this one stopped")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
