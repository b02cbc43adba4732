"""The work behind `run.py`: every missing cell, then the table; resumable at every point."""

import contextlib
import dataclasses
from collections.abc import Sequence
from typing import Any

import jax

import camu_jax
from experiments import audits, claims, clock, console, devices, results, together
from experiments.cells import Cell, all_cells
from experiments.session import Session, find_original, open_session, plain, provide_original


def run(config: Any) -> None:
    """Runs every cell that has no result yet, then prints the table.

    Raises:
      UsageError: bad input, found before any work starts.
      camu_jax.data.DataError: the data set is missing or damaged.
    """
    session = open_session(config)
    cells = all_cells(session)
    for name in config.audit:
        audits.check(cells[0], name)
    todo = [cell for cell in cells if missing(cell)]
    announce(cells, todo)
    for group in together.groups(todo):
        with contextlib.ExitStack() as claimed:
            for path in sorted(cell.path() for cell in group):  # in one order, or two processes wait for each other
                claimed.enter_context(claims.claim(path, wait=True))
            complete(group)
    if devices.primary():
        _print_table(session)


def missing(cell: Cell) -> bool:
    """Whether a cell lacks its result, or one of the wanted audits of it."""
    result = cell.read()
    return devices.agree(result is None or bool(_missing_audits(cell, result)))


def complete(cells: Sequence[Cell]) -> None:
    """Makes what a cell lacks, or several cells of one method."""
    without = [cell for cell in cells if devices.agree(cell.read() is None)]
    if len(without) > 1:
        together.run(without, _original(without[0]))
    elif without:
        without[0].run(_original(without[0]))
    for cell in cells:
        for name in _missing_audits(cell, cell.read() or {}):
            _audit(cell, name)


def _original(cell: Cell) -> camu_jax.Variables:
    return provide_original(cell.session) if cell.entry[0].uses_original else {}


def _missing_audits(cell: Cell, result: results.Result) -> list[str]:
    settings, made = plain(cell.session.config.audits), result.get("audits", {})
    return [n for n in cell.session.config.audit if n not in made or made[n]["settings"] != settings]


def _audit(cell: Cell, name: str) -> None:
    """Adds an audit to a cell's result."""
    settings = cell.session.config.audits
    kept = cell.predictor(_original(cell))
    predictor = dataclasses.replace(kept, aggregate="mean")  # votes have too few levels to attack
    with clock.measure() as span:
        found = audits.AUDITS[name](cell, predictor, settings)
    result = cell.read()
    assert result is not None
    retrain = dataclasses.replace(cell, method="retrain").read() or {}
    for figure, null in retrain.get("audits", {}).get(name, {}).items():
        if isinstance(null, dict) and isinstance(found.get(figure), dict):
            found[figure].setdefault("null", null["value"])
    found |= {"seconds": span.seconds, "compile_seconds": span.compile_seconds, "settings": plain(settings)}
    result["audits"] = {**result.get("audits", {}), name: found}
    result["outputs"] = audits.histogram(cell, predictor)
    if "M" in found:
        result["metrics"]["M"] = 100 * found["M"]["value"]
    results.write(cell.path(), result)
    shown = {figure: value["value"] for figure, value in found.items() if isinstance(value, dict) and "value" in value}
    figures = "  ".join(f"{figure} {value:.3g}" for figure, value in shown.items() if value is not None)
    console.say(f"{cell.method}, seed {cell.seed}, audit {name}: {figures}  {clock.took(span)}")


def announce(cells: list[Cell], todo: list[Cell], *, extra_units: float = 0.0) -> None:
    """Says what will be done, and about how long it will take on this device.

    Args:
      cells: all cells of the command.
      todo: those that have no result yet.
      extra_units: forward-pass equivalents of a cell beyond the method's own.
    """
    session = cells[0].session
    config = session.config
    forget, _ = cells[0].split()
    console.say(
        f"{config.dataset}, {session.task.name}: forget {len(forget)} of {len(session.train)} training examples, "
        f"{len(session.test)} {'validation' if config.validation else 'test'} examples"
    )
    console.say(
        f"{', '.join(config.methods)}; seeds {', '.join(map(str, config.seeds))}; on {results.device_name()} "
        f"({jax.default_backend()})"
    )
    if not todo:
        console.say(f"all {len(cells)} results are in {config.out}; nothing to do")
        return
    rate = clock.seconds_per_forward(session.model, session.train, config.original, config.pipeline)
    trained = devices.agree(find_original(session) is not None) or not any(cell.entry[0].uses_original for cell in todo)
    units = 0.0 if trained else 3.0 * len(session.train) * config.original.epochs
    for cell in todo:
        method, settings = cell.entry
        units += extra_units + (method.cost(cell.problem({}), settings) if devices.agree(cell.read() is None) else 0.0)
    parts = [f"{len(todo)} of {len(cells)} results to make"] + ([] if trained else ["the original model to train"])
    console.say(
        f"{' and '.join(parts)}: about {clock.words(units * rate)}, and compilation"
        + (f"; the audits {', '.join(config.audit)} are not counted" if config.audit else "")
    )


def _print_table(session: Session) -> None:
    config = session.config
    found: dict[str, list[results.Result]] = {method: [] for method in config.methods}
    for cell in all_cells(session):
        result = cell.read()
        if result is not None:
            found[cell.method].append(result)
    shown = [m for m in console.METRICS if all(m in r["metrics"] for runs in found.values() for r in runs)]
    whole = config.limit is None and not config.validation
    console.print_results(config.dataset, session.task.name, found, shown, with_paper=whole)
