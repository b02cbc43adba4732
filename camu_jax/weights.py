"""A model's weights in the formats that other code writes: an Orbax folder, `.safetensors`, `.npz`.

like = jax.eval_shape(model.init, jax.random.key(0))
variables = load("ckpt/", like)
save("unlearned.safetensors", variables)

Arrays are known by name, the places in the tree joined by "/": `params/Dense_0/kernel`.
"""

import hashlib
import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from camu_jax.model import Variables

Format = Literal["orbax", "safetensors", "npz"]
_SUFFIXES: dict[str, Format] = {"": "orbax", ".safetensors": "safetensors", ".npz": "npz"}
_SHOWN = 6  # arrays that an error lists of a kind
_EXTRA = "safetensors is not installed; allowed: pip install 'camu_jax[safetensors]', or a .npz file or Orbax folder"


class WeightsError(ValueError):
    """Weights cannot be read, or are those of another model; the message is one line."""


def format_of(path: str | Path) -> Format:
    """The format that a path says: an existing folder or a name without ending is Orbax.

    Raises:
      WeightsError: its ending is none of `.safetensors` and `.npz`.
    """
    path = Path(path)
    if path.is_dir():
        return "orbax"
    if path.suffix not in _SUFFIXES or path.exists() and not path.suffix:
        raise WeightsError(f"weights {path} has the ending {path.suffix!r}; allowed: a folder, .safetensors or .npz")
    return _SUFFIXES[path.suffix]


def load(path: str | Path, like: Variables) -> Variables:
    """Reads the weights of a model.

    Names may be joined by "/" or ".", and may lack the collections `params` and `batch_stats` where that leaves no
    doubt. What stands beside these two (an optimizer's state, a step) is not read, nor is the random state of NNX
    layers. Floats of another precision are converted.

    Args:
      path: an Orbax folder (`camu_jax.save`'s too), a `.safetensors` or a `.npz` file.
      like: variables of the model, `{"params", "batch_stats"}`; arrays or `jax.ShapeDtypeStruct`s.

    Returns:
      Variables with the tree, shapes and dtypes of `like`.

    Raises:
      FileNotFoundError: there is nothing at `path`.
      WeightsError: it cannot be read, or does not fit: every array that is missing, of another shape, or that the model
        does not have, by name and shape.
    """
    return _fit(path, read(path), like)


