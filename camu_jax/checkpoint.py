"""Predictors on disk: Orbax writes them atomically, a manifest of checksums notices damage.

save("unlearned", predictor)
predictor = load("unlearned", model)
"""

import contextlib
import dataclasses
import glob
import hashlib
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from camu_jax.images import Pipeline
from camu_jax.model import Model
from camu_jax.problem import Predictor

Description = dict[str, Any]
_DAY = 24 * 3600.0  # nobody takes so long to write a checkpoint
_MANIFEST, _VARIABLES = "manifest.json", "variables"


class CheckpointError(ValueError):
    """A checkpoint is damaged, or belongs to something else; the message is one line."""


def save(path: str | Path, predictor: Predictor, made_from: Description | None = None) -> None:
    """Writes a predictor and what it was made from, so that `path` either holds all of it or does not exist.

    Several processes (`jax.distributed`) call this and `load` together.

    Args:
      path: a folder that does not exist yet.
      predictor: any predictor; its model, which is code, is not written.
      made_from: settings and the like, JSON.

    Raises:
      FileExistsError: there is something at `path`.
      OSError: the folder cannot be written.
    """
    path = Path(path)
    if path.exists():
        raise FileExistsError(f"{path} exists already; allowed: a path where nothing is")
    description = {
        "members": len(predictor.members),
        "aggregate": predictor.aggregate,
        "pipeline": dataclasses.asdict(predictor.pipeline),
        "info": {name: float(value) for name, value in predictor.info.items()},
        "made_from": made_from or {},
    }
    shared, writer = jax.process_count() > 1, jax.process_index() == 0
    partial = path.with_name(f".{path.name}.{'all' if shared else f'{os.uname().nodename}.{os.getpid()}'}.partial")
    if writer:
        path.parent.mkdir(parents=True, exist_ok=True)
        for left in path.parent.glob(f".{glob.escape(path.name)}.*.partial"):
            with contextlib.suppress(FileNotFoundError):
                if left == partial or time.time() - left.stat().st_mtime > _DAY:  # of a process that was killed
                    shutil.rmtree(left, ignore_errors=True)
        partial.mkdir()
    import orbax.checkpoint.experimental.v1 as ocp  # takes a second: only those who save or load wait for it

    try:
        ocp.save((partial / _VARIABLES).resolve(), {"members": list(predictor.members)})
    except ValueError as error:  # what TensorStore says of a full disk
        raise OSError(f"{path} cannot be written ({error})") from error
    if writer:
        _finish(partial, path, description)
    if shared:
        multihost_utils.sync_global_devices(f"{path} is there")


def _finish(partial: Path, path: Path, description: Description) -> None:
    """Adds the manifest and gives the folder its name."""
    files = sorted(p for p in partial.rglob("*") if p.is_file())
    sums = {str(p.relative_to(partial)): _sha256(p) for p in files}
    manifest = {"description": description, "sha256": sums}
    (partial / _MANIFEST).write_text(json.dumps({**manifest, "digest": _digest(manifest)}, indent=1))
    try:
        partial.rename(path)
    except OSError:  # another process finished the same checkpoint first
        if not path.is_dir():
            raise
        shutil.rmtree(partial)


def load(path: str | Path, model: Model, made_from: Description | None = None) -> Predictor:
    """Reads a predictor after checking every file.

    Args:
      path: a folder that `save` made.
      model: the model that the predictor was made with.
      made_from: what was given to `save`; None accepts anything.

    Returns:
      The predictor.

    Raises:
      FileNotFoundError: there is no such folder.
      CheckpointError: a file is missing, added or changed, it was made from something else, or the model does not fit.
    """
    path = Path(path)
    if not path.is_dir():
        raise FileNotFoundError(f"{path} is not a folder; allowed: what save made")
    manifest = _manifest(path)
    _check_files(path, manifest["sha256"])
    description = manifest["description"]
    try:
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in description["pipeline"].items()}
        pipeline = Pipeline(**fields)
        count, aggregate = int(description["members"]), description["aggregate"]
        info = {name: jnp.float32(value) for name, value in description["info"].items()}
        found = description["made_from"]
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"checkpoint {path}: its manifest describes no predictor ({error})") from None
    if made_from is not None and found != json.loads(json.dumps(made_from)):  # of a tuple JSON makes a list
        raise CheckpointError(f"checkpoint {path} was made from other settings: {found}")
    member = jax.eval_shape(model.init, jax.random.key(0))
    members = _read(path, {"members": [member] * count})["members"]
    return Predictor(tuple(map(dict, members)), model, pipeline, aggregate, info)


def _check_files(path: Path, sums: dict[str, str]) -> None:
    names = {str(p.relative_to(path)) for p in path.rglob("*") if p.is_file()} - {_MANIFEST}
    if names != set(sums):
        odd = sorted(names ^ set(sums))[0]
        where = "not in the manifest" if odd in names else "missing"
        raise CheckpointError(f"checkpoint {path}: file {odd} is {where}")
    for name, expected in sums.items():
        if _sha256(path / name) != expected:
            raise CheckpointError(f"checkpoint {path}: file {name} was changed since it was written")


def _read(path: Path, like: Any) -> Any:
    """The variables; `like` is a tree of the arrays to expect."""
    import orbax.checkpoint.experimental.v1 as ocp

    abstract = jax.tree.map(lambda a: np.empty(a.shape, a.dtype), like)
    where = (path / _VARIABLES).resolve()
    try:
        if _arrays(ocp.metadata(where).metadata) != _arrays(like):  # Orbax would convert another dtype
            raise ValueError("other names, shapes or dtypes")
        return jax.tree.map(jnp.asarray, ocp.load(where, abstract))
    except Exception as error:  # Orbax raises many types
        raise CheckpointError(f"checkpoint {path} does not fit the model ({type(error).__name__})") from error


def _manifest(path: Path) -> dict[str, Any]:
    try:
        found = json.loads((path / _MANIFEST).read_text())
        manifest = {name: dict(found[name]) for name in ("sha256", "description")}
        digest = found["digest"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"checkpoint {path}: its manifest cannot be read ({error})") from None
    if digest != _digest(manifest):
        raise CheckpointError(f"checkpoint {path}: its manifest was changed since it was written")
    return manifest


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


def _digest(manifest: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
