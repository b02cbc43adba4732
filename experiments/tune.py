"""Tries settings on a validation set that is held out of the training set; the test set is not read.

`python experiments/tune.py --dataset=digit --task=class0 --methods scrub --grid scrub.learning_rate=1e-4,5e-4`
"""

import ast
import dataclasses
import itertools
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # `python experiments/tune.py` from anywhere

from experiments import cli, config, console, runner  # noqa: E402
from experiments.cells import all_cells  # noqa: E402
from experiments.session import find_original, open_session, train_original  # noqa: E402


@dataclasses.dataclass(frozen=True, kw_only=True)
class TuneConfig(config.Config):  # type: ignore[valid-type,misc]
    """Runs one method with every combination of some settings, and prints them from best to worst.

    The score of random removal is T_s - |F_tr - T_s| (a retrained model is as good on F as on unseen examples), that of
    class removal is R_ts - F_ts; T_s, R_ts and F_ts are measured on the validation set. Results go to
    <out>/<combination>/, and the same command again skips what is there.
    """

    grid: tuple[str, ...] = ()
    """What to try, method.setting=value,value,...; all combinations."""
    seeds: tuple[int, ...] = (0,)
    validation: int = 10_000
    keep_models: bool = False


Point = tuple[tuple[str, str, Any], ...]
"""A combination: method, setting and value of each entry of the grid."""


def points(grid: Sequence[str]) -> list[Point]:
    """All combinations.

    Raises:
      UsageError: an entry is not `method.setting=value,value`.
    """
    axes = []
    for entry in grid:
        name, equals, values = entry.partition("=")
        method, dot, setting = name.partition(".")
        if not (equals and dot and values):
            raise config.UsageError(f"grid holds {entry!r}; allowed: method.setting=value,value")
        axes.append([(method, setting, _value(text)) for text in values.split(",")])
    return list(itertools.product(*axes))


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text  # a choice such as `vote`


def applied(options: Any, point: Point) -> Any:
    """The options with the settings of a point, and with a folder of its own.

    Raises:
      UsageError: an unknown method or setting, or a value that is not allowed.
    """
    for method, setting, value in point:
        if not hasattr(getattr(options, method, None), setting):
            raise config.UsageError(f"grid holds {method}.{setting}; allowed: what --help lists")
        try:
            changed = dataclasses.replace(getattr(options, method), **{setting: value})
        except (ValueError, TypeError) as error:
            raise config.UsageError(f"grid: {method}.{error}") from None
        options = dataclasses.replace(options, **{method: changed})
    return dataclasses.replace(options, out=str(Path(options.out, name(point).replace(" ", "_"))))


def name(point: Point) -> str:
    """A point in words."""
    return " ".join(f"{method}.{setting}={value}" for method, setting, value in point) or "default"


def score(metrics: dict[str, float]) -> float:
    """Higher is better; see `TuneConfig`."""
    if "F_ts" in metrics:
        return metrics["R_ts"] - metrics["F_ts"]
    return metrics["T_s"] - abs(metrics["F_tr"] - metrics["T_s"])


def run(options: Any) -> None:
    """Runs every combination that has no result yet, then prints all."""
    tried = [(point, applied(options, point)) for point in points(options.grid)]
    session = open_session(options)
    cells = [(point, cell) for point, o in tried for cell in all_cells(dataclasses.replace(session, config=o))]
    todo = [cell for _, cell in cells if cell.read() is None]
    original = find_original(session)
    runner.announce([cell for _, cell in cells], todo, trained=original is not None)
    if todo and original is None:
        original = train_original(session)
    found = []
    for point, cell in cells:
        if (result := cell.read()) is None:
            assert original is not None
            console.say(name(point))
            cell.run(original)
            result = cell.read()
        assert result is not None
        found.append((score(result["metrics"]), point, cell, result))
    for value, point, cell, result in sorted(found, key=lambda row: -row[0]):
        figures = console.metrics(result["metrics"])
        console.say(
            f"{value:7.2f}  {figures}  {result['seconds']:.0f} s  {cell.method}, seed {cell.seed}: {name(point)}"
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    return cli.main(run, argv, TuneConfig, "experiments/tune.py")


if __name__ == "__main__":
    sys.exit(main())
