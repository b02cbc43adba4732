"""The one model interface: a pair of pure functions over variables, and adapters for Flax modules."""

import dataclasses
import inspect
import itertools
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from camu_jax._value import by_value
from camu_jax.types import Outputs

Variables = dict[str, Any]  # {"params": tree of arrays, "batch_stats": tree of arrays, {} without BatchNorm}


class Apply(Protocol):
    """`(variables, x [B, *image], train, key) -> (Outputs, batch_stats)`; pure."""

    def __call__(
        self, variables: Variables, x: jax.Array, *, train: bool, key: jax.Array | None = None
    ) -> tuple[Outputs, Any]: ...


@dataclasses.dataclass(frozen=True)
class Model:
    """A classifier as two pure functions, which compare by what they compute: equal models compile a step once.

    Attributes:
      init: `key -> variables`, fresh parameters and statistics.
      apply: `(variables, x, train, key) -> (Outputs, batch_stats)`. With `train=True` BatchNorm uses and records the
        statistics of the batch, and layers such as Dropout draw from `key`; with `train=False` nothing is drawn, and
        BatchNorm uses the recorded statistics, which are returned unchanged. A model without BatchNorm returns `{}`.
    """

    init: Callable[[jax.Array], Variables]
    apply: Apply

    def __post_init__(self) -> None:
        object.__setattr__(self, "init", by_value(self.init))
        object.__setattr__(self, "apply", by_value(self.apply))

    def eval(self, variables: Variables, x: jax.Array) -> Outputs:
        """Outputs in evaluation mode: recorded BatchNorm statistics, nothing drawn."""
        return self.apply(variables, x, train=False)[0]

    def train(
        self, variables: Variables, batches: Sequence[jax.Array], key: jax.Array | None = None
    ) -> tuple[list[Outputs], Any]:
        """Outputs of several batches in training mode.

        A model without BatchNorm sees the batches joined, in one forward pass. With BatchNorm each batch is
        normalised by its own statistics, and the running statistics are updated batch after batch, in order.

        Args:
          variables: `{"params", "batch_stats"}`.
          batches: images, each `[B_i, *image]`.
          key: for layers that draw; consumed. None is for models that draw nothing.

        Returns:
          The outputs of each batch, and the batch statistics after the last, of the dtypes that they had.

        Warns:
          UserWarning: a batch is a single example, and there are batch statistics.
        """
        if not variables["batch_stats"]:
            joint, stats = self.apply(variables, jnp.concatenate(batches), train=True, key=key)
            return _split(joint, [len(batch) for batch in batches]), stats
        if any(len(batch) == 1 for batch in batches):
            warnings.warn(_ONE_EXAMPLE, stacklevel=2)
        outputs = []
        for i, x in enumerate(batches):
            own_key = None if key is None else jax.random.fold_in(key, i)
            out, stats = self.apply(variables, x, train=True, key=own_key)
            # A state keeps its types whatever the arithmetic was: a scan's carry must not change.
            variables = {**variables, "batch_stats": same_dtypes(stats, variables["batch_stats"])}
            outputs.append(out)
        return outputs, variables["batch_stats"]


_ONE_EXAMPLE = (
    "a model with batch statistics is trained on a batch of one example: where a BatchNorm layer has a single value "
    "for each channel its variance is 0, which is recorded, and the example is not seen; choose a batch_size that "
    "leaves no single one over, or a model without BatchNorm"
)


def _split(joint: Outputs, sizes: Sequence[int]) -> list[Outputs]:
    """The outputs of joined batches, batch by batch."""
    ends = list(itertools.accumulate(sizes))[:-1]
    leaves, tree = jax.tree.leaves(joint), jax.tree.structure(joint)
    parts = zip(*(jnp.split(leaf, ends) for leaf in leaves), strict=True)
    return [jax.tree.unflatten(tree, part) for part in parts]


def in_bfloat16(model: Model) -> Model:
    """The model with forward and backward pass in bfloat16; parameters, batch statistics and outputs stay float32.

    So the losses, the gradients' sums over parameters and the optimizer are float32 too.
    """

    def cast(tree: Any, dtype: Any) -> Any:
        return jax.tree.map(lambda a: a.astype(dtype) if jnp.issubdtype(a.dtype, jnp.floating) else a, tree)

    def apply(variables: Variables, x: jax.Array, *, train: bool, key: jax.Array | None = None) -> tuple[Outputs, Any]:
        half = {**variables, "params": cast(variables["params"], jnp.bfloat16)}
        with jax.numpy_dtype_promotion("standard"):  # BatchNorm's float32 statistics meet bfloat16 images
            outputs, stats = model.apply(half, cast(x, jnp.bfloat16), train=train, key=key)
        return cast(outputs, jnp.float32), same_dtypes(stats, variables["batch_stats"])

    return Model(init=model.init, apply=apply)


