"""Who works on what: file locks, so that processes which share folders do nothing twice; the dead hold none."""

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

from experiments import devices


@contextlib.contextmanager
def claim(path: Path, *, wait: bool) -> Iterator[bool]:
    """Claims a file or folder that does not have to exist yet, for the length of a block.

    Args:
      path: what is claimed; the lock is the file `.<name>.lock` beside it.
      wait: until another process gives it back; else the block learns that it is not ours.

    Yields:
      Whether it is ours.
    """
    if not devices.primary():  # process 0 holds it for all of them
        yield devices.agree(False)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f".{path.name}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield devices.agree(False)
            return
        yield devices.agree(True)
