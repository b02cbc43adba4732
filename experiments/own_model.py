"""A model of one's own: what `--model.factory FILE.py:NAME` makes, checked before any work."""

import inspect
import sys

import jax

import camu_jax
from camu_jax import Model, weights
from experiments import UsageError, keys, own_code

_FLAG = "model.factory"
_TAKEN = ("image_shape", "num_classes", "rngs", "key")  # what such a function may ask for
_ANY = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
_KINDS = "a Flax Linen or NNX module, an Equinox module, or a camu_jax.Model"


def make(factory: str, image_shape: tuple[int, ...], num_classes: int, *, dtype: str = "float32") -> Model:
    """The model that a function of the user returns, for images of a shape.

    The function may take `image_shape` and `num_classes`; it takes `rngs` (`flax.nnx.Rngs`) where it returns an NNX
    module and `key` (a `jax.random` key) where it returns an Equinox module, so that each training starts anew.

    Args:
      factory: `FILE.py:NAME`.
      image_shape: of one input of the model.
      num_classes: C.
      dtype: of the inputs.

    Raises:
      UsageError: there is no such function, it fails, returns something else, or its model does not take a batch of
        such images; in one line.
    """
    function = own_code.function(_FLAG, factory)
    known = {"image_shape": tuple(image_shape), "num_classes": num_classes}
    parameters = inspect.signature(function).parameters
    unknown = [n for n, p in parameters.items() if n not in _TAKEN and p.default is p.empty and p.kind not in _ANY]
    if unknown:
        raise UsageError(f"model.factory {factory} takes {', '.join(unknown)}; allowed: {', '.join(_TAKEN)}")
    given = {name: value for name, value in known.items() if name in parameters}
    with own_code.said_in_one_line(_FLAG, factory):
        model = _model(factory, function, set(parameters), given, image_shape, dtype)
    _check(factory, model, image_shape, num_classes, dtype)
    return model


def digest(factory: str) -> str:
    """The digest of the code that makes the model; see `own_code.digest`."""
    return own_code.digest(_FLAG, factory)


def _model(
    factory: str,
    function: own_code.Function,
    parameters: set[str],
    given: dict[str, object],
    image_shape: tuple[int, ...],
    dtype: str,
) -> Model:
    """What the function returns, as a `Model`."""
    from flax import linen, nnx

    random = {"rngs": nnx.Rngs(0), "key": keys.trial()}
    drawn = {name: value for name, value in random.items() if name in parameters}
    with own_code.beside(_FLAG, factory):
        made = function(**given, **drawn)
    kind = _kind(made)
    needs = {"nnx": "rngs", "equinox": "key"}.get(kind, "")
    if needs and needs not in parameters:
        raise UsageError(f"model.factory {factory} takes no {needs}; allowed for its module: a function with {needs}")
    if isinstance(made, Model):
        return made
    if isinstance(made, linen.Module):
        return camu_jax.from_linen(made, image_shape, dtype=dtype)
    if kind == "nnx":
        return camu_jax.from_nnx(lambda rngs: function(**given, rngs=rngs))[0]
    if kind == "equinox":
        return camu_jax.from_equinox(lambda key: function(**given, key=key))[0]
    raise UsageError(f"model.factory {factory} returns a {type(made).__name__}; allowed: {_KINDS}")


def _kind(made: object) -> str:
    """Which kind of module needs something random to be made anew."""
    from flax import nnx

    if isinstance(made, nnx.Module):
        return "nnx"
    equinox = sys.modules.get("equinox")  # not imported where the user's file did not
    first = made[0] if isinstance(made, tuple) and made else made
    return "equinox" if equinox is not None and isinstance(first, equinox.Module) else ""


def _check(factory: str, model: Model, image_shape: tuple[int, ...], num_classes: int, dtype: str) -> None:
    """Traces the model on a batch of two, in evaluation and in training."""
    key = keys.trial()
    images = jax.ShapeDtypeStruct((2, *image_shape), jax.dtypes.canonicalize_dtype(dtype))
    with own_code.said_in_one_line(_FLAG, factory):
        variables = jax.eval_shape(model.init, key)
        outputs = jax.eval_shape(model.eval, variables, images)
        trained = jax.eval_shape(lambda v, x, key: model.apply(v, x, train=True, key=key), variables, images, key)
    if outputs.logits.shape != (2, num_classes):
        raise UsageError(
            f"model.factory {factory} returns logits of shape {outputs.logits.shape} for two images of shape "
            f"{tuple(image_shape)}; allowed: {(2, num_classes)}, as the data has {num_classes} classes"
        )
    if outputs.embedding is not None and (outputs.embedding.ndim != 2 or outputs.embedding.shape[0] != 2):
        raise UsageError(
            f"model.factory {factory} returns an embedding of shape {outputs.embedding.shape} for two images; allowed: "
            "(2, D)"
        )
    if weights.flat(trained[1]).keys() != weights.flat(variables["batch_stats"]).keys():
        raise UsageError(f"model.factory {factory} returns other batch_stats in training; allowed: those of its init")
