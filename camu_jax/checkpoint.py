"""Trained variables on disk: Orbax writes them atomically, a manifest of checksums notices damage."""

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint.experimental.v1 as ocp
from jax.experimental import multihost_utils

_MANIFEST = "manifest.json"


class CheckpointError(ValueError):
    """A checkpoint is damaged, or belongs to something else; the message is one line for the user."""


def save(path: str | Path, variables: Any, description: dict[str, Any]) -> None:
    """Writes variables and what they are, so that `path` either holds all of it or does not exist.

    Several processes (`jax.distributed`) call this and `load` together.

    Args:
      path: a folder that does not exist yet.
      variables: a pytree of arrays.
      description: what the variables were made from, JSON.

    Raises:
      OSError: the folder cannot be written.
    """
    path = Path(path)
    shared, writer = jax.process_count() > 1, jax.process_index() == 0
    partial = path.with_name(f".{path.name}.{'all' if shared else os.getpid()}.partial")
    if writer:
        path.parent.mkdir(parents=True, exist_ok=True)
        for left in path.parent.glob(f".{path.name}.*.partial"):  # by a process that was killed here
            shutil.rmtree(left, ignore_errors=True)
        partial.mkdir()
    ocp.save((partial / "variables").resolve(), variables)
    if writer:
        _finish(partial, path, description)
    if shared:
        multihost_utils.sync_global_devices(f"{path} is there")


def _finish(partial: Path, path: Path, description: dict[str, Any]) -> None:
    """Adds the manifest and gives the folder its name."""
    files = sorted(p for p in partial.rglob("*") if p.is_file())
    sums = {str(p.relative_to(partial)): _sha256(p) for p in files}
    (partial / _MANIFEST).write_text(json.dumps({"description": description, "sha256": sums}, indent=1))
    try:
        partial.rename(path)
    except OSError:  # another process finished the same checkpoint first
        if not path.is_dir():
            raise
        shutil.rmtree(partial)


def load(path: str | Path, like: Any, description: dict[str, Any]) -> Any:
    """Reads variables after checking every file.

    Args:
      path: a folder that `save` made.
      like: a pytree of arrays or `jax.ShapeDtypeStruct`: the expected structure.
      description: what was given to `save`.

    Returns:
      The variables.

    Raises:
      FileNotFoundError: there is no such folder.
      CheckpointError: a file is missing, added or changed, or the description or structure differs.
    """
    path = Path(path)
    if not path.is_dir():
        raise FileNotFoundError(path)
    manifest = _manifest(path)
    sums, found = manifest["sha256"], manifest["description"]
    names = {str(p.relative_to(path)) for p in path.rglob("*") if p.is_file()} - {_MANIFEST}
    if names != set(sums):
        odd = sorted(names ^ set(sums))[0]
        raise CheckpointError(
            f"checkpoint {path}: file {odd} is {'not in the manifest' if odd in names else 'missing'}"
        )
    for name, expected in sums.items():
        if _sha256(path / name) != expected:
            raise CheckpointError(f"checkpoint {path}: file {name} was changed since it was written")
    if found != description:
        raise CheckpointError(f"checkpoint {path} was made from other settings: {found}")
    abstract = jax.tree.map(lambda a: np.empty(a.shape, a.dtype), like)
    where = (path / "variables").resolve()
    try:
        if _arrays(ocp.metadata(where).metadata) != _arrays(like):  # Orbax would convert another dtype
            raise ValueError("other names, shapes or dtypes")
        return jax.tree.map(jnp.asarray, ocp.load(where, abstract))
    except Exception as error:  # Orbax raises many types
        raise CheckpointError(f"checkpoint {path} does not fit the model ({type(error).__name__})") from error


def description(path: str | Path) -> dict[str, Any]:
    """What was given to `save`; the variables are not checked.

    Raises:
      CheckpointError: the manifest is missing or damaged.
    """
    return dict(_manifest(Path(path))["description"])


def _manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((path / _MANIFEST).read_text())
        return {name: dict(manifest[name]) for name in ("sha256", "description")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"checkpoint {path}: its manifest cannot be read ({error})") from None


def set_aside(path: str | Path) -> Path:
    """Moves a damaged file or folder out of the way, keeping it; returns where it is now."""
    path = Path(path)
    for number in range(1, 10_000):
        aside = path.with_name(f"{path.name}.corrupt{number}")
        if not aside.exists():
            path.rename(aside)
            return aside
    raise OSError(f"{path} cannot be set aside: too many damaged copies beside it")


def _arrays(tree: Any) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and dtype of each array, by where it is in the tree."""
    leaves = jax.tree.leaves_with_path(tree)
    return {jax.tree_util.keystr(at): (tuple(leaf.shape), str(leaf.dtype)) for at, leaf in leaves}


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
