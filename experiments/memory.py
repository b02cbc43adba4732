"""How this process keeps its memory. Imports nothing of the project: it has to run before threads start."""

import ctypes

_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8  # of glibc's malloc.h


def keep(architecture: str) -> None:
    """Lets glibc keep memory that was freed, in one arena, where the model is large; elsewhere does nothing.

    XLA on the CPU allocates what a step needs and frees it after the step. By default glibc gives large blocks back to
    the system, and the next step has to have each page zeroed again: a sixth of a training step of ResNet-18. The small
    steps of the CNN lose more by threads that wait for the one arena (bench/NOTES.md). Threads that run already keep
    their arenas: where a process works on several data sets, the first one decides.
    """
    if architecture != "resnet18":
        return
    try:
        libc = ctypes.CDLL(None)
        for name, value in ((_ARENA_MAX, 1), (_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1)):
            libc.mallopt(name, value)
    except (OSError, AttributeError, TypeError):
        pass  # no glibc
