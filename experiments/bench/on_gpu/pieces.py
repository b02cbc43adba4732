"""Long work in pieces: a JSON file each, made once. What is there is skipped, so that every call goes on."""

import dataclasses
import json
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from experiments import console, process, store

Found = dict[str, Any]
"""What a piece has found; `ok` is False where it is not as it should be."""


class Clock:
    """Minutes that a call may take."""

    def __init__(self, minutes: float) -> None:
        self._end = time.monotonic() + 60 * minutes

    @property
    def left(self) -> float:
        """Seconds; never negative."""
        return max(0.0, self._end - time.monotonic())


class TimeIsUp(Exception):
    """A piece has stopped itself; the next call goes on with it."""


@dataclasses.dataclass(frozen=True)
class Piece:
    """One file to make.

    Attributes:
      name: of the file, without its ending; `/` makes folders.
      make: what it holds.
    """

    name: str
    make: Callable[[], Found]


def run(pieces: Sequence[Piece], folder: Path, clock: Clock, *, stops_itself: bool = False) -> int:
    """Makes the pieces that are missing, one after the other, as long as there is time.

    A piece that raises is noted in `<name>.error.txt`, and the others are made; the next call tries it again.

    Args:
      pieces: in their order.
      folder: of the files.
      clock: no piece is begun when less is left than the longest one of this call took.
      stops_itself: whether pieces watch the clock themselves and raise `TimeIsUp`; then one is begun while any is left.

    Returns:
      An exit code: 130 where pieces are left for the next call, else 1 where one raised or is not `ok`, else 0.
    """
    longest, failed = 0.0, 0
    for number, piece in enumerate(pieces):
        where = folder / f"{piece.name}.json"
        found = read(where)
        if found is None:
            if clock.left <= (0.0 if stops_itself else longest):
                return _later(len(pieces) - number)
            start = time.monotonic()
            try:
                found = {**piece.make(), "seconds_of_piece": time.monotonic() - start}
            except TimeIsUp:
                return _later(len(pieces) - number)
            except Exception as error:  # whatever it was, the other pieces are made
                store.write_text(where.with_suffix(".error.txt"), traceback.format_exc())
                console.fail(f"{piece.name}: {type(error).__name__}: {str(error)[:300]}")
                failed += 1
                continue
            store.write_text(where, json.dumps(found, indent=1, sort_keys=True, allow_nan=False) + "\n")
            where.with_suffix(".error.txt").unlink(missing_ok=True)
            longest = max(longest, found["seconds_of_piece"])
            console.say(f"{piece.name}: {'done' if found.get('ok', True) else 'NOT AS IT SHOULD BE'}")
        failed += not found.get("ok", True)
    return process.FAULT if failed else process.DONE


def read(where: Path) -> Found | None:
    """What a piece has found; None where it was not made, or its file is not JSON."""
    try:
        found: Found = json.loads(where.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return found


def _later(left: int) -> int:
    console.say(f"the time is up, {left} pieces are left: the same command goes on")
    return process.INTERRUPTED
