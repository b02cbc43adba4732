"""The one model interface: a pair of pure functions over variables, and adapters for Flax modules."""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from camu_jax.types import Outputs

Variables = dict[str, Any]  # {"params": tree of arrays, "batch_stats": tree of arrays, {} without BatchNorm}


class Apply(Protocol):
    """`(variables, x [B, *image], train) -> (Outputs, batch_stats)`; pure."""

    def __call__(self, variables: Variables, x: jax.Array, *, train: bool) -> tuple[Outputs, Any]: ...


@dataclasses.dataclass(frozen=True)
class Model:
    """A classifier as two pure functions.

    Attributes:
      init: `key -> variables`, fresh parameters and statistics.
      apply: `(variables, x, train) -> (Outputs, batch_stats)`. With `train=True` BatchNorm uses and records the
        statistics of the batch; with `train=False` it uses the recorded ones and returns them unchanged. A model
        without BatchNorm returns `{}`.
    """

    init: Callable[[jax.Array], Variables]
    apply: Apply

    def eval(self, variables: Variables, x: jax.Array) -> Outputs:
        """Outputs with the recorded BatchNorm statistics."""
        return self.apply(variables, x, train=False)[0]

    def train(self, variables: Variables, batches: Sequence[jax.Array]) -> tuple[list[Outputs], Any]:
        """Outputs of several batches in training mode.

        A model without BatchNorm sees the batches joined, in one forward pass. With BatchNorm each batch is
        normalised by its own statistics, and the running statistics are updated batch after batch, in order.

        Args:
          variables: `{"params", "batch_stats"}`.
          batches: images, each `[B_i, *image]`.

        Returns:
          The outputs of each batch, and the batch statistics after the last.
        """
        if not variables["batch_stats"]:
            joint, stats = self.apply(variables, jnp.concatenate(batches), train=True)
            ends = [sum(len(b) for b in batches[: i + 1]) for i in range(len(batches) - 1)]
            logits, embeddings = (jnp.split(part, ends) for part in (joint.logits, joint.embedding))
            return [Outputs(*pair) for pair in zip(logits, embeddings, strict=True)], stats
        outputs = []
        for x in batches:
            out, stats = self.apply(variables, x, train=True)
            variables = {**variables, "batch_stats": stats}
            outputs.append(out)
        return outputs, variables["batch_stats"]


@functools.cache  # equal models give the same object, so a jitted step compiles once
def in_bfloat16(model: Model) -> Model:
    """The model with forward and backward pass in bfloat16; parameters, batch statistics and outputs stay float32.

    So the losses, the gradients' sums over parameters and the optimizer are float32 too.
    """

    def cast(tree: Any, dtype: Any) -> Any:
        return jax.tree.map(lambda a: a.astype(dtype), tree)

    def apply(variables: Variables, x: jax.Array, *, train: bool) -> tuple[Outputs, Any]:
        half = {**variables, "params": cast(variables["params"], jnp.bfloat16)}
        with jax.numpy_dtype_promotion("standard"):  # BatchNorm's float32 statistics meet bfloat16 images
            outputs, stats = model.apply(half, x.astype(jnp.bfloat16), train=train)
        return cast(outputs, jnp.float32), cast(stats, jnp.float32)

    return Model(init=model.init, apply=apply)


def as_variables(variables: Any) -> Variables:
    """The collections the library works on, `params` and `batch_stats`, from what a Flax module returned.

    Raises:
      ValueError: `variables` has no `params`, or holds a collection other than these two.
    """
    if not isinstance(variables, dict) or "params" not in variables:
        raise ValueError("variables has no 'params'; allowed: {'params': ..., 'batch_stats': ...}")
    if extra := set(variables) - {"params", "batch_stats"}:
        raise ValueError(f"variables holds {sorted(extra)}; allowed: params, batch_stats")
    return {"params": variables["params"], "batch_stats": variables.get("batch_stats", {})}


def _as_outputs(result: Any) -> Outputs:
    if isinstance(result, Outputs):
        return result
    if isinstance(result, tuple) and len(result) == 2:
        return Outputs(*result)
    raise TypeError(f"the module returned a {type(result).__name__}; allowed: the pair (logits, embedding), or Outputs")


@functools.cache  # equal modules give the same object, so a jitted step compiles once
def from_linen(module: Any, image_shape: tuple[int, ...]) -> Model:
    """A `Model` of a Flax Linen module.

    Args:
      module: a `flax.linen.Module` whose `__call__(x)` or `__call__(x, train)` returns `(logits, embedding)` or
        `Outputs`.
      image_shape: shape of one image, a tuple; used to make fresh variables.
    """
    takes_train = "train" in inspect.signature(type(module).__call__).parameters

    def init(key: jax.Array) -> Variables:
        mode = {"train": False} if takes_train else {}
        return as_variables(module.init(key, jnp.zeros((1, *image_shape)), **mode))

    def apply(variables: Variables, x: jax.Array, *, train: bool) -> tuple[Outputs, Any]:
        mode = {"train": train} if takes_train else {}
        if not train:
            return _as_outputs(module.apply(variables, x, **mode)), variables["batch_stats"]
        result, updated = module.apply(variables, x, **mode, mutable=["batch_stats"])
        return _as_outputs(result), updated.get("batch_stats", {})

    return Model(init=init, apply=apply)


def from_nnx(make: Callable[[Any], Any], module: Any | None = None) -> tuple[Model, Variables]:
    """A `Model` of a Flax NNX module, and the module's variables.

    The variables go back by `flax.nnx.update(module, variables["params"], variables["batch_stats"])`.

    Args:
      make: builds a fresh module from `flax.nnx.Rngs`; used for `Model.init`.
      module: the trained module, whose `__call__(x)` returns `(logits, embedding)` or `Outputs`; None takes a fresh
        one of `make(nnx.Rngs(0))`.

    Returns:
      The model, and `{"params", "batch_stats"}` as pure dicts.
    """
    from flax import nnx  # Linen users need not pay for it

    module = make(nnx.Rngs(0)) if module is None else module
    views = {
        train: nnx.view(module, use_running_average=not train, raise_if_not_found=False) for train in (True, False)
    }

    def parts(m: Any) -> Any:
        return nnx.split(m, nnx.Param, nnx.BatchStat, ...)

    graphs = {train: parts(view)[0] for train, view in views.items()}
    rest = parts(module)[3]

    def variables_of(m: Any) -> Variables:
        _, params, stats, _ = parts(m)
        return {"params": nnx.to_pure_dict(params), "batch_stats": nnx.to_pure_dict(stats)}

    def init(key: jax.Array) -> Variables:
        return variables_of(make(nnx.Rngs(key)))

    def apply(variables: Variables, x: jax.Array, *, train: bool) -> tuple[Outputs, Any]:
        m = nnx.merge(graphs[train], variables["params"], variables["batch_stats"], rest)
        outputs = _as_outputs(m(x))
        return outputs, nnx.to_pure_dict(nnx.state(m, nnx.BatchStat)) if train else variables["batch_stats"]

    return Model(init=init, apply=apply), variables_of(module)
