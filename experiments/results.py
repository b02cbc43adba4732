"""Results on disk: one small JSON file a (data set, task, method, seed), written atomically.

JAX is imported only where a device is asked for: reading results needs none.
"""

import json
import os
import platform
import resource
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

Result = dict[str, Any]


class DamagedResult(ValueError):
    """A result file is not what `write` made."""


class Extra(NamedTuple):
    """A further experiment on the same cells: its name, which opens its files' names, and its settings."""

    name: str
    settings: Any


def path(out: str | Path, dataset: str, task: str, method: str, seed: int, extra: Extra | None = None) -> Path:
    """Where a result belongs; `camu:finetune` becomes the folder `camu-finetune`."""
    file = f"seed{seed}.json" if extra is None else f"{extra.name}-seed{seed}.json"
    return Path(out) / dataset / task / method.replace(":", "-") / file


def write(where: Path, result: Result) -> None:
    """Writes a result so that `where` holds all of it or what it held before."""
    write_text(where, json.dumps(result, indent=1, sort_keys=True) + "\n")


def write_text(where: Path, text: str) -> None:
    """Writes a text file so that `where` holds all of it or what it held before; makes its folder."""
    where.parent.mkdir(parents=True, exist_ok=True)
    partial = where.with_name(f".{where.name}.{os.getpid()}.partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, where)


def read(where: Path) -> Result | None:
    """Reads a result; None where there is none.

    Raises:
      DamagedResult: the file is not a result.
    """
    try:
        result = json.loads(where.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise DamagedResult(f"{where} cannot be read ({error})") from None
    try:
        numbers = [*result["metrics"].values(), result["seconds"]]
        complete = isinstance(result["settings"], dict) and all(isinstance(n, int | float) for n in numbers)
    except (TypeError, KeyError, AttributeError):
        complete = False
    if not complete:
        raise DamagedResult(f"{where} is not a result file")
    return dict(result)


def difference(old: Any, new: Any, name: str = "") -> str | None:
    """The first setting that two settings disagree on, in words; None where they agree."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted({*old, *new}):
            found = difference(old.get(key), new.get(key), f"{name}.{key}" if name else str(key))
            if found:
                return found
        return None
    return None if old == new else f"{name} was {old}, now {new}"


def provenance() -> dict[str, Any]:
    """Device, package versions and git revision of this run."""
    import jax

    device = jax.devices()[0]
    names = ("jax", "jaxlib", "flax", "optax", "numpy", "camu_jax")
    versions = {"python": platform.python_version()}
    for name in names:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "device": device_name(),
        "devices": _devices(),
        "platform": device.platform,
        "versions": versions,
        "git": _revision(),
        "peak_memory_mib": peak_memory(),
    }


def peak_memory() -> dict[str, float | None]:
    """The most memory that this process has held so far, in MiB.

    Returns:
      `host`; `device`, of the device that held most, None where devices do not tell (the CPU's memory is the host's).
    """
    import jax

    peaks = [(device.memory_stats() or {}).get("peak_bytes_in_use") for device in jax.local_devices()]
    known = [peak / 2**20 for peak in peaks if peak is not None]
    return {"host": peak_host_memory(), "device": max(known, default=None)}


def peak_host_memory() -> float:
    """The most memory of the host that this process has held so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def device_name() -> str:
    """The device in words: a GPU's name, or the processor and how many cores this process may use."""
    import jax

    device = jax.devices()[0]
    if device.platform != "cpu":
        return str(device.device_kind)
    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{model}, {cores} core{'s' if cores != 1 else ''}"


def _devices() -> int:
    """On how many devices minibatches are split."""
    import jax

    return max(1, jax.sharding.get_abstract_mesh().size)


def _revision() -> str | None:
    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return None
