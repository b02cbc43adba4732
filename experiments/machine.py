"""The machine: which devices and processes work, how long a block takes on them, and what is written down of them."""

import contextlib
import dataclasses
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from camu_jax import _validate, models, parallel
from experiments import UsageError, cores, store


@dataclasses.dataclass(frozen=True, kw_only=True)
class Hosts:
    """Several processes, one for each machine, that run the same command and share the folders."""

    coordinator: str | None = None
    """HOST:PORT of process 0, where the processes find each other; None is a process on its own, or under SLURM, whose
    srun starts several tasks, one of those."""
    processes: int = 1
    """How many processes there are."""
    process: int = 0
    """Which of them this is, from 0. Process 0 alone prints and writes."""

    def __post_init__(self) -> None:
        _validate.at_least(1, processes=self.processes)
        _validate.between(0, self.processes - 1, process=self.process)
        if (self.coordinator is None) != (self.processes == 1):
            raise ValueError(
                f"coordinator is {self.coordinator} and processes {self.processes}; allowed: HOST:PORT and 2 or more, "
                "or neither"
            )

    @property
    def several(self) -> bool:
        """Whether there are other processes."""
        return self.coordinator is not None or _tasks_of_slurm() > 1


def connect(hosts: Hosts, devices: int) -> None:
    """Waits for the other processes, if there are any, and starts JAX; call before anything else of it.

    Args:
      hosts: where they are. Without them, the tasks of a step of SLURM (`srun`) are the processes.
      devices: how many devices each process works on; each task of a machine has its own.

    Raises:
      UsageError: they do not find each other, or JAX finds no device.
    """
    if not hosts.several:
        _start(devices)
        return
    jax.config.update("jax_enable_preemption_service", False)  # it would take SIGTERM for itself
    split_already = "host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if jax.config.values["jax_num_cpu_devices"] < 1 and not split_already:  # a process of CPUs has but one device
        jax.config.update("jax_num_cpu_devices", max(1, devices))
    known = hosts.coordinator is not None  # else JAX asks SLURM
    try:
        jax.distributed.initialize(
            hosts.coordinator,
            hosts.processes if known else None,
            hosts.process if known else None,
            local_device_ids=_own_devices(devices),
        )
    except (RuntimeError, ValueError) as error:
        where = hosts.coordinator or "the first machine of this step of SLURM"
        raise UsageError(f"the processes do not find each other at {where} ({error})") from None
    _start(devices)


def _tasks_of_slurm() -> int:
    """How many tasks the step of SLURM has that this process belongs to; 1 where it belongs to none."""
    count = os.environ.get("SLURM_STEP_NUM_TASKS", "")
    return int(count) if count.isdecimal() else 1


def _own_devices(count: int) -> list[int]:
    """The numbers of the GPUs that this process works on, among those that it sees."""
    task = next((os.environ[name] for name in _PLACES if name in os.environ), "0")
    seen = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    first = 0 if len(seen) == count and seen != [""] else int(task) * count  # or they were dealt out already
    return list(range(first, first + count))


_PLACES = ("SLURM_LOCALID", "OMPI_COMM_WORLD_LOCAL_RANK")  # of a process among those on its machine
_MEMORY = ("XLA_PYTHON_CLIENT_PREALLOCATE", "XLA_PYTHON_CLIENT_MEM_FRACTION", "XLA_CLIENT_MEM_FRACTION")


def share_memory() -> None:
    """Lets several processes work on one GPU: none takes three quarters of its memory at its start, as JAX would.

    Call before anything else of JAX. What the user has set stays.
    """
    if not any(name in os.environ for name in _MEMORY):
        os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"


