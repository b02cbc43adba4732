"""What libraries read from the environment when a process starts; to be set before they are imported."""

import os
import sys


def prepare(name: str) -> None:
    """Quiet TensorFlow, and huge pages on the CPU.

    XLA allocates the memory of a step anew in every step, and the system hands it out page by page: with pages of 2 MiB
    for 4 KiB a training step of ResNet-18 takes a quarter less (bench/NOTES.md). glibc has a switch for it, which it
    reads at the very start: so a script starts itself again. A GLIBC_TUNABLES that is set already, also to nothing,
    stays as it is.

    Args:
      name: `__name__` of the script. An imported one, and one that a notebook runs, does not start again.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    started = name == "__main__" and sys.argv[0] in sys.orig_argv
    if started and sys.platform == "linux" and "GLIBC_TUNABLES" not in os.environ:
        os.environ["GLIBC_TUNABLES"] = "glibc.malloc.hugetlb=1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
