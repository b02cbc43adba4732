"""Many pieces of work that several processes share: which are missing, and making them, each claimed by one process."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from experiments import UsageError, machine

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Piece(Generic[T]):
    """One file to make.

    Attributes:
      subject: what it is about, a job for example.
      path: the file.
      missing: whether there is work to do on a subject.
      make: does the work for one subject, or in one program for several.
      kind: pieces of one kind can be made in one program.
      at_once: how many of them are.
    """

    subject: T
    path: Path
    missing: Callable[[T], bool]
    make: Callable[[Sequence[T]], None]
    kind: str
    at_once: int = 1

    def todo(self) -> bool:
        """Whether there is work to do."""
        return machine.agree(self.missing(self.subject))

    def partners(self, others: "Sequence[Piece[T]]") -> "list[Piece[T]]":
        """Those of the others that are made in one program with this one."""
        if self.at_once == 1:
            return []
        same = [other for other in others if other.kind == self.kind and other.path != self.path]
        return [other for other in same if other.todo()][: self.at_once - 1]


def groups(pieces: Sequence[Piece[T]]) -> Iterator[list[Piece[T]]]:
    """Puts pieces of one kind together, as many as are made at once; where that is one, nothing changes place."""
    if all(piece.at_once == 1 for piece in pieces):
        yield from ([piece] for piece in pieces)
        return
    for kind in dict.fromkeys(piece.kind for piece in pieces):
        same = [piece for piece in pieces if piece.kind == kind]
        for first in range(0, len(same), same[0].at_once):
            yield same[first : first + same[0].at_once]


def make(group: Sequence[Piece[T]]) -> None:
    """Makes pieces of one kind; the caller has claimed them.

    Raises:
      UsageError: the library refuses what the work is given.
    """
    try:
        group[0].make([piece.subject for piece in group])
    except UsageError:
        raise
    except ValueError as error:
        raise UsageError(f"{', '.join(str(piece.subject) for piece in group)}: {error}") from error


def run(pieces: Sequence[Piece[T]]) -> None:
    """Makes every piece that is missing, waiting for those that another process makes."""
    for group in groups([piece for piece in pieces if piece.todo()]):
        with contextlib.ExitStack() as claimed:
            for path in sorted(piece.path for piece in group):  # in one order, or two processes wait for each other
                claimed.enter_context(machine.claim(path, wait=True))
            if left := [piece for piece in group if piece.todo()]:  # another process may have made the others meanwhile
                make(left)
