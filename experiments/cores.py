"""Whether other work shares the cores that this process may use: seconds measured then say little."""

import os
import time
from pathlib import Path

_STAT = Path("/proc/stat")
_IDLE = (3, 4)  # of the times of a core: idle, and waiting for a disk
_COUNTED = 8  # user, nice, system, idle, iowait, irq, softirq, steal; guests are in user already
_MOST = 0.05  # part of the cores' time that others may take, as a system's own housekeeping does
_TICKS = 2  # a core's times are exact to a tick


class Watch:
    """Compares, since it was made, the time that the cores were busy with that of this process and its children."""

    def __init__(self) -> None:
        self.start, self.busy, self.own = time.perf_counter(), _busy(), _own()

    def shared(self) -> bool | None:
        """Whether others had more than a twentieth of the cores' time; None where the system does not tell.

        Only the cores that this process may use count: two workers with a core each do not share.
        """
        now = _busy()
        if now is None or self.busy is None or now.keys() != self.busy.keys():
            return None
        wall = time.perf_counter() - self.start
        others = sum(now.values()) - sum(self.busy.values()) - (_own() - self.own)
        return others > len(now) * (_MOST * wall + _TICKS / os.sysconf("SC_CLK_TCK"))


def _own() -> float:
    """Seconds of the cores that this process and its children have had."""
    return sum(os.times()[:4])


def _busy() -> dict[str, float] | None:
    """Of each core that this process may use, the seconds that it was not idle; None where nobody tells."""
    try:
        lines = _STAT.read_text().splitlines()
        names = {f"cpu{number}" for number in os.sched_getaffinity(0)}
    except (OSError, AttributeError):  # no Linux
        return None
    tick = os.sysconf("SC_CLK_TCK")
    found = {}
    for name, *times in map(str.split, filter(None, lines)):
        if name in names:
            found[name] = sum(int(t) for i, t in enumerate(times[:_COUNTED]) if i not in _IDLE) / tick
    return found or None