def read(path: str | Path) -> dict[str, Any]:
    """The arrays that a folder or file holds, by the names that they have there.

    Raises:
      FileNotFoundError: there is nothing at `path`.
      WeightsError: it cannot be read.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"weights {path} are not there; allowed: a folder, a .safetensors or a .npz file")
    return _READERS[format_of(path)](path)


def save(path: str | Path, variables: Variables, *, like: str | Path | None = None) -> None:
    """Writes weights in the format that the path says, so that `path` holds all of them or is as it was before.

    Args:
      path: a folder or file; one that is there is replaced.
      variables: `{"params", "batch_stats"}`.
      like: weights that `load` reads for the same model: the new ones get their names and dtypes, so that the code
        which wrote those reads these. What else is there, such as an optimizer's state, is left out. None takes our
        own names.

    Raises:
      FileNotFoundError: there is nothing at `like`.
      WeightsError: the ending is unknown, the format's library is missing, or `like` is of another model.
      OSError: it cannot be written.
    """
    path = Path(path)
    write = _WRITERS[format_of(path)]
    tree = variables if like is None else _renamed(variables, Path(like))
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    try:
        write(partial, tree)
        if path.is_dir():  # a folder cannot be replaced in one step
            before = path.with_name(f".{path.name}.{os.getpid()}.before.partial")
            path.rename(before)
            partial.rename(path)
            shutil.rmtree(before)
        else:
            os.replace(partial, path)
    finally:
        shutil.rmtree(partial) if partial.is_dir() else partial.unlink(missing_ok=True)


def digest(variables: Variables) -> str:
    """SHA-256 of the names, shapes, dtypes and values of weights, whichever format they came in; hexadecimal."""
    found = hashlib.sha256()
    for name, array in sorted(flat(variables).items()):
        value = np.asarray(array)
        found.update(f"{name} {value.dtype} {value.shape}\n".encode())
        found.update(np.ascontiguousarray(value).tobytes())
    return found.hexdigest()


def flat(tree: Any) -> dict[str, Any]:
    """The leaves of a tree by name: `{"params/Dense_0/kernel": array}`."""
    return {"/".join(map(_part, at)): leaf for at, leaf in jax.tree.leaves_with_path(tree)}


def _part(entry: Any) -> str:
    """What a step into a tree is called, whatever kind of node it goes into."""
    for attribute in ("key", "name", "idx"):
        if hasattr(entry, attribute):
            return str(getattr(entry, attribute))
    return str(entry)


# --- fitting -----------------------------------------------------------------------------------------------------


def fit(what: str, tree: Any, like: Variables) -> Variables:
    """Weights that other code holds, in the tree of a model.

    Args:
      what: they are, for messages.
      tree: of arrays; names as for `load`.
      like: as for `load`.

    Raises:
      WeightsError: as `load`.
    """
    return _fit(what, flat(tree), like)


def _fit(what: str | Path, found: dict[str, Any], like: Variables) -> Variables:
    """The found arrays in the tree of `like`."""
    wanted = flat(like)
    given = {ours: found[theirs] for ours, theirs in _names(wanted, found).items()}
    missing = [f"{name} {tuple(leaf.shape)}" for name, leaf in wanted.items() if name not in given]
    added = [f"{name} {tuple(array.shape)}" for name, array in given.items() if name not in wanted]
    shapes, kinds = [], []
    for name, leaf in wanted.items():
        if name in given and given[name].shape != leaf.shape:
            shapes.append(f"{name} {tuple(given[name].shape)} where the model has {tuple(leaf.shape)}")
        elif name in given and not _converts(given[name].dtype, leaf.dtype):
            kinds.append(f"{name} {given[name].dtype} where the model has {leaf.dtype}")
    groups = {"missing": missing, "of another shape": shapes, "of another dtype": kinds, "not in the model": added}
    wrong = [f"{kind}: {listed(names)}" for kind, names in groups.items() if names]
    if wrong:
        raise WeightsError(f"weights {what} do not fit the model; {'; '.join(wrong)}")
    leaves = [_converted(given[name], leaf.dtype) for name, leaf in wanted.items()]
    return dict(jax.tree.unflatten(jax.tree.structure(like), leaves))


def _renamed(variables: Variables, like: Path) -> Any:
    """The weights in a tree with the names and dtypes of others."""
    if not like.exists():
        raise FileNotFoundError(f"weights {like} are not there; allowed: a folder, a .safetensors or a .npz file")
    found = _READERS[format_of(like)](like)
    _fit(like, found, variables)
    ours = flat(variables)
    named = {theirs: _in_precision(ours[name], found[theirs]) for name, theirs in _names(ours, found).items()}
    if format_of(like) != "orbax":
        return named
    from flax import traverse_util  # other users need not pay for it

    return traverse_util.unflatten_dict(named, sep="/")


def _in_precision(array: Any, like: Any) -> Any:
    """A float in the precision of another; NumPy's files forget what bfloat16 is called, and it stays as it is."""
    return jnp.asarray(array, like.dtype) if jnp.issubdtype(like.dtype, jnp.floating) else array


def _names(wanted: Iterable[str], found: Iterable[str]) -> dict[str, str]:
    """Of the found names those that count, by the wanted ones where they mean the same, else by themselves."""
    full = {_canonical(name): name for name in wanted}
    short: dict[str, str] = {}  # without the collection
    for canonical, name in full.items():
        bare = canonical.partition("/")[2]
        short[bare] = "" if bare in short else name  # in both collections: it could be either
    ours = {canonical: name for name in found if "/rngs/" not in (canonical := _canonical(name))}
    collections = {name.partition("/")[0] for name in ours}
    if "params" in collections:  # a state of training has more
        ours = {name: own for name, own in ours.items() if name.partition("/")[0] in ("params", "batch_stats")}
        return {full.get(name, name): own for name, own in ours.items()}
    return {short.get(name) or name: own for name, own in ours.items()}


