"""A model of one's own: what `--model.factory FILE.py:NAME` makes, checked before any work."""

import contextlib
import hashlib
import importlib.util
import inspect
import modulefinder
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import jax

import camu_jax
from camu_jax import Model, weights
from experiments import UsageError

Factory = Callable[..., object]  # type: ignore[explicit-any]  # it takes what it asks for
_OURS = ("camu_jax", "experiments")  # their revision is noted with each result
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
    function = _function(factory)
    known = {"image_shape": tuple(image_shape), "num_classes": num_classes}
    parameters = inspect.signature(function).parameters
    unknown = [n for n, p in parameters.items() if n not in _TAKEN and p.default is p.empty and p.kind not in _ANY]
    if unknown:
        raise UsageError(f"model.factory {factory} takes {', '.join(unknown)}; allowed: {', '.join(_TAKEN)}")
    given = {name: value for name, value in known.items() if name in parameters}
    with _said_in_one_line(factory):
        model = _model(factory, function, set(parameters), given, image_shape, dtype)
    _check(factory, model, image_shape, num_classes, dtype)
    return model


def digest(factory: str) -> str:
    """SHA-256 of the function's file and of the modules of its folder that it imports, and of the function's name.

    Raises:
      UsageError: there is no such file, or it is no Python.
    """
    file, name = _parts(factory)
    finder = modulefinder.ModuleFinder(path=[str(file.parent)], excludes=list(_OURS))
    with _said_in_one_line(factory):
        finder.run_script(str(file))
    found = (getattr(module, "__file__", None) for module in finder.modules.values())
    files = {Path(where) for where in found if where is not None}
    code = hashlib.sha256(name.encode())
    for path in sorted(files):
        called = "" if path == file else path.relative_to(file.parent).as_posix()
        code.update(f"\n{called}\n".encode() + hashlib.sha256(path.read_bytes()).digest())
    return code.hexdigest()


def _parts(factory: str) -> tuple[Path, str]:
    file, colon, name = factory.rpartition(":")
    if not colon or not file.endswith(".py") or not name.isidentifier():
        raise UsageError(f"model.factory is {factory!r}; allowed: FILE.py:NAME, a function that returns {_KINDS}")
    if not Path(file).is_file():
        raise UsageError(f"model.factory is {factory}, and {file} is no file; allowed: FILE.py:NAME")
    return Path(file).resolve(), name


def _function(factory: str) -> Factory:
    file, name = _parts(factory)
    with _said_in_one_line(factory):
        module = _module(file)
    function = getattr(module, name, None)
    if not callable(function):
        have = [n for n, v in vars(module).items() if inspect.isfunction(v) and v.__module__ == module.__name__]
        raise UsageError(f"model.factory is {factory}, and there is no such function; allowed: {', '.join(have)}")
    return function


def _module(file: Path) -> ModuleType:
    """The file as a module; the same content is run once, so that equal models are known to be equal."""
    name = f"own_model_{hashlib.sha256(str(file).encode() + file.read_bytes()).hexdigest()[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    try:
        with _beside(file):
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


@contextlib.contextmanager
def _beside(file: Path) -> Iterator[None]:
    """Finds the modules beside a file, as Python does for a script."""
    sys.path.insert(0, str(file.parent))
    try:
        yield
    finally:
        sys.path.remove(str(file.parent))


def _model(
    factory: str,
    function: Factory,
    parameters: set[str],
    given: dict[str, object],
    image_shape: tuple[int, ...],
    dtype: str,
) -> Model:
    """What the function returns, as a `Model`."""
    from flax import linen, nnx

    file, _ = _parts(factory)
    random = {"rngs": nnx.Rngs(0), "key": jax.random.key(0)}
    drawn = {name: value for name, value in random.items() if name in parameters}
    with _beside(file):
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
    key = jax.random.key(0)
    images = jax.ShapeDtypeStruct((2, *image_shape), dtype)
    with _said_in_one_line(factory):
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


@contextlib.contextmanager
def _said_in_one_line(factory: str) -> Iterator[None]:
    """Turns whatever the user's code raises into one line that names the place in its file."""
    try:
        yield
    except UsageError:
        raise
    except Exception as error:
        file, _ = _parts(factory)
        lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if Path(f.filename).resolve() == file]
        if isinstance(error, SyntaxError) and error.lineno is not None:
            lines.append(error.lineno)
        where = f", line {lines[-1]}" if lines else ""
        reason = " ".join(str(error).split())[:200]
        raise UsageError(f"model.factory {factory}{where}: {type(error).__name__}: {reason}") from error
