"""Checks a receipt: every digest and every figure that can be computed again, and says line by line what differs."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import tyro

from camu_jax import Examples, digests
from camu_jax.data import DataError
from camu_jax.deletion import Record, figures, guarantee, signing
from camu_jax.deletion.delete import audit_key, settings_digest
from camu_jax.deletion.receipt import Receipt, differences, digest
from camu_jax.methods import METHODS
from experiments import UsageError, console
from experiments.deletion import again, case, folder, page

_MOST = 20  # lines of figures that differ


@dataclasses.dataclass(frozen=True, kw_only=True)
class VerifyOptions:
    """Computes the digests and figures of a receipt again, and says what differs. Exit code 1 if anything does."""

    receipt: tyro.conf.Positional[str]
    """The file receipt.json or its folder; what belongs to it lies beside it."""
    dataset: str | None = None
    """Where the data are now, as the deletion's own --dataset; without it where they were."""
    data_dir: str | None = None
    """As in the deletion."""
    original: str | None = None
    """Where the original model is now; without it where it was."""
    previous: str | None = None
    """The folder of the deletion before; without it where it was."""
    public_key: str | None = None
    """Accept a signature by this key alone, in base64 as receipts show it."""
    ask: bool = False
    """Also ask the model again, whether it gives the answers that the record holds."""
    factory: str | None = None
    """With --ask: FILE.py:NAME of your own model, as --model.factory was."""
    cache_dir: str = "cache"
    """Folder of decoded images."""


class Check(NamedTuple):
    """What was looked at, whether it matches, and what there is to say."""

    what: str
    outcome: Literal["matches", "DIFFERS", "not checked"]
    words: str = ""


def run(options: VerifyOptions) -> int:
    """Checks, and prints a line for each check.

    Returns:
      1 where something differs.

    Raises:
      UsageError: the file cannot be read.
    """
    if Path(options.receipt).is_dir():
        options = dataclasses.replace(options, receipt=str(Path(options.receipt, folder.RECEIPT)))
    wrong, left = 0, []
    for check in checks(options):
        console.say(f"{check.what:<11} {check.outcome}{': ' if check.words else ''}{check.words}")
        wrong += check.outcome == "DIFFERS"
        left += [check.what] if check.outcome == "not checked" else []
    found = f"claims that do not hold: {wrong}" if wrong else "nothing differs"
    console.say(f"{found}{'; not checked: ' if left else ''}{', '.join(left)}")
    return int(wrong > 0)


def checks(options: VerifyOptions) -> Iterator[Check]:
    """Every check of a receipt."""
    file = Path(options.receipt)
    try:
        receipt = folder.read_receipt(file)
    except OSError as error:
        raise UsageError(f"receipt: {file} cannot be read ({error.strerror})") from None
    except folder.DamagedReceipt as error:
        yield Check("receipt", "DIFFERS", str(error))
        return
    yield _equal("receipt", receipt["digest"], digest(receipt), "its contents were changed after it was sealed")
    yield from _signature(receipt, options.public_key)
    same = receipt["digests"]["program"] == case.program()
    if not same:
        words = "another version of camu_jax made this receipt, and may have other words"
        yield Check("program", "not checked", f"{words}; git revision {receipt['work'].get('git') or 'unknown'}")
    yield _equal("settings", receipt["digests"]["settings"], settings_digest(receipt["work"]))
    yield _equal("rows", receipt["digests"]["rows"], digests.of_json(receipt["asked"]["rows"]))
    yield _result(receipt, file.parent)
    record = None
    try:
        record = folder.read_record(file.parent)
        yield _equal("record", receipt["digests"]["record"], digests.of_named(record.arrays()))
    except ValueError as error:
        yield Check("record", "DIFFERS", str(error))
    yield from _figures(receipt, record, same)
    yield _page(receipt, file.parent, same)
    yield from _data(receipt, record, options)
    if options.ask and record is not None:
        yield _asked(receipt, record, options)
    yield _original(receipt, options)
    yield from _previous(receipt, options)


def _equal(what: str, stated: str, found: str, words: str = "") -> Check:
    if stated == found:
        return Check(what, "matches")
    return Check(what, "DIFFERS", words or f"the receipt says {stated[:16]}…, found {found[:16]}…")


def _signature(receipt: Receipt, wanted: str | None) -> Iterator[Check]:
    if "signature" not in receipt:
        if wanted is not None:
            yield Check("signature", "DIFFERS", "there is none")
        return
    try:
        key = signing.signed_by(receipt)
    except ImportError as error:
        yield Check("signature", "not checked" if wanted is None else "DIFFERS", str(error))
        return
    if key is None:
        yield Check("signature", "DIFFERS", "it is not of these contents")
    elif wanted not in (None, key):
        yield Check("signature", "DIFFERS", f"it is by {key}, not by {wanted}")
    else:
        yield Check("signature", "matches", f"by {key}")


def _result(receipt: Receipt, where: Path) -> Check:
    try:
        found = folder.digest_of(folder.models_in(where))
    except (OSError, UsageError) as error:
        return Check("result", "DIFFERS", str(error))
    return _equal("result", receipt["digests"]["result"], found, "the model was changed since the receipt was written")


