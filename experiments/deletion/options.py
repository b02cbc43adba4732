"""The flags of `experiments/forget.py`."""

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Any, TypeVar

import tyro

from camu_jax import _validate
from camu_jax.deletion.request import LEAST
from camu_jax.methods import METHODS
from experiments import UsageError, config

T = TypeVar("T")
_Unused = Annotated[T, tyro.conf.Suppress]  # a flag of `run.py` that has no meaning here
PROG = "experiments/forget.py"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ForgetConfig(config.Config):
    """Deletes rows from a trained model, and writes the new model with a receipt into a folder.

    `forget.py verify FOLDER/receipt.json` checks one. The defaults below are those of the chosen --dataset and
    --preset: add them before --help.
    """

    rows: str = ""
    """The rows to delete: .npy, numbers or a mask; .txt, a number a line; .csv, a column of numbers, or with
    --id_column of ids."""
    out: str = ""
    """Folder to write: the model in the format of the original, record.npz, receipt.json and receipt.html."""
    chosen: Annotated[str, tyro.conf.arg(name="method")] = "camu"
    """How: retrain, neggrad, boundary, bad_teacher, scrub, sisa, unroll, camu."""
    id_column: str | None = None
    """The column of --rows that holds ids."""
    ids: str | None = None
    """The id of each training row, one a line, in the order of the data: .csv (the same column), .npy or .txt. Folders
    of images need none: their files' names are the ids."""
    models: int = 8
    """How many models that never saw the rows are trained, to judge each row: 0, or 4 or more."""
    heads: bool = False
    """Train heads on the original's embedding in their place: for models that are too large to be trained so often."""
    control: bool = False
    """Measure a model trained without the rows beside the result also with --heads or --models=0."""
    train: str | None = None
    """FILE.py:NAME, your own loop, train(seed, x, y), which trains a fresh model as the original was and returns it.
    Without it models that never saw the rows are trained with the settings --original.epochs and so on."""
    previous: str | None = None
    """The folder of the deletion before: this one starts from its model, and its receipt from its receipt."""
    sign: str | None = None
    """Sign the receipt with this private key, a PEM file of Ed25519; needs the package cryptography."""
    seed: int = 0
    """Seed of the method, of the models that never saw the rows and of the attacks."""

    task: _Unused[str] = "data10"
    methods: _Unused[tuple[str, ...]] = ("camu",)
    seeds: _Unused[tuple[int, ...]] = (0,)
    audit: _Unused[tuple[config.AuditName, ...]] = ()
    audits: _Unused[config.AuditSettings] = config.AuditSettings()
    keep_models: _Unused[bool] = True
    validation: _Unused[int] = 0  # rows that were held out would give the others other numbers
    train_metrics: _Unused[Any] = "clean"  # as the class above has it

    def __post_init__(self) -> None:
        if self.models:
            _validate.at_least(LEAST, models=self.models)


def parse(argv: Sequence[str] | None) -> ForgetConfig:
    """Reads the command line.

    Raises:
      UsageError, SystemExit: as `config.parse`; or there are no rows, no folder, or flags that do not go together.
    """
    options = config.parse(argv, ForgetConfig(), PROG)
    for name in ("rows", "out"):
        if not getattr(options, name):
            raise UsageError(f"{name} is missing; allowed: --{name}={'FILE' if name == 'rows' else 'FOLDER'}")
    names = [method.name for method in METHODS.values()]
    if options.chosen not in names:
        raise UsageError(f"method is {options.chosen!r}; allowed: {', '.join(names)}")
    if options.heads and not options.models:
        raise UsageError("heads needs models; allowed: --models=8, say")
    if options.train is not None and options.side_by_side > 1:
        raise UsageError(f"side_by_side is {options.side_by_side}; allowed with --train: 1")
    return dataclasses.replace(options, methods=(options.chosen,), seeds=(options.seed,))
