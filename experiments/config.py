"""The command line of the runs: one frozen dataclass, made into flags."""

import argparse
import ast
import dataclasses
import sys
from collections.abc import Sequence
from typing import Any, Literal, get_args

from camu_jax import Pipeline, TrainSettings, _validate, tasks
from camu_jax.data import DATASETS
from camu_jax.methods import CAMU_ABLATIONS, METHODS, Method
from experiments import flags
from experiments.flags import UsageError
from experiments.settings import ModelSettings, Preset, defaults

DatasetName = Literal["digit", "fashion", "c10", "c100", "tiny"]


AuditName = Literal["paper", "lira", "klom", "all"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class AuditSettings:
    """How large the audits' populations of models are. More models, lower null levels and narrower intervals."""

    models: int = 8
    """klom: unlearned models, and half of the retrained ones."""
    halves: int = 8
    """lira: random halves of the training set, each with an original model of its own, and an unlearned model for each
    of the forget sets that it is cut into (ten for data10)."""
    relearn_epochs: int = 3
    """klom: give up relearning the forget set after so many passes."""

    def __post_init__(self) -> None:
        _validate.at_least(2, models=self.models)
        _validate.at_least(6, halves=self.halves)
        _validate.at_least(1, relearn_epochs=self.relearn_epochs)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Unlearns one task on one data set with several methods and prints them beside the paper's figures.

    The defaults below are those of the chosen --dataset, --task and --preset: add them before --help.
    """

    task: str = "data10"
    """What to forget: dataP, P percent of the training examples (1-90); classK or classK,L, whole classes;
    indices:FILE, the training examples whose numbers stand in a .npy or .txt file."""
    dataset: DatasetName = "digit"
    """digit (MNIST), fashion (Fashion-MNIST), c10, c100 (CIFAR), tiny (8x8 digits of scikit-learn, no download)."""
    methods: tuple[str, ...] = ("retrain", "camu")
    """Methods to run, in this order: retrain, neggrad, boundary, bad_teacher, scrub, sisa, unroll, camu, or all;
    the ablations camu:finetune, camu:no_counterfactual, camu:no_retain_embedding."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Seeds of the split and of the methods."""
    preset: Preset = "reference"
    """CaMU as in the authors' code (reproduces the tables), or the equations as the paper writes them."""
    data_dir: str | None = None
    """A prepared TFDS folder; without it TFDS's TFDS_DATA_DIR, then its default, then the download."""
    out: str = "results"
    """Folder of the results, <out>/<dataset>/<task>/<method>/seed<k>.json."""
    checkpoint_dir: str = "checkpoints"
    """Folder of the original models."""
    cache_dir: str = "cache"
    """Folder of compiled programs and decoded images; safe to delete."""
    limit: int | None = None
    """Use only N training and at most N test examples, for a quick look."""
    validation: int = 0
    """Hold N training examples out and measure on them instead of the test set, for choosing settings."""
    keep_models: bool = True
    """Keep the unlearned models beside the results, <out>/<dataset>/<task>/<method>/seed<k>.model."""
    audit: tuple[AuditName, ...] = ()
    """Also attack the unlearned models: paper, the paper's membership inference M and its like; lira, U-LiRA on shadow
    models; klom, distance to retrained models; or all."""
    audits: AuditSettings = AuditSettings()
    stream: bool = False
    """Keep the images in host memory and send them minibatch by minibatch: for data larger than the device's memory."""
    devices: int = 1
    """Split each minibatch over so many devices (of each process); the batch size stays that of all together."""
    side_by_side: int = 1
    """How many seeds of a method, or models of an audit, are made in one program. More than 1 is for a GPU that one
    model does not fill; on a CPU it is slower."""
    train_metrics: Literal["clean", "augmented"] = "clean"
    """Measure R_tr and F_tr on clean images, or on augmented ones as the paper did for CIFAR."""
    original_seed: int = 0
    """Seed of the original model, which all seeds and methods share."""
    model: ModelSettings = ModelSettings()
    pipeline: Pipeline = Pipeline()
    original: TrainSettings = TrainSettings()


def _config_class() -> type[Options]:
    fields = [(name, entry.settings, dataclasses.field(default=entry.settings())) for name, entry in METHODS.items()]
    config = dataclasses.make_dataclass("Config", fields, bases=(Options,), frozen=True, kw_only=True)
    config.__doc__ = Options.__doc__
    return config


Config = _config_class()
"""`Options` and the settings of every registered method, each under the method's name."""


def parse(argv: Sequence[str] | None = None, config_class: type[Any] = Config, prog: str = "experiments/run.py") -> Any:
    """Reads the command line.

    Args:
      argv: arguments; None is the process's own.
      config_class: `Config`, or a dataclass that extends it.
      prog: the command that --help names.

    Returns:
      A checked `Config`.

    Raises:
      UsageError: an unknown flag or value, in one line.
      SystemExit: with code 0, after --help.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for flag in ("--task", "--dataset", "--preset"):
        first.add_argument(flag, default=getattr(Options, flag[2:]))
    try:
        early, _ = first.parse_known_args(argv)
    except argparse.ArgumentError as error:
        raise UsageError(f"{error.argument_name}: {error.message}") from None
    known = early.dataset in DATASETS and early.preset in ("reference", "paper")
    default = config_class()
    if known:
        table = defaults(early.dataset, _kind(early.task), early.preset)
        default = config_class(task=early.task, dataset=early.dataset, preset=early.preset, **table)
    return check(flags.parse(argv, default, prog))


def changed(config: Any, assignment: str) -> Any:
    """A config with one changed setting.

    Args:
      config: a `Config`.
      assignment: `group.setting=value`, as in `camu.epochs=3` or `original.learning_rate=1e-4`.

    Raises:
      UsageError: it is not of that form, there is no such setting, or the value is not allowed.
    """
    name, equals, text = assignment.partition("=")
    group, _, setting = name.partition(".")
    if not equals or not dataclasses.is_dataclass(getattr(config, group, None)):
        raise UsageError(f"setting {assignment!r} is unknown; allowed: group.setting=value as --help lists them")
    old = getattr(config, group)
    if setting not in {field.name for field in dataclasses.fields(old)}:
        raise UsageError(f"setting {name} is unknown; allowed: what --help lists")
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = text  # a choice such as `vote`
    try:
        return dataclasses.replace(config, **{group: dataclasses.replace(old, **{setting: value})})
    except (ValueError, TypeError) as error:
        raise UsageError(f"setting {assignment!r} is refused ({error})") from None


def _kind(task: str) -> tasks.Kind:
    return "class" if task.startswith("class") else "data"


NAMES = (*METHODS, *(f"camu:{ablation}" for ablation in CAMU_ABLATIONS))
"""What `methods` may hold, apart from `all`."""


def method(config: Any, name: str) -> tuple[Method, Any]:
    """The method behind one of `NAMES`, and its settings."""
    base, _, ablation = name.partition(":")
    settings = getattr(config, base)
    if ablation:
        settings = dataclasses.replace(settings, **CAMU_ABLATIONS[ablation])
    return METHODS[base], settings


def check(config: Any) -> Any:
    """Refuses what the types alone cannot: unknown or repeated methods and seeds. Replaces `all` by every method."""
    names = [n for name in config.methods for n in (METHODS if name == "all" else [name])]
    for name in names:
        if name not in NAMES:
            raise UsageError(f"methods holds {name!r}; allowed: all, {', '.join(NAMES)}")
    if not names or len(set(names)) < len(names):
        raise UsageError(f"methods is {config.methods}; allowed: one or more different methods")
    if not config.seeds or min(config.seeds) < 0 or len(set(config.seeds)) < len(config.seeds):
        raise UsageError(f"seeds is {config.seeds}; allowed: one or more different numbers, 0 or greater")
    if config.side_by_side < 1 or config.side_by_side > 1 and config.stream:
        raise UsageError(f"side_by_side is {config.side_by_side}; allowed: 1 or more, and 1 with --stream")
    if config.original_seed < 0:
        raise UsageError(f"original_seed is {config.original_seed}; allowed: 0 or greater")
    audit = tuple(get_args(AuditName)[:-1] if "all" in config.audit else dict.fromkeys(config.audit))
    if "all" in config.audit and _kind(config.task) == "class":
        audit = tuple(name for name in audit if name != "lira")  # it draws random forget sets
    return dataclasses.replace(config, methods=tuple(names), audit=audit)
