"""What every script's `main` does: reads the command line, runs, and turns what went wrong into an exit code."""

from collections.abc import Callable

from camu_jax.data import DataError
from experiments import console
from experiments.config import UsageError


def run(script: Callable[[], int | None]) -> int:
    """Runs a script.

    Args:
      script: reads its command line and does its work; may return an exit code.

    Returns:
      0 done (or what the script returned), 2 something the user must change (said in one line), 130 interrupted.
    """
    try:
        return script() or 0
    except (UsageError, DataError) as error:
        console.fail(str(error))
        return 2
    except KeyboardInterrupt:
        console.fail("interrupted; the same command goes on where this one stopped")
        return 130
