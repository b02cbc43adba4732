"""The command line of the experiments: one frozen dataclass, made into flags."""

import dataclasses
import sys
from collections.abc import Sequence
from typing import Annotated, Literal, Self, TypeVar, get_args

import tyro

from camu_jax import Pipeline, Settings, TrainSettings, _validate
from camu_jax.methods import METHODS, Method, method_of
from camu_jax.methods.camu import ABLATIONS
from experiments import UsageError, console, sources, store
from experiments.defaults import ModelSettings, Preset, defaults
from experiments.original import ORIGINAL
from experiments.tasks import kind_of

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
class Common:
    """What the commands that make results share."""

    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Seeds of the split and of the methods."""
    data_dir: str | None = None
    """A prepared TFDS folder; without it TFDS's TFDS_DATA_DIR, then its default, then the download."""
    out: str = "results"
    """Folder of the results, <out>/<dataset>/<task>/<method>/seed<k>.json."""
    checkpoint_dir: str = "checkpoints"
    """Folder of the original models."""
    cache_dir: str = "cache"
    """Folder of compiled programs, decoded images and the audits' populations; safe to delete."""
    limit: int | None = None
    """Use only N training and at most N test examples, for a quick look."""
    keep_models: bool = True
    """Keep the unlearned models beside the results, <out>/<dataset>/<task>/<method>/seed<k>.model; otherwise later
    audits and relearning make them again."""
    keep_minutes: float = 2.0
    """How much work a process that is killed may lose: the state of training and unlearning is kept so often, in the
    cache, and the same command goes on from it. 0 keeps nothing, nor do models that are made --side_by_side."""
    audit: tuple[AuditName, ...] = ()
    """Also attack the unlearned models: paper, the paper's membership inference M and its like; lira, U-LiRA on shadow
    models; klom, distance to retrained models; or all."""
    devices: int = 1
    """Split each minibatch over so many devices (of each process); the batch size stays that of all together."""
    side_by_side: int = 1
    """How many seeds of a method, or models of an audit, are made in one program. More than 1 is for a GPU that one
    model does not fill; on a CPU it is slower."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(Common):
    """Unlearns one task on one data set with several methods and prints them beside the paper's figures.

    The defaults below are those of the chosen --dataset, --task and --preset: add them before --help.
    """

    task: str = "data10"
    """What to forget: dataP, P percent of the training examples (1-90); classK or classK,L, whole classes;
    indices:FILE, the training examples whose numbers stand in a .npy or .txt file."""
    dataset: str = "digit"
    """digit (MNIST), fashion (Fashion-MNIST), c10, c100 (CIFAR), tiny (8x8 digits of scikit-learn, no download); or
    your own: npz:FILE with x_train, y_train, x_test, y_test; folder:DIR with train/CLASS/*.png and test/CLASS/*.png;
    tfds:NAME, any image set of TFDS; hf:DIR, a Hugging Face data set saved to disk."""
    methods: tuple[str, ...] = ("retrain", "camu")
    """Methods to run, in this order: retrain, neggrad, boundary, bad_teacher, scrub, sisa, unroll, camu, or all;
    the ablations camu:finetune, camu:no_counterfactual, camu:no_retain_embedding; and original, the model as it was."""
    preset: Preset = "reference"
    """CaMU as in the authors' code (reproduces the tables), or the equations as the paper writes them."""
    validation: int = 0
    """Hold N training examples out and measure on them instead of the test set, for choosing settings."""
    audits: AuditSettings = AuditSettings()
    stream: bool = False
    """Keep the images in host memory and send them minibatch by minibatch: for data larger than the device's memory."""
    train_metrics: Literal["clean", "augmented"] = "clean"
    """Measure R_tr and F_tr on clean images, or on augmented ones as the paper did for CIFAR."""
    original_seed: int = 0
    """Seed of the original model, which all seeds and methods share."""
    model: ModelSettings = ModelSettings()
    pipeline: Pipeline = Pipeline()
    original: TrainSettings = TrainSettings()
    weights: Annotated[str | None, tyro.conf.arg(name="original")] = None
    """Your own trained model instead of one trained here: an Orbax folder, a .safetensors or a .npz file."""
    settings: Annotated[dict[str, Settings], tyro.conf.arg(name="")] = dataclasses.field(
        default_factory=lambda: {method.name: cls() for cls, method in METHODS.items()}
    )

    def folder(self, name: str) -> str:
        """The folder of a data set's results; those of the small model have one of their own."""
        return name if self.model.size == "full" else f"{name}-{self.model.size}"

    @property
    def model_name(self) -> str:
        """The model where it is not the paper's: `small ResNet-18`; empty where it is."""
        factory = None if self.model.factory is None else self.model.name
        return store.model_name({**dataclasses.asdict(self.model), "factory": factory})

    def label(self, title: str) -> str:
        """A data set in words, and the model where it is not the paper's: `c10 (small ResNet-18)`."""
        return f"{title} ({self.model_name})" if self.model_name else title

    def relearning(self, epochs: int) -> TrainSettings:
        """How models are fine-tuned: as the original was trained, at a constant rate; a tenth of a cycle's highest."""
        constant = self.original.schedule == "constant"
        rate = self.original.learning_rate if constant else self.original.learning_rate / 10
        return dataclasses.replace(self.original, epochs=epochs, learning_rate=rate, schedule="constant")

    def settled(self) -> Self:
        """The config with what its other defaults follow from; for commands that extend it."""
        return self

    def method(self, name: str) -> tuple[Method, Settings]:
        """The method behind a name of `method_names()`, and its settings."""
        if name == ORIGINAL.name:
            return ORIGINAL, self.original
        base, _, ablation = name.partition(":")
        settings = self.settings[base]
        if ablation:
            settings = dataclasses.replace(settings, **ABLATIONS[ablation])
        return method_of(settings), settings


C = TypeVar("C", bound=Config)


def method_names() -> tuple[str, ...]:
    """What `Config.methods` may hold, apart from `all`."""
    ablations = (f"camu:{ablation}" for ablation in ABLATIONS)
    return (*(method.name for method in METHODS.values()), *ablations, ORIGINAL.name)


def parse(argv: Sequence[str] | None, default: C, prog: str) -> C:
    """Reads the command line.

    Args:
      argv: arguments; None is the process's own.
      default: a `Config`, or a dataclass that extends it.
      prog: the command that --help names.

    Returns:
      A checked config of the same class; its defaults are those of the data set, the task and the preset.

    Raises:
      UsageError: something that the types alone do not refuse, in one line.
      SystemExit: with code 0 after --help, 2 after a wrong flag.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    words = [word for word in argv if word not in ("-h", "--help")]
    return check(console.parse(argv, with_defaults(console.parse(words, default, prog), default), prog))


def with_defaults(chosen: Config, config: C) -> C:
    """A config with the data set, the task, the preset and the model's size of another one, and their settings."""
    found = defaults(chosen.dataset, chosen.task, chosen.preset, chosen.model.size)
    same = {name: getattr(chosen, name) for name in ("dataset", "task", "preset")}
    return dataclasses.replace(config, **same, **found._asdict()).settled()


def changed(config: C, assignments: Sequence[str]) -> C:
    """A config with some settings changed.

    Args:
      config: a config.
      assignments: `group.setting=value` each, as the flags are called: `camu.epochs=3`, `pipeline.mean=0.5`.

    Raises:
      UsageError: it is not of that form, there is no such setting, or the value is not allowed.
    """
    for text in assignments:
        if "=" not in text or "." not in text.partition("=")[0]:
            raise UsageError(f"setting {text!r} is unknown; allowed: group.setting=value as --help lists them")
    try:
        return console.parse([f"--{text}" for text in assignments], config, "settings")
    except SystemExit:
        raise UsageError(f"setting {', '.join(assignments)} is refused; allowed: what --help lists") from None


def check(config: C) -> C:
    """Refuses what the types alone cannot: unknown or repeated methods and seeds. Replaces `all` by every method."""
    sources.check(config.dataset)
    names = [n for name in config.methods for n in (config.settings if name == "all" else [name])]
    for name in names:
        if name not in method_names():
            raise UsageError(f"methods holds {name!r}; allowed: all, {', '.join(method_names())}")
    if not names or len(set(names)) < len(names):
        raise UsageError(f"methods is {config.methods}; allowed: one or more different methods")
    seeds = (*config.seeds, config.original_seed)
    if not config.seeds or len(set(config.seeds)) < len(config.seeds) or min(seeds) < 0 or max(seeds) >= 2**32:
        raise UsageError(
            f"seeds is {config.seeds}, original_seed {config.original_seed}; allowed: one or more different numbers, "
            "0 or greater and below 2^32"
        )
    if config.model.size != "full" and config.model.architecture != "resnet18":
        raise UsageError(f"model.size is {config.model.size}; allowed with {config.dataset}: full")
    if config.side_by_side < 1 or config.side_by_side > 1 and config.stream:
        raise UsageError(f"side_by_side is {config.side_by_side}; allowed: 1 or more, and 1 with --stream")
    if not 0 <= config.keep_minutes < float("inf"):
        raise UsageError(f"keep_minutes is {config.keep_minutes}; allowed: 0 or more")
    return dataclasses.replace(config, methods=tuple(names), audit=_audits(config))


def _audits(config: Config) -> tuple[AuditName, ...]:
    if "all" not in config.audit:
        if "lira" in config.audit and kind_of(config.task) == "class":
            raise UsageError(
                f"audit lira does not go with task {config.task}; allowed: dataP or indices:FILE "
                "(it draws random forget sets)"
            )
        return tuple(dict.fromkeys(config.audit))
    every: tuple[AuditName, ...] = get_args(AuditName)[:-1]
    return tuple(name for name in every if name != "lira" or kind_of(config.task) != "class")