def gpu_share(number: int, workers: int, gpus: Sequence[str]) -> dict[str, str]:
    """Environment of one of several workers that are started at once: a GPU, and its memory divided among them.

    Args:
      number: of the worker, from 0.
      workers: how many there are.
      gpus: of `visible_gpus`; they are dealt out one after another.
    """
    on_one = -(-workers // max(1, len(gpus)))
    found = {"CUDA_VISIBLE_DEVICES": gpus[number % len(gpus)]} if len(gpus) > 1 else {}
    if on_one > 1 and not any(name in os.environ for name in _MEMORY):  # what the user has set stays
        found["XLA_PYTHON_CLIENT_MEM_FRACTION"] = f"{0.9 / on_one:.3f}"
    return found


def visible_gpus() -> list[str]:
    """What CUDA calls the GPUs that this process may use; read without JAX, which would take their memory."""
    if (named := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [name.strip() for name in named.split(",") if name.strip()]
    return [str(number) for number in range(len(list(_GPUS.glob("*"))))]


_GPUS = Path("/proc/driver/nvidia/gpus")


def _start(count: int) -> int:
    """Starts JAX for work on `count` devices, and returns how many are here."""
    if count > 1:  # without it a CPU device may wait for ever to begin the program that the others have begun
        jax.config.update("jax_cpu_enable_async_dispatch", True)
    try:
        return jax.local_device_count()
    except (RuntimeError, AssertionError) as error:  # a platform that is not here
        asked = f"; JAX_PLATFORMS is {os.environ['JAX_PLATFORMS']!r}" if "JAX_PLATFORMS" in os.environ else ""
        raise UsageError(f"JAX finds no device to work on{asked} ({str(error) or 'none is left'})") from None


def use(count: int) -> None:
    """Makes the minibatches of everything that follows be split over `count` devices of each process.

    Raises:
      UsageError: there are not so many, or none that JAX can use.
    """
    found = _start(count)
    if not 1 <= count <= found:
        raise UsageError(f"devices is {count}; allowed: 1 to {found}, the {jax.default_backend()} devices here")
    if count * jax.process_count() == 1:
        return
    of_process: dict[int, list[jax.Device]] = {}
    for device in jax.devices():
        of_process.setdefault(device.process_index, []).append(device)
    chosen = [device for devices in of_process.values() for device in devices[:count]]
    axis = (jax.sharding.AxisType.Auto,)
    jax.set_mesh(jax.make_mesh((len(chosen),), ("data",), axis_types=axis, devices=chosen))
    if jax.process_count() > 1:  # their connections wait 30 s for the others, who may compile for longer later on
        split = jax.jit(parallel.split)(jnp.arange(len(chosen)))
        jax.block_until_ready(jax.jit(parallel.replicate)(split))


def primary() -> bool:
    """Whether this process prints and writes."""
    return jax.process_index() == 0


def agree(flag: bool) -> bool:
    """What process 0 holds for true; all of them have to ask."""
    if jax.process_count() == 1:
        return flag
    return bool(multihost_utils.broadcast_one_to_all(np.asarray(flag)))


@contextlib.contextmanager
def claim(where: Path, *, wait: bool) -> Iterator[bool]:
    """As `store.claim`; of several processes that run one command, process 0 holds it for all of them."""
    if not primary():
        yield agree(False)
        return
    with store.claim(where, wait=wait) as ours:
        yield agree(ours)


# --- time ---------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Span:
    """What a measured block took.

    Attributes:
      seconds: without compilation.
      compile_seconds: for tracing and compiling.
      shared: whether other processes worked on the same cores; None where the system does not tell.
    """

    seconds: float = 0.0
    compile_seconds: float = 0.0
    shared: bool | None = None

    def as_json(self) -> store.Timing:
        """What a result says of it."""
        timing: store.Timing = {"seconds": self.seconds, "compile_seconds": self.compile_seconds}
        if self.shared is not None:
            timing["shared"] = self.shared
        return timing

    def __str__(self) -> str:
        return f"{self.seconds:.1f} s (and {self.compile_seconds:.1f} s compiling)"


@contextlib.contextmanager
def measure() -> Iterator[Span]:
    """Times a block; wait for its results inside (`jax.block_until_ready`).

    A program is compiled only when those before it have ended: what ran meanwhile would count as compiling.
    """
    span = Span()

    def listen(event: str, duration_secs: float, **_: str | int) -> None:
        if event.startswith("/jax/core/compile/"):
            span.compile_seconds += duration_secs
            jax.block_until_ready(jax.live_arrays())  # tracing and lowering end before the compilation begins

    jax.monitoring.register_event_duration_secs_listener(listen)
    start, watch = time.perf_counter(), cores.Watch()
    try:
        yield span
    finally:
        span.shared = shared(watch)
        wall = time.perf_counter() - start
        jax.monitoring.unregister_event_duration_listener(listen)
        span.compile_seconds = min(span.compile_seconds, wall)
        span.seconds = wall - span.compile_seconds


def shared(watch: cores.Watch) -> bool | None:
    """As `Watch.shared`; None on a GPU, and for several processes of one command, which are each other's others."""
    return watch.shared() if jax.default_backend() == "cpu" and jax.process_count() == 1 else None


def words(seconds: float) -> str:
    """A duration as people say it."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if seconds < 5400:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h"


# --- what results say of the machine ------------------------------------------------------------------------------


def provenance() -> store.Result:
    """Device, package versions, git revision and peak of memory of this process."""
    versions = {"python": platform.python_version()}
    for name in ("jax", "jaxlib", "flax", "optax", "numpy", "camu_jax"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "device": device_name(),
        "devices": max(1, jax.sharding.get_abstract_mesh().size),
        "platform": jax.devices()[0].platform,
        "versions": versions,
        "git": _revision(),
        "peak_memory_mib": peak_memory(),
    }


def peak_memory() -> dict[str, float | None]:
    """The most memory that this process has held so far, in MiB.

    Returns:
      `host`; `device`, of the device that held most, None where devices do not tell (the CPU's memory is the host's).
    """
    peaks = [(device.memory_stats() or {}).get("peak_bytes_in_use") for device in jax.local_devices()]
    known = [peak / 2**20 for peak in peaks if peak is not None]
    return {"host": peak_host_memory(), "device": max(known, default=None)}


def peak_host_memory() -> float:
    """The most memory of the host that this process has held so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def device_name() -> str:
    """The device in words: a GPU's name, or the processor and how many cores this process may use."""
    device = jax.devices()[0]
    if device.platform != "cpu":
        return str(device.device_kind)
    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{model}, {count} core{'s' if count != 1 else ''}"


def advice() -> str | None:
    """What would make this machine faster, if anything would."""
    return models.missing() if jax.default_backend() == "cpu" else None


def _revision() -> str | None:
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():  # installed, perhaps within the user's own repository
        return None

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return None
