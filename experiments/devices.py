"""Which devices work: one, several of this machine, or those of several machines."""

import dataclasses

import jax
import numpy as np
from jax.experimental import multihost_utils

from camu_jax import _validate
from experiments import console
from experiments.flags import UsageError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Hosts:
    """Several processes, one for each machine, that run the same command and share the folders."""

    coordinator: str | None = None
    """HOST:PORT of process 0, where the processes find each other; None is a process on its own."""
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


def connect(hosts: Hosts) -> None:
    """Waits for the other processes; call before anything else of JAX.

    Raises:
      UsageError: they do not find each other.
    """
    if hosts.coordinator is None:
        return
    jax.config.update("jax_cpu_enable_async_dispatch", False)  # programs that overlap would mix up their sums
    try:
        jax.distributed.initialize(hosts.coordinator, hosts.processes, hosts.process)
    except (RuntimeError, ValueError) as error:
        raise UsageError(f"the processes do not find each other at {hosts.coordinator} ({error})") from None
    if not primary():
        console.silence()


def use(count: int) -> None:
    """Makes the minibatches of everything that follows be split over `count` devices of each process.

    Raises:
      UsageError: there are not so many.
    """
    found = jax.local_device_count()
    if not 1 <= count <= found:
        raise UsageError(f"devices is {count}; allowed: 1 to {found}, the {jax.default_backend()} devices here")
    if count * jax.process_count() == 1:
        return
    first: dict[int, list[jax.Device]] = {}
    for device in jax.devices():
        first.setdefault(device.process_index, []).append(device)
    chosen = [device for devices in first.values() for device in devices[:count]]
    axis = (jax.sharding.AxisType.Auto,)
    jax.set_mesh(jax.make_mesh((len(chosen),), ("data",), axis_types=axis, devices=chosen))


def primary() -> bool:
    """Whether this process prints and writes."""
    return jax.process_index() == 0


def agree(flag: bool) -> bool:
    """What process 0 holds for true; all of them have to ask."""
    if jax.process_count() == 1:
        return flag
    return bool(multihost_utils.broadcast_one_to_all(np.asarray(flag)))
