"""What a deletion leaves behind: one folder with the model, the record of its answers, the receipt and its page."""

import contextlib
import glob
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np

from camu_jax import Predictor, digests, weights
from camu_jax.deletion import Record
from camu_jax.deletion.receipt import FORMAT, Receipt, digest
from experiments import UsageError, store

RECEIPT, PAGE, RECORD, MODEL = "receipt.json", "receipt.html", "record.npz", "model"
"""The names in the folder; that of the model ends as its format asks for."""


class DamagedReceipt(ValueError):
    """A file is not a receipt; the message is one line."""


@contextlib.contextmanager
def writing(out: Path) -> Iterator[Path]:
    """Yields an empty folder, which takes the name of `out` when the block is done, or else is gone.

    Raises:
      OSError: it cannot be written, or there is something at `out`.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    for left in out.parent.glob(f".{glob.escape(out.name)}.*.partial"):
        if store.abandoned(left):
            shutil.rmtree(left, ignore_errors=True)
    partial = out.with_name(f".{out.name}.{os.uname().nodename}.{os.getpid()}.partial")
    partial.mkdir()
    try:
        yield partial
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_record(folder: Path, record: Record) -> None:
    """Writes what the models answered."""
    np.savez_compressed(folder / RECORD, **record.arrays())  # type: ignore[arg-type]  # names are all strings


def read_record(folder: Path) -> Record:
    """Reads what the models answered.

    Raises:
      ValueError: it is missing or damaged.
    """
    try:
        with np.load(folder / RECORD, allow_pickle=False) as found:
            return Record.of_arrays({name: found[name] for name in found.files})
    except Exception as error:  # zipfile and zlib raise many types on what was damaged
        raise ValueError(f"{folder / RECORD} cannot be read ({' '.join(str(error).split())[:120]})") from None


def write_receipt(folder: Path, receipt: Receipt, page: str) -> None:
    """Writes a receipt and its page."""
    store.write_text(folder / RECEIPT, json.dumps(receipt, indent=1, sort_keys=True, allow_nan=False) + "\n")
    store.write_text(folder / PAGE, page)


def read_receipt(file: Path) -> Receipt:
    """Reads a receipt; its seal is not checked.

    Raises:
      DamagedReceipt: it is none.
      OSError: it cannot be read.
    """
    try:
        found: Receipt = json.loads(file.read_text(encoding="utf-8"), parse_constant=_refuse)
        msgspec.convert(found, Receipt)  # which leaves out what it does not know
    except (ValueError, RecursionError) as error:  # no UTF-8, no JSON, another form
        raise DamagedReceipt(f"{file} is not a receipt ({' '.join(str(error).split())[:160]})") from None
    if found["format"] != FORMAT:
        raise DamagedReceipt(f"{file} is {found['format'][:60]!r}; allowed: {FORMAT!r}")
    for part, names in (("digests", _DIGESTS), ("work", _WORK)):
        if missing := sorted(names - set(found[part])):  # type: ignore[literal-required]
            raise DamagedReceipt(f"{file} is not a receipt ({part}.{missing[0]} is missing)")
    return found


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


_DIGESTS = {"data", "retained", "rows", "original", "result", "record", "settings", "code", "program"}
_WORK = {"dataset", "data_dir", "limit", "original", "previous"}
_WORK |= {"method", "settings", "witnesses", "pipeline", "key", "info"}


def models_in(folder: Path) -> list[Path]:
    """Where the model of a deletion lies, a file or a folder; of an ensemble one for each member.

    Raises:
      UsageError: there is none.
    """
    found = [
        path for path in folder.glob(f"{MODEL}*") if re.fullmatch(rf"{MODEL}(-\d+)?(\.npz|\.safetensors)?", path.name)
    ]
    if not found:
        raise UsageError(f"{folder} holds no model; allowed: a folder that camu-jax forget made")
    return sorted(found, key=lambda path: (len(path.name), path.name))


def write_models(folder: Path, result: Predictor, like: Path | None) -> None:
    """Writes the result in the format of the original, `like`; None is an Orbax folder."""
    ending = "" if like is None or like.is_dir() else like.suffix
    for i, variables in enumerate(result.members):
        number = f"-{i}" if len(result.members) > 1 else ""
        weights.save(folder / f"{MODEL}{number}{ending}", variables, like=like)


def digest_of(models: list[Path]) -> str:
    """The digest of a model on disk, or of an ensemble."""
    found = [digests.of_path(path) for path in models]
    return found[0] if len(found) == 1 else digests.of_json(found)


def read_previous(folder: str) -> Receipt:
    """The receipt of the deletion before, after a look at its seal and at its model.

    Raises:
      UsageError: the folder holds no receipt, or something in it was changed.
    """
    where = Path(folder)
    try:
        receipt = read_receipt(where / RECEIPT)
        if digest_of(models_in(where)) != receipt["digests"].get("result"):
            raise UsageError(f"previous: the model in {folder} was changed since its receipt was written")
    except DamagedReceipt as error:
        raise UsageError(f"previous: {error}") from None
    except OSError as error:
        raise UsageError(f"previous: {error.filename} cannot be read ({error.strerror})") from None
    if digest(receipt) != receipt["digest"]:
        raise UsageError(f"previous: {where / RECEIPT} was changed since it was written")
    return receipt