def _figures(receipt: Receipt, record: Record | None, same: bool) -> Iterator[Check]:
    if record is None:
        yield Check("figures", "not checked", "there is no record to compute them from")
        return
    work = receipt["work"]
    try:
        found = figures.compute(record, audit_key(receipt), witnesses=work["witnesses"]["kind"])
        method = next(m for m in METHODS.values() if m.name == work["method"])
        promised = guarantee.state(method, work["info"], found)
        if not same:
            promised["words"] = receipt["guarantee"]["words"]
    except (KeyError, ValueError, TypeError, IndexError, StopIteration) as error:  # of a record of something else
        yield Check("figures", "DIFFERS", f"they cannot be computed from the record ({type(error).__name__}: {error})")
        return
    lines = list(differences(receipt["figures"], found, "figures"))
    lines += differences(receipt["guarantee"], promised, "guarantee")
    for line in lines[:_MOST]:
        yield Check("figures", "DIFFERS", line)
    if len(lines) > _MOST:
        yield Check("figures", "DIFFERS", f"and {len(lines) - _MOST} more")
    if not lines:
        yield Check("figures", "matches", "computed again from the record")


def _page(receipt: Receipt, where: Path, same: bool) -> Check:
    try:
        found = (where / folder.PAGE).read_text(encoding="utf-8")
        if found == page.render(receipt):
            return Check("page", "matches")
    except (OSError, ValueError) as error:
        return Check("page", "DIFFERS", str(error))
    if not same:
        return Check("page", "not checked", "another version made it")
    return Check("page", "DIFFERS", "it is not what the receipt says")


def _data(receipt: Receipt, record: Record | None, options: VerifyOptions) -> Iterator[Check]:
    dataset = options.dataset or receipt["work"]["dataset"]
    try:
        train, test = _load(receipt, options)
    except (DataError, UsageError, OSError) as error:
        yield Check("data", "not checked" if options.dataset is None else "DIFFERS", str(error))
        return
    stated = receipt["digests"]
    if digests.of_examples(train, test) == stated["data"]:
        yield Check("data", "matches", f"{dataset} still holds the rows")
    elif digests.of_examples(train, test) == stated["retained"]:
        yield Check("data", "matches", f"{dataset} is without the rows")
        return
    else:
        yield Check("data", "DIFFERS", f"{dataset} holds neither the data of the deletion nor what is left of them")
        return
    labelled = np.setdiff1d(receipt["asked"]["rows"], receipt["asked"]["unlabelled"])
    places = np.searchsorted(receipt["asked"]["rows"], labelled)
    if record is not None:
        same = np.array_equal(np.asarray(train.y)[labelled], record.forget_y[places])
        if not (same and np.array_equal(np.asarray(test.y), record.test_y)):
            yield Check("labels", "DIFFERS", "those in the record are not those of the data")


def _asked(receipt: Receipt, record: Record, options: VerifyOptions) -> Check:
    try:
        train, test = _load(receipt, options)
        differs = again.differs(receipt, record, train, test, Path(options.receipt).parent, options.factory)
    except (DataError, UsageError, OSError) as error:
        return Check("answers", "not checked", str(error))
    if differs is None:
        return Check("answers", "matches", "the model was asked again")
    return Check("answers", "DIFFERS", differs)


def _load(receipt: Receipt, options: VerifyOptions) -> tuple[Examples, Examples]:
    work = receipt["work"]
    place = options.dataset or work["dataset"], options.data_dir or work["data_dir"]
    return case.load(*place, options.cache_dir, work["limit"], work["pipeline"]["image_size"])


def _original(receipt: Receipt, options: VerifyOptions) -> Check:
    stated = receipt["work"]["original"]
    where = [Path(options.original)] if options.original is not None else [Path(path) for path in stated]
    try:
        found = folder.digest_of(where)
    except OSError:
        words = f"{', '.join(map(str, where))} cannot be read; --original says where it is"
        return Check("original", "not checked" if options.original is None else "DIFFERS", words)
    return _equal("original", receipt["digests"]["original"], found)


def _previous(receipt: Receipt, options: VerifyOptions) -> Iterator[Check]:
    if receipt["previous"] is None:
        return
    where = Path(options.previous or receipt["work"]["previous"])
    try:
        before = folder.read_receipt(where / folder.RECEIPT)
    except OSError:
        words = f"{where / folder.RECEIPT} cannot be read; --previous says where it is"
        yield Check("previous", "not checked" if options.previous is None else "DIFFERS", words)
        return
    except folder.DamagedReceipt as error:
        yield Check("previous", "DIFFERS", str(error))
        return
    if digest(before) != before["digest"]:
        yield Check("previous", "DIFFERS", f"{where / folder.RECEIPT} was changed after it was sealed")
        return
    yield _equal("previous", receipt["previous"]["digest"], before["digest"])
    if before["digests"]["result"] != receipt["digests"]["original"]:
        yield Check("previous", "DIFFERS", "this deletion did not start from its result")
