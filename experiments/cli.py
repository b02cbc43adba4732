"""What every script's `main` does: reads the command line, runs, and turns what went wrong into an exit code."""

from collections.abc import Callable, Sequence
from typing import Any

from camu_jax.data import DataError
from experiments import config, console


def main(run: Callable[[Any], None], argv: Sequence[str] | None, config_class: type[Any], prog: str) -> int:
    """Runs a script.

    Args:
      run: does the work of a parsed config.
      argv: arguments; None is the process's own.
      config_class: what the arguments are parsed into.
      prog: the command that --help names.

    Returns:
      0 done, 2 something the user must change (said in one line), 130 interrupted.
    """
    try:
        run(config.parse(argv, config_class, prog))
    except (config.UsageError, DataError) as error:
        console.fail(str(error))
        return 2
    except KeyboardInterrupt:
        console.fail("interrupted; the same command goes on where this one stopped")
        return 130
    return 0
