"""Convolutions: oneDNN's in programs for one CPU device, XLA's in all others.

A convolution relates three arrays: images, kernel and output. Each is bilinear in the other two, backwards as well: the
images' cotangent is made of kernel and output's, the kernel's of images and output's. So one primitive, which makes the
third of the arrays, is all that differentiation needs, of any order. How it does is chosen when it is lowered.
"""

import contextlib
import ctypes
import functools
import importlib
import importlib.util
import math
from collections.abc import Sequence
from importlib import metadata
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

# The arrays, in the order in which the extension numbers them, and their last four axes; axes before these number
# independent convolutions. Of N, I and O two arrays share each.
_AXES = {"images": "NhwI", "kernel": "hwIO", "output": "NhwO"}
_LAYOUT = ("NHWC", "HWIO", "NHWC")
_TARGET = "camu_jax_convolution"

_convolution = Primitive("convolution")


@functools.cache
def missing() -> str | None:
    """Why convolutions on a CPU are XLA's here, and how to get oneDNN's, in one line; None where they are oneDNN's."""
    try:
        extension = _extension()  # on first use, as its library is large
        jax.ffi.register_ffi_target(_TARGET, extension.convolve, platform="cpu")
    except (ImportError, OSError, RuntimeError) as error:  # not built, without its library, or for another jaxlib
        reason = " ".join(str(error).split())
        return (
            f"oneDNN's convolutions are not there ({reason}), and on a CPU XLA's take up to three times as long; "
            "the wheel for x86-64 Linux has them, and `make setup` builds them there with g++"
        )
    return None


def _extension() -> Any:
    """The compiled module, which finds oneDNN's library by its name once that was loaded from where pip has put it."""
    name = "camu_jax.models._onednn"
    if importlib.util.find_spec(name) is not None:
        with contextlib.suppress(metadata.PackageNotFoundError):
            for file in metadata.files("onednn-cpu-gomp") or ():
                if file.name == "libdnnl.so.3":
                    ctypes.CDLL(str(file.locate()))
    return importlib.import_module(name)


def convolve(
    images: jax.Array,
    kernel: jax.Array,
    strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    dimension_numbers: Any = _LAYOUT,
    precision: Any = None,
    **options: Any,
) -> jax.Array:
    """`jax.lax.conv_general_dilated`, in programs for one CPU device by oneDNN.

    For `flax.linen.Conv(conv_general_dilated=convolve)`. Arrays are float32, or bfloat16, which is then computed in
    float32 and rounded, as XLA does it on a CPU. What oneDNN is not asked for (other types and layouts, dilation,
    groups) is XLA's everywhere.

    Args:
      images: `[N, H, W, I]`.
      kernel: `[KH, KW, I, O]`.
      strides: along both sides.
      padding: zeros before and behind both sides, or `SAME` or `VALID`.
      dimension_numbers: XLA's.
      precision: XLA's.
      **options: XLA's.

    Returns:
      `[N, OH, OW, O]`.

    Raises:
      TypeError, ValueError: as XLA's.
    """

    def xla(images: jax.Array, kernel: jax.Array) -> jax.Array:
        return jax.lax.conv_general_dilated(
            images, kernel, strides, padding, dimension_numbers=dimension_numbers, precision=precision, **options
        )

    out = jax.eval_shape(xla, images, kernel)  # raises XLA's own errors
    if not _is_plain(images, kernel, padding, dimension_numbers, options) or missing() is not None:
        return xla(images, kernel)
    if isinstance(padding, str):
        padding = jax.lax.padtype_to_pads(images.shape[1:3], kernel.shape[:2], strides, padding)
    return _third(
        {"images": images, "kernel": kernel},
        sides=out.shape[1:3],
        window_strides=tuple(strides),
        padding=tuple((int(low), int(high)) for low, high in padding),
        precision=precision or jax.config.values["jax_default_matmul_precision"],
    )


def _is_plain(
    images: jax.Array, kernel: jax.Array, padding: Any, dimension_numbers: Any, options: dict[str, Any]
) -> bool:
    numbers, plain = (
        jax.lax.conv_dimension_numbers(images.shape, kernel.shape, layout) for layout in (dimension_numbers, _LAYOUT)
    )
    return (
        images.ndim == 4
        and numbers == plain
        and images.dtype == kernel.dtype
        and images.dtype in (jnp.float32, jnp.bfloat16)
        and (isinstance(padding, str) or np.min(padding) >= 0)
        and all(value is None or np.all(np.asarray(value) == 1) for value in options.values())  # dilations, groups
        and _on_one_device()
    )


def _on_one_device() -> bool:
    """Whether what is traced runs on one device, as far as the active mesh tells, or is what each of several does."""
    mesh = jax.sharding.get_abstract_mesh()
    return set(mesh.manual_axes) == set(mesh.axis_names) or (mesh.size <= 1 and not mesh.explicit_axes)


def _third(given: dict[str, jax.Array], **params: Any) -> jax.Array:
    """The one of the three arrays that is not given; `sides` are its height and width."""
    (wanted,) = _AXES.keys() - given.keys()
    first, second = _varying_alike(*(given[name] for name in _others(wanted)))
    out: jax.Array = _convolution.bind(first, second, wanted=wanted, **params)
    return out


def _others(wanted: str) -> list[str]:
    """What an array is made of, in order."""
    return [name for name in _AXES if name != wanted]


