"""A deletion in one call, and the receipt that is drawn up of what was made."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from camu_jax import digests, duplicates
from camu_jax.deletion import figures, guarantee, receipt
from camu_jax.deletion.receipt import Asked, Json, Previous, Receipt
from camu_jax.deletion.record import Record
from camu_jax.deletion.request import Request, keys
from camu_jax.methods import method_of
from camu_jax.problem import Predictor


def delete(
    request: Request, rows: Sequence[int], *, previous: Receipt | None = None, made: str = ""
) -> tuple[Predictor, Receipt]:
    """Makes the result and all that tells what is left of the rows, and draws up the receipt.

    Args:
      request: what shall be deleted.
      rows: the numbers of the rows in the training set, ascending, as the forget set is.
      previous: the receipt of the deletion before, from whose result this one starts and whose rows the problem is
        without.
      made: when, for the receipt; the library reads no clock.

    Returns:
      The result and its receipt.

    Raises:
      TypeError, ValueError: as `Request.validate`, or `rows` cannot be the numbers of the forget set: others in
        count, not ascending, out of range, or deleted before. Which rows the forget set holds the caller knows alone.
    """
    request.validate()
    problem, test = request.problem, request.test
    earlier = deleted_until(previous)
    total = len(problem.forget) + len(problem.retain) + len(earlier)
    numbers = sorted({int(row) for row in rows})
    known = {*range(total)} - {*earlier}
    if numbers != list(rows) or len(rows) != len(problem.forget) or not known.issuperset(numbers):
        raise ValueError(
            f"rows holds {len(rows)} numbers; allowed: {len(problem.forget)}, those of the forget set, ascending, "
            f"below {total}, and none that was deleted before"
        )
    result = request.unlearn()
    whole = request.count > 0 and request.witnesses == "models"
    record = Record.take(
        request,
        result,
        request.without(0) if request.control or whole else None,
        request.margins() if request.count else None,
    )
    return result, draw_up(
        request,
        result,
        record,
        made=made,
        asked={"rows": numbers, "ids": None, "total": total, "unlabelled": [], "left_out": 0},
        digested={
            "data": digests.of_examples(problem.forget, problem.retain, test),
            "original": digests.of_tree(request.original.members),
            "result": digests.of_tree(result.members),
        },
        work={},
        previous=None if previous is None else {"digest": previous["digest"], "rows": earlier},
    )


def draw_up(
    request: Request,
    result: Predictor,
    record: Record,
    *,
    made: str,
    asked: Asked,
    digested: dict[str, str],
    work: dict[str, Json],
    previous: Previous | None = None,
    retained: Sequence[int] | None = None,
) -> Receipt:
    """Draws up the receipt of what was made.

    Args:
      request: what was asked for.
      result: of `request.unlearn()`.
      record: what the models answered.
      made: when.
      asked: for the receipt.
      digested: digests that depend on where things lie: `data`, `original`, `result`, and others.
      work: what the caller tells of the work beside method and settings.
      previous: the deletion before.
      retained: the number of each row of the retain set; None is all rows that are not deleted.

    Raises:
      ValueError: a figure is not finite.
    """
    problem, method = request.problem, method_of(request.settings)
    if retained is None:
        gone = [*asked["rows"], *(previous["rows"] if previous else [])]
        retained = np.setdiff1d(np.arange(asked["total"]), gone).tolist()
    own = request.trainer is not None and request.witnesses == "models"
    training = None if own else plain(request.training)
    settings = {
        "method": method.name,
        "settings": plain(request.settings),
        "witnesses": {"kind": request.witnesses, "count": request.count, "training": training},
        "pipeline": plain(problem.pipeline),
        "key": np.asarray(jax.random.key_data(request.key)).tolist(),
    }
    info = {name: float(value) for name, value in result.info.items() if math.isfinite(float(value))}
    found = figures.compute(record, request.keys.audit, witnesses=request.witnesses)
    copies = duplicates.find(request.original, problem.forget, problem.retain)
    return receipt.seal(
        made=made,
        asked=asked,
        digests={
            **digested,
            "rows": digests.of_json(asked["rows"]),
            "record": digests.of_named(record.arrays()),
            "settings": settings_digest(settings),
        },
        work={**settings, "info": info, **work},
        guarantee=guarantee.state(method, info, found),
        figures=found,
        duplicates=receipt.numbered(copies, asked["rows"], list(retained)),
        previous=previous,
    )


_SETTINGS = ("method", "settings", "witnesses", "pipeline", "key")


def settings_digest(work: dict[str, Json]) -> str:
    """The digest of all settings that a receipt's `work` tells."""
    return digests.of_json({name: work.get(name) for name in _SETTINGS})


def audit_key(receipt: Receipt) -> jax.Array:
    """The key of the attacks, with which `figures.compute` finds the figures of a receipt again."""
    return keys(jax.random.wrap_key_data(jnp.array(receipt["work"]["key"], jnp.uint32))).audit


def deleted_until(previous: Receipt | None) -> list[int]:
    """All rows that a receipt and those before it deleted, ascending."""
    if previous is None:
        return []
    before = previous["previous"]
    return sorted([*previous["asked"]["rows"], *(before["rows"] if before else [])])


def plain(settings: object) -> dict[str, Json]:
    """A settings dataclass as JSON."""
    assert dataclasses.is_dataclass(settings) and not isinstance(settings, type)
    return {name: _plain(value) for name, value in dataclasses.asdict(settings).items()}


def _plain(value: Any) -> Json:
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return value.item() if isinstance(value, np.generic | jax.Array) else value