def _canonical(name: str) -> str:
    """A name joined by "/", without the `value` that Flax NNX's states end with."""
    return "/".join(part for part in re.split(r"[/.]", name) if part).removesuffix("/value")


def _converts(found: Any, wanted: Any) -> bool:
    both = [jnp.issubdtype(dtype, jnp.floating) for dtype in (found, wanted)]
    return found == wanted or all(both) or _is_nameless(found) and found.itemsize == np.dtype(wanted).itemsize


def _is_nameless(dtype: Any) -> bool:
    """Whether it stands for a dtype that NumPy's files have no name for, such as bfloat16."""
    return bool(np.dtype(dtype).type is np.void)


def _converted(array: Any, dtype: Any) -> jax.Array:
    if _is_nameless(array.dtype):
        array = array.view(dtype)
    return jnp.asarray(np.asarray(array).astype(dtype))


def listed(names: list[str]) -> str:
    """Names for an error: the first of them, and how many there are more."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


# --- formats -----------------------------------------------------------------------------------------------------


def _read_npz(path: Path) -> dict[str, Any]:
    try:
        with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except Exception as error:  # NumPy and zipfile raise many types on damaged files
        raise _unreadable(path, error) from None


def _write_npz(path: Path, variables: Variables) -> None:
    arrays: dict[str, Any] = {name: np.asarray(array) for name, array in flat(variables).items()}
    np.savez(path, **arrays)


def _read_safetensors(path: Path) -> dict[str, Any]:
    try:
        from safetensors import flax
    except ImportError:
        raise WeightsError(_EXTRA) from None
    try:
        return dict(flax.load_file(path))
    except Exception as error:
        raise _unreadable(path, error) from None


def _write_safetensors(path: Path, variables: Variables) -> None:
    try:
        from safetensors import flax
    except ImportError:
        raise WeightsError(_EXTRA) from None
    flax.save_file({name: jnp.asarray(array) for name, array in flat(variables).items()}, path)


def _read_orbax(path: Path) -> dict[str, Any]:
    import orbax.checkpoint.experimental.v1 as ocp  # takes a second

    own = (path / "manifest.json").is_file() and (path / "variables").is_dir()  # as `camu_jax.save` writes
    where = (path / "variables" if own else path).resolve()
    try:
        tree = ocp.metadata(where).metadata
        arrays = jax.tree.map(lambda a: np.empty(a.shape, a.dtype), tree)
        found: Any = ocp.load(where, arrays)
    except Exception as error:  # Orbax raises many types
        steps = sorted(int(p.name) for p in path.iterdir() if p.name.isdecimal())
        if steps:
            inside = f"{path}/{steps[-1]}"
            raise WeightsError(f"weights {path} holds the steps {steps}; allowed: one of them, {inside} say") from None
        raise _unreadable(path, error) from None
    if own:
        members = found["members"]
        if len(members) != 1:
            raise WeightsError(f"weights {path} are those of {len(members)} models; allowed: of one")
        found = members[0]
    return flat(found)


def _write_orbax(path: Path, variables: Variables) -> None:
    import orbax.checkpoint.experimental.v1 as ocp

    try:
        ocp.save(path.resolve(), variables)
    except ValueError as error:  # what TensorStore says of a full disk
        raise OSError(f"{path} cannot be written ({error})") from error


def _unreadable(path: Path, error: Exception) -> WeightsError:
    reason = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
    return WeightsError(f"weights {path} cannot be read as {format_of(path)} ({reason})")


_READERS = {"orbax": _read_orbax, "safetensors": _read_safetensors, "npz": _read_npz}
_WRITERS = {"orbax": _write_orbax, "safetensors": _write_safetensors, "npz": _write_npz}
