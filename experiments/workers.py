"""Several workers on this machine, each on its share of the cores: `reproduce.py --workers N`."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from experiments import UsageError, fleet, machine, process

_PATIENCE = 20.0  # seconds that a worker has to end by itself


def run(goals: Sequence[fleet.Goal], argv: Sequence[str], count: int, out: Path, *, devices: int = 1) -> int:
    """Starts the workers, shows what they have made, and returns the exit code; what they say is in <out>/workers.

    Each has its share of the cores, and of several GPUs one, unless it splits its minibatches over `devices`.

    Raises:
      UsageError: there are fewer cores.
      KeyboardInterrupt: SIGINT or SIGTERM; the workers have ended before.
    """
    cores = fleet.cores()
    if count > len(cores):
        raise UsageError(f"workers is {count}; allowed: 1 to {len(cores)}, the cores here")
    folder = out / "workers"
    folder.mkdir(parents=True, exist_ok=True)
    logs = [folder / f"worker{number}.log" for number in range(count)]
    board = fleet.Board(goals)
    gpus = machine.visible_gpus() if devices == 1 else []
    workers: list[subprocess.Popen[bytes]] = []
    try:
        for number, log in enumerate(logs):
            with _on(share(cores, number, count)), log.open("wb") as file:
                workers.append(
                    subprocess.Popen(
                        fleet.command(argv, number, count),
                        stdin=subprocess.DEVNULL,
                        stdout=file,
                        stderr=subprocess.STDOUT,
                        env={**os.environ, **machine.gpu_share(number, count, gpus)},
                        start_new_session=True,  # Ctrl-C reaches this process alone, which then ends them
                    )
                )

        def running() -> str | None:
            alive = sum(worker.poll() is None for worker in workers)
            return f"{alive} running" if alive else None

        counted = fleet.watch(board, running)
    finally:
        end(workers)
    codes = [worker.returncode for worker in workers]
    if process.INTERRUPTED in codes:  # somebody has stopped them one by one
        raise KeyboardInterrupt
    return fleet.verdict(counted, codes, logs)


def share(cores: Sequence[int], number: int, count: int) -> Sequence[int]:
    """The cores of one of several workers; all of them together have each core once."""
    return cores[len(cores) * number // count : len(cores) * (number + 1) // count]


@contextlib.contextmanager
def _on(cores: Sequence[int]) -> Iterator[None]:
    """What is started in this block has these cores from its first instruction on."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def end(workers: "Sequence[subprocess.Popen[bytes]]") -> None:
    """Ends the workers that still run: SIGTERM, and SIGKILL for one that does not heed it."""
    for worker in workers:
        if worker.poll() is None:
            worker.send_signal(signal.SIGTERM)
    last = time.monotonic() + _PATIENCE
    for worker in workers:
        try:
            worker.wait(max(0.0, last - time.monotonic()))
        except subprocess.TimeoutExpired:
            worker.kill()
            worker.wait()