def as_variables(variables: Any) -> Variables:
    """The collections the library works on, `params` and `batch_stats`, from what a Flax module returned.

    Nested mappings, such as Flax's `FrozenDict`, become dicts.

    Raises:
      ValueError: `variables` has no `params`, or holds a collection other than these two.
    """
    if not isinstance(variables, Mapping) or "params" not in variables:
        raise ValueError("variables has no 'params'; allowed: {'params': ..., 'batch_stats': ...}")
    if extra := set(variables) - {"params", "batch_stats"}:
        raise ValueError(f"variables holds {sorted(extra)}; allowed: params, batch_stats")
    return {"params": _dicts(variables["params"]), "batch_stats": _dicts(variables.get("batch_stats", {}))}


def _dicts(tree: Any) -> Any:
    return {name: _dicts(part) for name, part in tree.items()} if isinstance(tree, Mapping) else tree


def as_outputs(result: Any) -> Outputs:
    """What a module returned, as `Outputs`."""
    if isinstance(result, Outputs):
        return result
    if isinstance(result, jax.Array):
        return Outputs(result, None)
    if isinstance(result, tuple) and len(result) == 2:
        return Outputs(*result)
    raise TypeError(
        f"the module returned a {type(result).__name__}; allowed: logits, the pair (logits, embedding), or Outputs"
    )


def same_dtypes(new: Any, old: Any) -> Any:
    """`new` with the dtypes of `old`, so that a state keeps its types whatever the arithmetic was."""
    if not jax.tree.leaves(old):
        return new
    return jax.tree.map(lambda a, b: jnp.asarray(a, jnp.result_type(b)), new, old)


NO_KEY = "key is None; allowed in training: a jax.random key, as layers of the model draw"
# What modules call the argument that tells training from evaluation, and whether it is true in training.
_FLAGS = {"train": True, "training": True, "is_training": True, "deterministic": False, "use_running_average": False}


def _mode(parameters: Mapping[str, inspect.Parameter], train: bool) -> tuple[tuple[Any, ...], dict[str, bool]]:
    """Arguments behind the images that put a call in training or evaluation mode: positional ones, and by name.

    They are positional where they can be, with the defaults of what stands before them: `nn.remat` knows its static
    arguments by their number.
    """
    positional: list[Any] = []
    last_flag = 0
    for name, parameter in list(parameters.items())[1:]:  # the first takes the images
        if parameter.kind not in (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD):
            break
        if name not in _FLAGS and parameter.default is inspect.Parameter.empty:
            break
        positional.append(train == _FLAGS[name] if name in _FLAGS else parameter.default)
        if name in _FLAGS:
            last_flag = len(positional)
    by_position = list(parameters)[1 : 1 + last_flag]
    named = {name: train == inverted for name, inverted in _FLAGS.items() if name in parameters}
    return tuple(positional[:last_flag]), {name: v for name, v in named.items() if name not in by_position}


def from_linen(module: Any, image_shape: tuple[int, ...], *, dtype: Any = jnp.float32) -> Model:
    """A `Model` of a Flax Linen module.

    Args:
      module: a `flax.linen.Module` whose `__call__(x)` returns `(logits, embedding)`, `Outputs`, or logits alone. Its
        call may also take `train`, `training`, `is_training`, `deterministic` or `use_running_average`. In training
        layers may draw from random streams of any name.
      image_shape: shape of one image, a tuple; used to make fresh variables.
      dtype: of the images; an integer type for a module that embeds tokens.
    """
    from flax import errors

    parameters = dict(list(inspect.signature(type(module).__call__).parameters.items())[1:])  # without self

    def init(key: jax.Array) -> Variables:
        args, kwargs = _mode(parameters, train=False)
        return as_variables(module.init(key, jnp.zeros((1, *image_shape), dtype), *args, **kwargs))

    def apply(variables: Variables, x: jax.Array, *, train: bool, key: jax.Array | None = None) -> tuple[Outputs, Any]:
        args, kwargs = _mode(parameters, train)
        if not train:
            try:
                return as_outputs(module.apply(variables, x, *args, **kwargs)), variables["batch_stats"]
            except errors.InvalidRngError as error:
                raise ValueError(
                    "module draws random numbers in evaluation; allowed: in training alone, which its call tells by "
                    f"one of the arguments {', '.join(_FLAGS)}"
                ) from error
        # Linen takes the stream `params` for every name that a layer asks for and that is not there.
        rngs = {} if key is None else {"params": key, "dropout": jax.random.fold_in(key, 1)}
        try:
            result, updated = module.apply(variables, x, *args, **kwargs, rngs=rngs, mutable=["batch_stats"])
        except errors.InvalidRngError as error:
            raise ValueError(NO_KEY) from error
        stats = updated.get("batch_stats", {})
        return as_outputs(result), same_dtypes(stats, variables["batch_stats"])

    return Model(init=init, apply=apply)


