"""The work of a deletion: made part by part, so that a process that is killed loses little, and written at the end."""

import dataclasses
import datetime
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import numpy as np

from camu_jax import Predictor, checkpoint, digests, evaluate, loop
from camu_jax.audits import population
from camu_jax.deletion import Record, Request, signing
from camu_jax.deletion.delete import draw_up, plain
from camu_jax.deletion.receipt import Receipt
from experiments import UsageError, console, machine, own_trainer, store, unfinished
from experiments.deletion import folder, page, told
from experiments.deletion.case import Case, program
from experiments.experiment import digest
from experiments.margins import MarginFiles

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

_QUIET = 5.0  # seconds between two lines of progress


def run(case: Case) -> int:
    """Makes what is missing, writes the folder, and says what is in it.

    Returns:
      0; 1 where the method has destroyed the model, and nothing is written.

    Raises:
      UsageError: another process makes the same, or the key cannot sign.
    """
    options = case.options
    key = None if options.sign is None else _key(options.sign)
    told.announce(case, case.request(None))
    request = case.request(case.original())
    parts = _Parts(_folder(case, request), case)
    with store.claim(parts.folder, wait=False) as ours:
        if not ours:
            raise UsageError(f"out is {options.out}; another process makes the same deletion")
        result = parts.predictor("result", request.unlearn)
        retain = request.problem.retain
        right = evaluate.accuracy(evaluate.outputs(result, retain.x).logits, retain.y)
        if (reason := evaluate.failure(result, retain, right)) is not None:
            console.fail(f"{options.chosen} has destroyed the model: {reason}; nothing is written")
            return 1
        control = None
        if options.control or (options.models and not options.heads):
            control = parts.predictor("control", lambda progress: request.without(0, progress))
        margins = parts.margins(request, control)
        record = Record.take(request, result, control, margins)
        with folder.writing(Path(options.out)) as partial:
            folder.write_models(partial, result, next(iter(case.stored), None))
            folder.write_record(partial, record)
            receipt = _receipt(case, request, result, record, parts, partial)
            if key is not None:
                receipt = signing.sign(receipt, key)
            folder.write_receipt(partial, receipt, page.render(receipt))
        shutil.rmtree(parts.folder, ignore_errors=True)
    told.outcome(receipt, Path(options.out))
    return 0


def _key(file: str) -> "Ed25519PrivateKey":
    try:
        return signing.private_key(Path(file).read_bytes())
    except OSError as error:
        raise UsageError(f"sign: {file} cannot be read ({error.strerror})") from None
    except (ValueError, ImportError) as error:
        raise UsageError(f"sign: {file}: {error}") from None


def _folder(case: Case, request: Request) -> Path:
    """Where the parts wait for one another: a name made of all that decides them."""
    what = {
        "settings": [plain(request.settings), plain(request.training), plain(request.problem.pipeline)],
        "request": [case.options.chosen, case.options.seed, case.options.heads, case.asked()],
        "retain": digests.of_json(case.retain.tolist()),
        "data": digests.of_examples(case.experiment.train, case.experiment.test),
        "original": digests.of_tree(request.original.members),
        "model": case.experiment.model_settings,
        "train": None if case.options.train is None else own_trainer.digest(case.options.train),
    }
    return Path(case.options.cache_dir, "deletions", digest(what))


def _receipt(case: Case, request: Request, result: Predictor, record: Record, parts: "_Parts", where: Path) -> Receipt:
    options, train, test = case.options, case.experiment.train, case.experiment.test
    gone = [*case.named.numbers, *case.earlier]
    return draw_up(
        request,
        result,
        record,
        made=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        asked=case.asked(),
        digested={
            "data": digests.of_examples(train, test),
            "retained": digests.of_examples(train.pick(np.setdiff1d(np.arange(len(train)), gone)), test),
            "original": folder.digest_of(case.stored),
            "result": folder.digest_of(folder.models_in(where)),
            "code": case.code(),
            "program": program(),
        },
        work={
            "dataset": options.dataset,
            "data_dir": options.data_dir,
            "limit": options.limit,
            "model": case.experiment.model_settings,
            "train": options.train,
            "original": [str(path) for path in case.stored],
            "previous": options.previous,
            "seed": options.seed,
            "seconds": {name: round(span.seconds, 1) for name, span in parts.spans.items()},
            "compile_seconds": round(sum(span.compile_seconds for span in parts.spans.values()), 1),
            **machine.provenance(),
        },
        previous=None if case.previous is None else {"digest": case.previous["digest"], "rows": case.earlier},
        retained=case.retain.tolist(),
    )


@dataclasses.dataclass
class _Parts:
    """What has been made, in a folder of its own; `spans` says what each part took."""

    folder: Path
    case: Case
    spans: dict[str, machine.Span] = dataclasses.field(default_factory=dict)

    def predictor(self, name: str, make: Callable[[loop.Listener], Predictor]) -> Predictor:
        """A model that was made by an earlier process, or is made now and kept."""
        where = self.folder / f"{name}.model"
        if (found := self._kept(where, name)) is not None:
            return found
        minutes = self.case.options.keep_minutes
        with console.progress_bar(name) as progress, unfinished.kept(self.folder / name, minutes) as span:
            made = make(progress)
            jax.block_until_ready(made)
        checkpoint.save(where, made)
        self._took(name, span)
        console.say(f"{name}: {span}")
        return made

    def _kept(self, where: Path, name: str) -> Predictor | None:
        try:
            found = checkpoint.load(where, self.case.experiment.model)
            self._timed(name)
            return found
        except (OSError, ValueError):  # not there, not whole
            shutil.rmtree(where, ignore_errors=True)
            return None

    def margins(self, request: Request, control: Predictor | None) -> np.ndarray | None:
        """What the models that never saw the rows answer."""
        if not request.count:
            return None
        name, asked = request.witnesses, request.asked
        cache = MarginFiles(self.folder / name, len(asked))
        if control is not None and name == "models" and 0 not in cache:
            cache[0] = population.margins_of(control, asked)
        earlier = self._timed(name)
        with machine.measure() as span:
            start = said = time.perf_counter()
            there = len(cache)

            def made(done: int, of: int) -> None:
                nonlocal said
                now = time.perf_counter()
                if done == of or now - said > _QUIET:
                    left = f", about {machine.words((now - start) / max(1, done - there) * (of - done))} left"
                    console.say(f"{name} that never saw the rows: {done} of {of}{left if done < of else ''}")
                    said = now
                so_far = earlier.seconds + time.perf_counter() - start - span.compile_seconds
                self._took(name, machine.Span(so_far, earlier.compile_seconds + span.compile_seconds))

            found = request.margins(cache=cache, at_once=self.case.options.side_by_side, progress=made)
        return found

    def _took(self, name: str, span: machine.Span) -> None:
        self.spans[name] = span
        store.write_text(self._timing(name), json.dumps(dataclasses.asdict(span)))

    def _timed(self, name: str) -> machine.Span:
        """What a part has taken so far, in this process and those before it."""
        try:
            self.spans[name] = machine.Span(**json.loads(self._timing(name).read_text()))
        except (OSError, ValueError, TypeError):
            self.spans[name] = machine.Span()
        return self.spans[name]

    def _timing(self, name: str) -> Path:
        return self.folder / f"{name}.json"
