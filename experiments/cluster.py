"""Workers on a cluster: `reproduce.py --slurm` submits a job array of SLURM through `submitit`."""

import dataclasses
import shutil
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from camu_jax import _validate
from experiments import UsageError, console, fleet, process, workers

if TYPE_CHECKING:
    import submitit

_REQUEUES = 1000  # times at which a worker reaches the limit: so many that it comes to its end
_WARNING = 90  # seconds before the limit at which SLURM tells a worker; at most a quarter of the limit


@dataclasses.dataclass(frozen=True, kw_only=True)
class Array:
    """With --slurm: the job array. Each of its tasks is a worker, and is requeued when it reaches the time limit."""

    size: int = 2
    """How many workers."""
    minutes: int = 60
    """Time limit of a worker, which then is requeued and goes on from what it has kept (see --keep_minutes)."""
    partition: str | None = None
    """Partition; None is the cluster's default."""
    cpus: int = 1
    """Cores of a worker."""
    gpus: int = 0
    """GPUs of a worker."""

    def __post_init__(self) -> None:
        _validate.at_least(1, size=self.size, cpus=self.cpus)
        _validate.at_least(2, minutes=self.minutes)
        _validate.at_least(0, gpus=self.gpus)


class Worker:
    """A task of the array, as submitit runs it: a worker in a process of its own.

    At the time limit SLURM signals, and submitit calls `checkpoint` and has the task requeued. What the worker was at
    goes on from the states that it has kept.
    """

    def __init__(self, command: Sequence[str], log: Path) -> None:
        self.command, self.log = list(command), log
        self.process: subprocess.Popen[bytes] | None = None

    def __call__(self) -> int:
        with self.log.open("ab") as file:  # behind what it said before it was requeued
            self.process = subprocess.Popen(  # in a group of its own, or SLURM's signal would end it too early
                self.command, stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True
            )
        # In a thread: the signal's handler, which waits for the process to end, would wait for this wait as well.
        waiting = threading.Thread(target=self.process.wait)
        waiting.start()
        waiting.join()
        return self.process.returncode

    def checkpoint(self) -> "submitit.helpers.DelayedSubmission":
        """What the requeued task does."""
        import submitit

        if self.process is not None:
            workers.end([self.process])
        return submitit.helpers.DelayedSubmission(Worker(self.command, self.log))


def run(goals: Sequence[fleet.Goal], argv: Sequence[str], array: Array, out: Path) -> int:
    """Submits the array, shows what it has made until it has ended, and returns the exit code.

    Raises:
      UsageError: submitit or SLURM is missing, or refuses the array.
      KeyboardInterrupt: SIGINT or SIGTERM; the jobs go on.
    """
    try:
        import submitit
    except ImportError:
        raise UsageError(
            "slurm needs the package submitit, which is not here; pip install 'submitit>=1.5,<2'"
        ) from None
    if shutil.which("sbatch") is None:
        raise UsageError("slurm needs SLURM's commands, and sbatch is not on the PATH")
    folder = (out / "slurm" / time.strftime("%Y%m%d-%H%M%S")).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    logs = [folder / f"worker{number}.log" for number in range(array.size)]
    commands = [fleet.command(argv, number, array.size) for number in range(array.size)]
    board = fleet.Board(goals)
    executor = submitit.SlurmExecutor(folder, max_num_timeout=_REQUEUES)
    executor.update_parameters(
        job_name="camu",
        time=array.minutes,
        signal_delay_s=min(_WARNING, 15 * array.minutes),
        cpus_per_task=array.cpus,
        setup=[f'export PYTHONPATH="{fleet.SCRIPT.parents[1]}:$PYTHONPATH"'],
        **({"partition": array.partition} if array.partition else {}),
        **({"gpus_per_node": array.gpus} if array.gpus else {}),
    )
    try:
        with executor.batch():
            jobs = [executor.submit(Worker(command, log)) for command, log in zip(commands, logs)]
    except submitit.core.utils.FailedJobError as error:
        raise UsageError(f"SLURM refuses the array {array} ({' '.join(str(error).split())})") from None
    number = jobs[0].job_id.partition("_")[0]
    console.say(f"job {number} of SLURM has {array.size} workers; what they say is in {folder}")
    try:
        counted = fleet.watch(board, lambda: _states(number))
    except KeyboardInterrupt:
        console.say(f"job {number} goes on; `scancel {number}` ends it, and the same command shows and shares its work")
        raise
    return fleet.verdict(counted, [_code(job) for job in jobs], logs)


def _states(number: str) -> str | None:
    """What SLURM says of the tasks of an array: how many run and wait; None when none is left."""
    asked = subprocess.run(
        ["squeue", "--noheader", "--array", f"--jobs={number}", "--format=%T"], capture_output=True, text=True
    )
    if asked.returncode and "Invalid job id" not in asked.stderr:
        return "state of the jobs unknown (squeue does not answer)"
    states = asked.stdout.split()
    waiting = sum(state in ("PENDING", "REQUEUED", "REQUEUE_HOLD", "SUSPENDED") for state in states)
    return f"{len(states) - waiting} running, {waiting} waiting" if states else None


def _code(job: "submitit.Job[int]") -> int:
    """The exit code of a worker whose task has ended; a fault where SLURM has ended it."""
    file = job.paths.result_pickle
    if not file.exists():
        return process.FAULT
    import submitit

    outcome, code = submitit.core.utils.pickle_load(file)
    return int(code) if outcome == "success" else process.FAULT