def from_nnx(make: Callable[[Any], Any], module: Any | None = None) -> tuple[Model, Variables]:
    """A `Model` of a Flax NNX module, and the module's variables.

    The variables go back by `flax.nnx.update(module, variables["params"], variables["batch_stats"])`.

    Args:
      make: builds a fresh module from `flax.nnx.Rngs`; used for `Model.init`.
      module: the trained module, whose `__call__(x)` returns `(logits, embedding)`, `Outputs`, or logits alone; None
        takes a fresh one of `make(nnx.Rngs(0))`. Its call may also take `rngs`, and a flag as in `from_linen`; layers
        with a mode of their own are switched: those that `nnx.view` knows, such as Dropout and BatchNorm, and
        attributes with a flag's name. A layer that draws in evaluation all the same draws the same every time.

    Returns:
      The model, and its variables as pure dicts: `params`, and as `batch_stats` whatever else the module holds but
      its random state.
    """
    from flax import nnx  # Linen users need not pay for it

    module = make(nnx.Rngs(0)) if module is None else module
    parameters = dict(inspect.signature(module.__call__).parameters)

    def parts(m: Any) -> Any:
        """Graph, parameters, random state, and the rest."""
        return nnx.split(m, nnx.Param, nnx.RngState, ...)

    def view(train: bool) -> Any:
        """The module in one of its modes; its arrays are shared, the module itself stays as it is."""
        view = nnx.view(module, use_running_average=not train, deterministic=not train, raise_if_not_found=False)
        nnx.pop(view, nnx.Intermediate)  # what it sowed when it was called before
        for _, layer in nnx.iter_modules(view):
            for name, in_training in _FLAGS.items():
                if isinstance(vars(layer).get(name), bool):
                    setattr(layer, name, train == in_training)
        return view

    graphs = {train: parts(view(train))[0] for train in (True, False)}
    random_state = jax.eval_shape(lambda: nnx.to_pure_dict(parts(module)[2]))

    def variables_of(m: Any) -> Variables:
        _, params, _, rest = parts(m)
        return {"params": nnx.to_pure_dict(params), "batch_stats": nnx.to_pure_dict(rest)}

    def init(key: jax.Array) -> Variables:
        return variables_of(make(nnx.Rngs(key)))

    def apply(variables: Variables, x: jax.Array, *, train: bool, key: jax.Array | None = None) -> tuple[Outputs, Any]:
        source = jax.random.key(0) if key is None else key
        fresh = _fresh_random_state(source, random_state)
        m = nnx.merge(graphs[train], variables["params"], fresh, variables["batch_stats"])
        args, kwargs = _mode(parameters, train)
        streams = {"rngs": nnx.Rngs(jax.random.fold_in(source, 2**31))} if "rngs" in parameters else {}

        def counts() -> list[Any]:
            return jax.tree.leaves(nnx.to_pure_dict(nnx.state((m, streams), nnx.RngCount)))

        before = counts()
        outputs = as_outputs(m(x, *args, **kwargs, **streams))
        if not train:
            return outputs, variables["batch_stats"]
        if key is None and any(new is not old for new, old in zip(counts(), before, strict=False)):
            raise ValueError(NO_KEY)
        stats = _kept(variables_of(m)["batch_stats"], variables["batch_stats"])
        return outputs, same_dtypes(stats, variables["batch_stats"])

    return Model(init=init, apply=apply), variables_of(view(train=False))


def _kept(new: Any, old: Any) -> Any:
    """What of nested dicts was there before: a call may have sown more."""
    return {name: _kept(new[name], part) for name, part in old.items()} if isinstance(old, dict) else new


def _fresh_random_state(key: jax.Array, like: Any) -> Any:
    """Random state of an NNX module, all of it from one key: keys folded by their place, counts 0."""
    leaves, tree = jax.tree.flatten(like)
    fresh = []
    for i, leaf in enumerate(leaves):
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            own = jax.random.fold_in(key, i)
            fresh.append(jax.random.split(own, leaf.shape) if leaf.shape else own)
        else:
            fresh.append(jnp.zeros(leaf.shape, leaf.dtype))
    return jax.tree.unflatten(tree, fresh)
