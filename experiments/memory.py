"""How this process keeps its memory. Imports nothing of the project: it has to run before threads start."""

import ctypes

_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8  # of glibc's malloc.h


def keep() -> None:
    """Lets glibc keep memory that was freed; elsewhere does nothing.

    XLA on the CPU allocates what a step needs and frees it after the step. By default glibc gives large blocks back to
    the system, and the next step has to have each page zeroed again: three tenths of a
    training step of the CNN at batch 512 (bench/NOTES.md).
    """
    try:
        libc = ctypes.CDLL(None)
        for name, value in ((_ARENA_MAX, 1), (_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1)):
            libc.mallopt(name, value)
    except (OSError, AttributeError, TypeError):
        pass  # no glibc
