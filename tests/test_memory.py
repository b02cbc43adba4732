"""Freed memory stays with the process where the model is large, and nowhere else."""

import ctypes
import subprocess
import sys

import pytest

from experiments import memory

_FAULTS = """
import ctypes, resource, sys
from experiments import memory
if sys.argv[1] == "keep":
    memory.keep("resnet18")
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
size = 64 << 20
for turn in range(5):
    if turn == 1:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = libc.malloc(size)
    ctypes.memset(block, 1, size)
    libc.free(block)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"), reason="needs glibc")
def test_freed_memory_is_not_faulted_in_again():
    """A block of 64 MiB, four times: without `keep` the system hands out its 4 KiB (or 2 MiB) pages each time."""
    faults = {
        mode: int(subprocess.run([sys.executable, "-c", _FAULTS, mode], check=True, capture_output=True).stdout)
        for mode in ("keep", "default")
    }
    assert faults["keep"] < faults["default"] / 10


def test_the_cnn_leaves_the_allocator_alone(monkeypatch):
    def fail(name):
        raise AssertionError("looked for glibc")

    monkeypatch.setattr(ctypes, "CDLL", fail)
    memory.keep("cnn")
    with pytest.raises(AssertionError):
        memory.keep("resnet18")


def test_without_glibc_nothing_happens(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    memory.keep("resnet18")
