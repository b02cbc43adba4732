"""Weights that PyTorch has trained, in the library's two models, without PyTorch.

model = camu_jax.models.resnet18(10)
variables = camu_jax.interop.from_torch("resnet18.safetensors", jax.eval_shape(model.init, jax.random.key(0)))

The file is what `safetensors.torch.save_file(module.state_dict(), "resnet18.safetensors")` writes.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from camu_jax import weights
from camu_jax.model import Variables
from camu_jax.weights import WeightsError, listed


def from_torch(state: str | Path | Mapping[str, Any], like: Variables) -> Variables:
    """Variables of `models.cnn` or `models.resnet18` from the state dict of the same network in PyTorch.

    What the layers are called does not matter: they are told apart by their shapes, and those of one shape come in the
    order of their names, numbers as numbers (`layer1.0.conv1`, `layer1.0.conv2`, ...), as in torchvision and in modules
    that number their layers. A BatchNorm belongs to the convolution beside it. PyTorch flattens channels first, this
    library channels last: the first linear layer's inputs are reordered.

    Args:
      state: a `.safetensors` (extra `safetensors`) or `.npz` file, or arrays by name: convolutions `[O, I, H, W]`,
        linear layers `[O, I]`, BatchNorm's `weight`, `bias`, `running_mean` and `running_var`, `[O]`.
      like: variables of the model, `{"params", "batch_stats"}`; arrays or `jax.ShapeDtypeStruct`s.

    Returns:
      Variables with the tree, shapes and dtypes of `like`.

    Raises:
      FileNotFoundError: there is no such file.
      WeightsError: the file cannot be read, or the layers are not those of the model; by name and shape.
    """
    given_as = weights.read(state) if isinstance(state, str | Path) else state
    arrays = {name: np.asarray(array) for name, array in given_as.items()}
    theirs, ours = _torch_layers(arrays), list(_flax_layers(like["params"]))
    channels = max((layer.shape[-1] for layer in ours if len(layer.shape) == 4), default=1)
    first_linear = next((layer for layer in ours if len(layer.shape) == 2), None)

    params: dict[tuple[str, ...], np.ndarray[Any, Any]] = {}
    stats: dict[tuple[str, ...], np.ndarray[Any, Any]] = {}
    unused = {name: layer for name, layer in theirs.items() if layer["weight"].ndim > 1}
    missing = []
    for layer in ours:
        wanted = layer.shape[::-1] if len(layer.shape) == 2 else (*layer.shape[:1:-1], *layer.shape[:2])
        name = next((n for n, given in unused.items() if given["weight"].shape == wanted), None)
        if name is None:
            missing.append(f"{'/'.join(layer.path)} {wanted}")
            continue
        given = unused.pop(name)
        weight = given["weight"]
        if weight.ndim == 4:
            params[*layer.path, "kernel"] = weight.transpose(2, 3, 1, 0)
            if norm := theirs.get(_norm_beside(name, theirs)):
                at = _norm_of(layer.path)
                params |= {(*at, "scale"): norm["weight"], (*at, "bias"): norm["bias"]}
                stats |= {(*at, "mean"): norm["running_mean"], (*at, "var"): norm["running_var"]}
        else:
            if layer == first_linear:
                weight = weight.reshape(len(weight), channels, -1).swapaxes(1, 2).reshape(weight.shape)
            params[*layer.path, "kernel"] = weight.T
        if "bias" in given:
            params[*layer.path, "bias"] = given["bias"]
    added = [f"{name} {layer['weight'].shape}" for name, layer in unused.items()]
    wrong = [f"{kind}: {listed(names)}" for kind, names in (("missing", missing), ("not in it", added)) if names]
    if wrong:
        raise WeightsError(f"state holds other layers than the model; {'; '.join(wrong)}")
    return {"params": _fill(like["params"], params), "batch_stats": _fill(like["batch_stats"], stats)}


class _Layer(NamedTuple):
    """A convolution or linear layer of ours: where it stands, and the shape of its kernel."""

    path: tuple[str, ...]
    shape: tuple[int, ...]


def _flax_layers(params: Any, path: tuple[str, ...] = ()) -> Iterator[_Layer]:
    """Convolutions and linear layers, in the order of their names."""
    if "kernel" in params:
        yield _Layer(path, tuple(params["kernel"].shape))
        return
    for name in sorted(params, key=_natural):
        if isinstance(params[name], Mapping):
            yield from _flax_layers(params[name], (*path, name))


def _torch_layers(arrays: Mapping[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    """The arrays of each layer by the layer's name, in the order of the names."""
    layers: dict[str, dict[str, np.ndarray]] = {}
    for name in sorted(arrays, key=_natural):
        layer, _, part = name.rpartition(".")
        if part != "num_batches_tracked":
            layers.setdefault(layer, {})[part] = arrays[name]
    return {name: layer for name, layer in layers.items() if "weight" in layer}


def _norm_beside(convolution: str, layers: Mapping[str, Mapping[str, Any]]) -> str:
    """The BatchNorm that belongs to a convolution: of the same module's, that of the same place; "?" where none is."""
    module = convolution.rpartition(".")[0]
    beside = [name for name in layers if name.rpartition(".")[0] == module]
    norms = [name for name in beside if "running_mean" in layers[name]]
    place = [name for name in beside if layers[name]["weight"].ndim == 4].index(convolution)
    return norms[place] if place < len(norms) else "?"


def _norm_of(path: tuple[str, ...]) -> tuple[str, ...]:
    """Where the BatchNorm behind one of our convolutions stands."""
    return (*path[:-1], path[-1].replace("Conv", "BatchNorm"))


def _fill(like: Any, found: Mapping[tuple[str, ...], np.ndarray]) -> Any:
    """The found arrays in the tree of `like`."""

    def one(at: Any, leaf: Any) -> jax.Array:
        path = tuple(str(entry.key) for entry in at)
        array = found.get(path)
        if array is None or array.shape != leaf.shape:
            shape = "is missing" if array is None else f"has shape {array.shape}"
            raise WeightsError(f"state: {'/'.join(path)} {shape}; allowed: {tuple(leaf.shape)}")
        return jnp.asarray(array, leaf.dtype)

    return jax.tree.map_with_path(one, like)


def _natural(name: str) -> list[tuple[int, str]]:
    """Orders names with their numbers as numbers."""
    parts = re.split(r"(\d+)", name)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]
