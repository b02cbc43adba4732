"""What the command says before it begins, and of what it made."""

import dataclasses
from pathlib import Path

import jax
from rich import box
from rich.console import Console
from rich.table import Table

from camu_jax.deletion import Request
from camu_jax.deletion.receipt import Receipt
from experiments import UsageError, console, machine, trial
from experiments.deletion import folder, page
from experiments.deletion.case import Case

_NAMES = {"before": "original", "after": "result", "control": "without them"}
_FEW = 20  # rows whose verdicts are printed


def announce(case: Case, request: Request) -> None:
    """Says what will be done, and about how long it will take.

    Args:
      case: what is asked for.
      request: of it, with any variables.

    Raises:
      UsageError: the method's settings do not go with the data.
    """
    options, train = case.options, case.experiment.train
    console.say(
        f"{case.experiment.source.title}: delete {len(case.named.numbers):,} of {len(train):,} training rows"
        f"{f' ({len(case.earlier):,} more are deleted already)' if case.earlier else ''}, "
        f"{len(case.experiment.test):,} test rows"
    )
    witnesses = f"{options.models} {request.witnesses} that never saw them" if options.models else "no other models"
    console.say(f"{options.chosen}; {witnesses}; on {machine.device_name()} ({jax.default_backend()})")
    if advice := machine.advice():
        console.warn(advice)
    if case.left_out:
        console.warn(f"without a label: {case.left_out} of the rows that stay; they take no part")
    if case.unlabelled:
        console.warn(
            f"without a label: {len(case.unlabelled)} of the rows to delete; the original's answer takes its place"
        )
    whole = max(options.models if request.witnesses == "models" else 0, int(options.control))
    own = request.trainer is not None
    try:
        spans = [] if own and options.chosen == "retrain" else [trial.steps(request.unlearn)]
        if whole and not own:
            training = trial.steps(lambda listen: request.without(0, listen))
            spans.append(dataclasses.replace(training, seconds=whole * training.seconds))
    except ValueError as error:
        raise UsageError(f"{options.chosen}: {error}") from error
    if spans:
        seconds, compiling = (sum(getattr(span, name) for span in spans) for name in ("seconds", "compile_seconds"))
        console.say(f"about {machine.words(seconds)}, after {compiling:.0f} s of compiling")
    if own and (times := whole + (options.chosen == "retrain")):
        console.say(f"{'beside that' if spans else 'to do'}: {times} times {options.train}")


def outcome(receipt: Receipt, out: Path) -> None:
    """Prints what a receipt says, and where it is."""
    figures, duplicates = receipt["figures"], receipt["duplicates"]
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for name in ("accuracy, %", "rows that stay", "rows deleted", "test rows"):
        table.add_column(name, justify="left" if name.startswith("accuracy") else "right", no_wrap=True)
    for name, words in _NAMES.items():
        if (of := figures["accuracy"][name]) is not None:
            table.add_row(words, *(f"{of[part]:.2f}" for part in ("retain", "forget", "test")))
    Console(width=max(console.console.width, 80), highlight=False).print(table)
    if (found := figures["verdicts"]) is not None:
        console.say(
            f"row by row: {found['gone']} gone, {found['visible']} visible, {found['never_memorised']} never "
            f"memorised; of rows that a model never saw {100 * found['null']:.1f}% look visible"
        )
        names = receipt["asked"]["ids"] or [str(row) for row in receipt["asked"]["rows"]]
        for i in page.in_order(found["rows"])[:_FEW]:
            row = found["rows"][i]
            console.say(
                f"  {names[i]}: {row['verdict']}; margin {row['before']:.2f} before, {row['after']:.2f} after, "
                f"{row['never']:.2f} without it"
            )
        if len(found["rows"]) > _FEW:
            console.say(f"  and {len(found['rows']) - _FEW} more, in the receipt")
    for kind, words in (("exact", "a copy"), ("near", "a near-duplicate")):
        pairs = duplicates[kind]  # type: ignore[literal-required]
        if pairs:
            rows = len({pair["row"] for pair in pairs})
            console.warn(
                f"with {words} among the rows that stay: {rows} of the deleted rows (row {pairs[0]['row']}: row "
                f"{pairs[0]['stays']}); it keeps the memory alive"
            )
    for note in figures["notes"]:
        console.say(f"  {note}")
    console.say(f"\n{receipt['guarantee']['kind']}: {receipt['guarantee']['words']}")
    models = [path.name for path in folder.models_in(out)]
    console.say(f"written: {out}/ ({', '.join([*models, folder.RECORD, folder.RECEIPT, folder.PAGE])})")
