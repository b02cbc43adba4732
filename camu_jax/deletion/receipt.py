"""The receipt of a deletion: one JSON object that says what was deleted, how, and what is known of the result.

It is sealed by the digest of all that it holds, and names the digest of the receipt before it: a chain. Whoever has it,
with the record of what the models answered, can compute its figures again: `differences`.
"""

import math
from collections.abc import Iterator
from typing import Any, NotRequired, TypedDict

from camu_jax import digests
from camu_jax.deletion.figures import Figures
from camu_jax.deletion.guarantee import Guarantee
from camu_jax.duplicates import Duplicates

Json = Any  # what `json.loads` returns
FORMAT = "camu_jax deletion receipt 1"
"""Names what a receipt is, and its version."""
_OUTSIDE = ("digest", "signature")  # what the digest does not cover
_TOLERANCE = 1e-6  # of figures that another machine computes again, relative and absolute


class Asked(TypedDict):
    """What was asked for.

    Attributes:
      rows: the numbers of the rows, ascending, in the training set as it was before any deletion.
      ids: as the request called them, in the same order; None where it gave numbers.
      total: rows of the training set, deleted ones included.
      unlabelled: of the rows, those without a label.
      left_out: retained rows without a label, which take no part.
    """

    rows: list[int]
    ids: list[str] | None
    total: int
    unlabelled: list[int]
    left_out: int


class Pair(TypedDict):
    """A deleted row and one that stays, by their numbers; `distance` is 0 for a copy."""

    row: int
    stays: int
    distance: float


class Found(TypedDict):
    """Duplicates of deleted rows among those that stay; see `camu_jax.duplicates`."""

    exact: list[Pair]
    near: list[Pair]
    threshold: float | None
    level: float


class Previous(TypedDict):
    """The deletion before: the digest of its receipt, and all rows that were deleted until then."""

    digest: str
    rows: list[int]


class Signature(TypedDict):
    """An Ed25519 signature of the digest, and the key that checks it, in base64."""

    public_key: str
    value: str


class Receipt(TypedDict):
    """A receipt.

    Attributes:
      format: `FORMAT`.
      made: when, ISO 8601.
      asked: what was asked for.
      digests: of `data`, `rows`, `original`, `result`, `record` and `settings`, 64 digits each; those of a receipt that
        `forget.py verify` can check also of the data that are `retained`, the user's `code` and the `program`.
      work: what was run, with which settings, on what, and what it cost.
      guarantee: in words.
      figures: accuracies, attacks, verdicts.
      duplicates: what keeps the memory of the rows alive.
      previous: the deletion before; None for the first.
      digest: of all this.
      signature: of the digest, where it was signed.
    """

    format: str
    made: str
    asked: Asked
    digests: dict[str, str]
    work: dict[str, Json]
    guarantee: Guarantee
    figures: Figures
    duplicates: Found
    previous: Previous | None
    digest: str
    signature: NotRequired[Signature]


def seal(
    *,
    made: str,
    asked: Asked,
    digests: dict[str, str],
    work: dict[str, Json],
    guarantee: Guarantee,
    figures: Figures,
    duplicates: Found,
    previous: Previous | None = None,
) -> Receipt:
    """Makes a receipt of its parts; see `Receipt`.

    Raises:
      ValueError: a figure is not finite.
    """
    receipt: Receipt = {
        "format": FORMAT,
        "made": made,
        "asked": asked,
        "digests": digests,
        "work": work,
        "guarantee": guarantee,
        "figures": figures,
        "duplicates": duplicates,
        "previous": previous,
        "digest": "",
    }
    return {**receipt, "digest": digest(receipt)}


def digest(receipt: Receipt) -> str:
    """The digest of all that a receipt holds, without its digest and its signature."""
    return digests.of_json({name: value for name, value in receipt.items() if name not in _OUTSIDE})


def numbered(found: Duplicates, rows: list[int], retained: list[int]) -> Found:
    """Duplicates by the numbers of rows in the training set.

    Args:
      found: by their places in the forget and the retain set.
      rows: number of each forgotten row.
      retained: number of each retained row.
    """

    def pairs(places: list[list[int]], distances: list[float]) -> list[Pair]:
        return [
            {"row": rows[i], "stays": retained[j], "distance": d} for (i, j), d in zip(places, distances, strict=True)
        ]

    exact, near = found.exact.tolist(), found.near.tolist()
    return {
        "exact": pairs(exact, [0.0] * len(exact)),
        "near": pairs(near, found.distance.tolist()),
        "threshold": found.threshold,
        "level": found.level,
    }


def differences(stated: Json, found: Json, name: str) -> Iterator[str]:
    """Where what a receipt states is not what was found, a line each; numbers may differ by rounding.

    Args:
      stated: a part of a receipt.
      found: the same part, computed again.
      name: of the part.
    """
    if isinstance(stated, dict) and isinstance(found, dict):
        for key in sorted({*stated, *found}):
            yield from differences(stated.get(key), found.get(key), f"{name}.{key}")
    elif isinstance(stated, list) and isinstance(found, list) and len(stated) == len(found):
        for i, (one, other) in enumerate(zip(stated, found, strict=True)):
            yield from differences(one, other, f"{name}[{i}]")
    elif not _same(stated, found):
        yield f"{name}: the receipt says {_short(stated)}, found {_short(found)}"


def _same(stated: Json, found: Json) -> bool:
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in (stated, found))
    if numbers and isinstance(stated, float | int):
        return math.isclose(stated, found, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE)
    return bool(stated == found)


def _short(value: Json) -> str:
    text = str(value)
    return text if len(text) <= 80 else text[:77] + "..."
