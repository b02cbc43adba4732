"""The page of a receipt: one self-contained HTML file, made of the receipt and of nothing else."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jinja2

from camu_jax.audits.verdicts import Verdict
from camu_jax.deletion import guarantee
from camu_jax.deletion.figures import RowVerdict
from camu_jax.deletion.receipt import Json, Receipt

SHOWN = 300
"""Rows that the page shows; the receipt has them all."""
_WIDE, _EDGE = 200.0, 6.0  # of a strip, in its own units


class Strip(NamedTuple):
    """A row's place on the page: where its margins lie on a common line, 0 to `_WIDE`."""

    name: str
    before: float
    after: float
    never: float


def render(receipt: Receipt) -> str:
    """The page of a receipt, the same one whatever order its parts are in."""
    receipt = json.loads(json.dumps(receipt, sort_keys=True))
    attacks = receipt["figures"]["audits"]
    receipt["figures"]["audits"] = {name: attacks[name] for name in sorted(attacks, key=_place)}
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,  # ids are foreign input
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"figure": _figure, "power": _power}
    found = receipt["figures"]["verdicts"]
    order = [] if found is None else in_order(found["rows"])[:SHOWN]
    return environment.get_template("receipt.html.jinja").render(
        receipt=receipt,
        order=order,
        strips=_strips(receipt, order),
        work=_work(receipt),
        names=guarantee.ATTACKS,
        outcomes=_OUTCOMES,
        wide=_WIDE,
    )


_ORDER = list(guarantee.ATTACKS)


def in_order(rows: Sequence[RowVerdict]) -> list[int]:
    """The places of rows, those that call for a look first."""
    names = [row["verdict"] for row in rows]
    return sorted(range(len(names)), key=lambda i: (names[i] != Verdict.VISIBLE, names[i] != Verdict.GONE, i))


def _place(name: str) -> tuple[int, str]:
    return (_ORDER.index(name) if name in _ORDER else len(_ORDER), name)


_OUTCOMES = {
    "found": "tells them",
    "failed": "no longer tells them",
    "blind": "never told them",
    "open": "nothing to compare with",
}


def _strips(receipt: Receipt, order: list[int]) -> list[Strip]:
    found = receipt["figures"]["verdicts"]
    if found is None:
        return []
    shown = [found["rows"][i] for i in order]
    values = [value for row in shown for value in (row["before"], row["after"], row["never"])]
    low, high = min(values), max(values)

    def place(value: float) -> float:
        return round(_EDGE + (_WIDE - 2 * _EDGE) * (value - low) / ((high - low) or 1.0), 1)

    asked = receipt["asked"]
    names = [str(row) for row in asked["rows"]] if asked["ids"] is None else asked["ids"]
    return [Strip(names[i], *(place(found["rows"][i][k]) for k in ("before", "after", "never"))) for i in order]


_WORK = {
    "dataset": "data",
    "original": "original model",
    "model": "model",
    "method": "method",
    "settings": "its settings",
    "witnesses": "models without the rows",
    "train": "trained by",
    "pipeline": "images",
    "info": "the method reports",
    "seed": "seed",
    "seconds": "seconds",
    "compile_seconds": "seconds of compiling",
    "device": "device",
    "peak_memory_mib": "peak of memory, MiB",
    "versions": "versions",
    "git": "revision",
}


def _work(receipt: Receipt) -> dict[str, str]:
    """What was run, in words, without what was left at nothing, and without settings of ours where theirs trained."""
    work = receipt["work"]
    unused = {"settings"} if work["method"] == "retrain" and work.get("train") else set()
    return {title: text for name, title in _WORK.items() if name not in unused and (text := _said(work.get(name)))}


def _said(value: Json) -> str:
    if isinstance(value, dict):
        parts = {name if name == "camu_jax" else name.replace("_", " "): _said(v) for name, v in value.items()}
        return ", ".join(
            f"{name} ({text})" if ", " in text else f"{name} {text}" for name, text in parts.items() if text
        )
    if isinstance(value, list):
        return ", ".join(map(_said, value))
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)


def _power(value: float | None) -> str:
    """The least difference that an attack notices; none, where figures between 0 and 1 cannot differ by so much."""
    return "none" if value is not None and value >= 1 else _figure(value)


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
