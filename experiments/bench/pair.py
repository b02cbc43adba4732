"""Two long-lived child processes, one a library, of which only one works at a time."""

import importlib
import multiprocessing
import os
import resource
import sys
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any


class ChildError(RuntimeError):
    """A child failed; the message is one line."""


class Child:
    """A process that builds `Side()` of a module and calls its methods when told to over a pipe."""

    def __init__(self, module: str) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, module), daemon=True)
        self._process.start()
        theirs.close()

    def ask(self, method: str, *args: Any) -> Any:
        """Calls a method of the child's `Side` and waits for its answer.

        Raises:
          ChildError: the method raised, or the process died.
        """
        try:
            self._pipe.send((method, args))
            error, answer = self._pipe.recv()
        except (EOFError, OSError):
            raise ChildError(f"the process died during {method} (out of memory?)") from None
        if error:
            raise ChildError(error)
        return answer

    def close(self) -> None:
        """Ends the process."""
        self._pipe.close()
        self._process.join(10)
        if self._process.is_alive():
            self._process.kill()


class Pair:
    """Our child and PyTorch's, as a context manager."""

    def __init__(self) -> None:
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # the two share a GPU's memory
        os.environ.setdefault(
            "GLIBC_TUNABLES", "glibc.malloc.hugetlb=1"
        )  # huge pages, for both; read at a child's start
        sides = ("experiments.bench.our_side", "experiments.bench.torch_side")
        self.ours, self.torch = (Child(side) for side in sides)

    def __enter__(self) -> "Pair":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.ours.close()
        self.torch.close()


def _peak_host_memory() -> float:
    """In MiB. `experiments.machine` has the same, but imports JAX, which PyTorch's child must not hold."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def _serve(pipe: Connection, module: str) -> None:
    """Answers until the pipe closes. `peak_memory` (MiB of host and device) is known to every child."""
    side: Any = None
    while True:
        try:
            method, args = pipe.recv()
        except (EOFError, KeyboardInterrupt):
            return
        try:
            if method == "peak_memory":
                answer = {"host": _peak_host_memory(), "device": side.peak_device_memory()}
            else:
                side = side or importlib.import_module(module).Side()
                answer = getattr(side, method)(*args)
            pipe.send((None, answer))
        except KeyboardInterrupt:
            return
        except Exception as error:  # goes to the parent, whatever it is
            pipe.send((f"{type(error).__name__}: {' '.join(str(error).split())[:300]}", None))
