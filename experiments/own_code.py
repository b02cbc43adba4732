"""Functions of the user's own, as flags name them: `FILE.py:NAME`. What goes wrong in them is told in one line."""

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

from experiments import UsageError

Function = Callable[..., object]  # type: ignore[explicit-any]  # it takes what it asks for
_OURS = ("camu_jax", "experiments")  # their revision is noted with each result


def digest(flag: str, place: str) -> str:
    """SHA-256 of the function's file and of the modules of its folder that it imports, and of the function's name.

    Raises:
      UsageError: there is no such file, or it is no Python.
    """
    file, name = _parts(flag, place)
    finder = modulefinder.ModuleFinder(path=[str(file.parent)], excludes=list(_OURS))
    with said_in_one_line(flag, place):
        finder.run_script(str(file))
    found = (getattr(module, "__file__", None) for module in finder.modules.values())
    files = {Path(where) for where in found if where is not None}
    code = hashlib.sha256(name.encode())
    for path in sorted(files):
        called = "" if path == file else path.relative_to(file.parent).as_posix()
        code.update(f"\n{called}\n".encode() + hashlib.sha256(path.read_bytes()).digest())
    return code.hexdigest()


def _parts(flag: str, place: str) -> tuple[Path, str]:
    file, colon, name = place.rpartition(":")
    if not colon or not file.endswith(".py") or not name.isidentifier():
        raise UsageError(f"{flag} is {place!r}; allowed: FILE.py:NAME, a function in a file")
    if not Path(file).is_file():
        raise UsageError(f"{flag} is {place}, and {file} is no file; allowed: FILE.py:NAME")
    return Path(file).resolve(), name


def function(flag: str, place: str) -> Function:
    """The function of a name in a file.

    Args:
      flag: which names it; it opens every message.
      place: `FILE.py:NAME`.

    Raises:
      UsageError: there is no such function, or its file fails; in one line.
    """
    file, name = _parts(flag, place)
    with said_in_one_line(flag, place):
        with beside(flag, place):
            module = _module(file)
    found = getattr(module, name, None)
    if not callable(found):
        have = [n for n, v in vars(module).items() if inspect.isfunction(v) and v.__module__ == module.__name__]
        raise UsageError(f"{flag} is {place}, and there is no such function; allowed: {', '.join(have)}")
    return found


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
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


@contextlib.contextmanager
def beside(flag: str, place: str) -> Iterator[None]:
    """Finds the modules beside a function's file, as Python does for a script."""
    file, _ = _parts(flag, place)
    sys.path.insert(0, str(file.parent))
    try:
        yield
    finally:
        sys.path.remove(str(file.parent))


@contextlib.contextmanager
def said_in_one_line(flag: str, place: str) -> Iterator[None]:
    """Turns whatever the user's code raises into one line that names the place in its file."""
    try:
        yield
    except UsageError:
        raise
    except Exception as error:
        file, _ = _parts(flag, place)
        lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if Path(f.filename).resolve() == file]
        if isinstance(error, SyntaxError) and error.lineno is not None:
            lines.append(error.lineno)
        where = f", line {lines[-1]}" if lines else ""
        reason = " ".join(str(error).split())[:200]
        raise UsageError(f"{flag} {place}{where}: {type(error).__name__}: {reason}") from error