def _varying_alike(*arrays: jax.Array) -> list[jax.Array]:
    """Within `shard_map`: each varying over the mesh axes that any of them varies over."""
    types = [getattr(jax.typeof(a), "manual_axis_type", jax.typeof(a)) for a in arrays]
    axes = [frozenset(getattr(kind, "varying", getattr(kind, "vma", ()))) for kind in types]
    new = [tuple(frozenset().union(*axes) - own) for own in axes]
    return [jax.lax.pcast(a, names, to="varying") if names else a for a, names in zip(arrays, new, strict=True)]


def _type(first: Any, second: Any, *, wanted: str, sides: tuple[int, int], **_: Any) -> Any:
    """The type of the array that is made of two others, from theirs."""
    sizes = dict(zip("hw", sides, strict=True))
    for name, operand in zip(_others(wanted), (first, second), strict=True):
        sizes |= {axis: n for axis, n in zip(_AXES[name], operand.shape[-4:], strict=True) if axis.isupper()}
    return first.update(shape=(*first.shape[:-4], *(sizes[axis] for axis in _AXES[wanted])))


def _xla(first: jax.Array, second: jax.Array, **params: Any) -> jax.Array:
    """The array that is made of two others, by XLA."""
    if first.ndim > 4:
        return jax.vmap(lambda first, second: _xla(first, second, **params))(first, second)
    wanted, sides = params.pop("wanted"), params.pop("sides")
    given = dict(zip(_others(wanted), (first, second), strict=True))

    def output(array: jax.Array) -> jax.Array:
        images, kernel = (given.get(name, array) for name in ("images", "kernel"))
        return jax.lax.conv_general_dilated(images, kernel, **params, dimension_numbers=_LAYOUT)

    if wanted == "output":
        return output(first)
    like = _type(jax.typeof(first), second, wanted=wanted, sides=sides)
    (array,) = jax.linear_transpose(output, like)(given["output"])
    return array


def _float32(first: jax.Array, second: jax.Array, **params: Any) -> jax.Array:
    out: jax.Array = _convolution.bind(first.astype(jnp.float32), second.astype(jnp.float32), **params)
    return out.astype(first.dtype)


_by_xla = mlir.lower_fun(_xla, multiple_results=False)
_by_float32 = mlir.lower_fun(_float32, multiple_results=False)


def _by_onednn(context: Any, first: Any, second: Any, **params: Any) -> Any:
    """Lowers to the extension in a program for one device, or in what each of several does by itself."""
    devices = context.module_context.axis_context
    if hasattr(devices, "manual_axes"):
        alone = devices.manual_axes == frozenset(devices.mesh.axis_names)
    else:
        alone = getattr(devices, "num_devices", None) == 1
    if not alone:
        return _by_xla(context, first, second, **params)
    if context.avals_in[0].dtype != jnp.float32:
        return _by_float32(context, first, second, **params)
    attributes = {
        "wanted": np.int64(list(_AXES).index(params["wanted"])),
        "strides": np.array(params["window_strides"], np.int64),
        "padding": np.array(params["padding"], np.int64).ravel(),
    }
    return jax.ffi.ffi_lowering(_TARGET)(context, first, second, **attributes)


def _transpose(place: int, cotangent: jax.Array, *operands: Any, wanted: str, sides: Any, **params: Any) -> jax.Array:
    """The cotangent of the first or second operand."""
    names = _others(wanted)
    axes, shape = _AXES[names[place]], operands[place].aval.shape
    sides = tuple(shape[axes.index(side) - 4] for side in "hw")
    return _third({wanted: cotangent, names[1 - place]: operands[1 - place]}, sides=sides, **params)


def _batch(operands: Sequence[jax.Array], batch_axes: Sequence[int | None], **params: Any) -> tuple[jax.Array, int]:
    """A batch of both operands is a leading axis; that of one joins an axis that this one shares with the result."""
    batched = [place for place, axis in enumerate(batch_axes) if axis is not None]
    moved = list(operands)
    if len(batched) == 2:
        moved = [jnp.moveaxis(a, axis or 0, 0) for a, axis in zip(operands, batch_axes, strict=True)]
        return _convolution.bind(*moved, **params), 0
    (place,), wanted = batched, params["wanted"]
    axes = _AXES[_others(wanted)[place]]
    (shared,) = set("NIO").intersection(axes, _AXES[wanted])
    at = operands[place].ndim - 5 + axes.index(shared)
    x = jnp.moveaxis(operands[place], batch_axes[place] or 0, at)
    split = x.shape[at : at + 2]
    moved[place] = x.reshape(*x.shape[:at], math.prod(split), *x.shape[at + 2 :])
    out = _convolution.bind(*moved, **params)
    at = out.ndim - 4 + _AXES[wanted].index(shared)
    return out.reshape(*out.shape[:at], *split, *out.shape[at + 1 :]), at


@functools.partial(jax.jit, static_argnames="params")
def _call(first: jax.Array, second: jax.Array, params: tuple[tuple[str, Any], ...]) -> jax.Array:
    return _convolution.bind(first, second, **dict(params))


@_convolution.def_impl
def _call_now(first: jax.Array, second: jax.Array, **params: Any) -> jax.Array:
    with jax.disable_jit(False):
        return _call(first, second, tuple(params.items()))


_convolution.def_abstract_eval(_type)
ad.defbilinear(_convolution, functools.partial(_transpose, 0), functools.partial(_transpose, 1))
batching.primitive_batchers[_convolution] = _batch
mlir.register_lowering(_convolution, _by_xla)
mlir.register_lowering(_convolution, _by_onednn, platform="cpu")
