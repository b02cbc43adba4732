"""What is not finished yet is called `.<name>.<owner>.partial`, so that what dead processes left can be told."""

import os
import re
import time
from pathlib import Path

_DAY = 24 * 3600.0


def owner() -> str:
    """A name for this process, on this machine, to call its unfinished files by."""
    return f"{os.uname().nodename}.{os.getpid()}"


def abandoned(partial: Path) -> bool:
    """Whether nobody writes it any more: its process on this machine is dead, or nobody did for a day."""
    process = re.search(r"\.(\d{1,9})\.partial", partial.name)
    try:
        if process and f".{os.uname().nodename}.{process[1]}." in partial.name:
            os.kill(int(process[1]), 0)
        return time.time() - partial.stat().st_mtime > _DAY
    except ProcessLookupError:
        return True
    except OSError:  # it is another user's, or gone
        return False
