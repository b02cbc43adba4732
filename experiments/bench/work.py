"""What is benchmarked: plain descriptions that both children read. Imports neither JAX nor PyTorch."""

import dataclasses
import time
from collections.abc import Sequence
from typing import Any, Literal, get_args

What = Literal["camu_cnn", "camu_resnet", "train_cnn", "train_resnet", "digit", "evaluate", "attack", "job"]
Kind = Literal["camu", "train", "unlearn", "evaluate", "attack", "job"]

_KINDS: dict[str, tuple[Kind, str, tuple[int, ...]]] = {
    "camu_cnn": ("camu", "cnn", (32, 256)),
    "camu_resnet": ("camu", "resnet18", (32, 128)),
    "train_cnn": ("train", "cnn", (32,)),
    "train_resnet": ("train", "resnet18", (32,)),
    "digit": ("unlearn", "cnn", (32,)),
    "evaluate": ("evaluate", "cnn", (500,)),
    "attack": ("attack", "cnn", (500,)),
    "job": ("job", "cnn", (32,)),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Work:
    """One benchmark.

    Attributes:
      name: as on the command line.
      kind: `camu` and `train` are measured by the step; `unlearn` is a whole run from the original model to its
        metrics; `evaluate` is one pass over the test set; `attack` is the audit `paper`; `job` is all that a whole job
        does with loaded data: the original model, Retrain, CaMU, the metrics and the audit `paper` of both.
      architecture: `cnn` or `resnet18` (3x3 stem).
      batch_size: rows of a step, or images of a forward pass.
      dataset: a name of `camu_jax.data`; `tiny` becomes 32x32x3 for ResNet-18.
      data_dir: the prepared TFDS folder.
      epochs: of `unlearn`; of `job` those of the original model and of CaMU, Retrain has twice as many.
      rows: images of a pass of `camu` and `train`, the first ones again and again; 0 takes what the data set has.
      compute: arithmetic of the model.
      width: of the model; None is its own.
      scan: as in `camu_jax.loop.run`.
    """

    name: str
    kind: Kind
    architecture: str
    batch_size: int
    dataset: str
    data_dir: str | None = None
    epochs: int = 10
    rows: int = 0
    compute: Literal["float32", "bfloat16"] = "float32"
    width: int | None = None
    scan: bool | None = None

    @property
    def unit(self) -> str:
        """What is counted in a second."""
        return {"camu": "tuples", "unlearn": "runs", "attack": "audits", "job": "jobs"}.get(self.kind, "images")

    @property
    def whole(self) -> bool:
        """Whether a turn is one whole run, which takes minutes: it is not repeated to warm up."""
        return self.kind in ("unlearn", "job")


def select(what: Sequence[str], *, data_dir: str | None, cifar: str, epochs: int) -> list[Work]:
    """The benchmarks that a command names, one for each batch size.

    Args:
      what: names.
      data_dir: the prepared TFDS folder; None takes `tiny` for everything.
      cifar: the data set of ResNet-18 where `data_dir` is given.
      epochs: of the whole run.

    Raises:
      ValueError: an unknown name.
    """
    works = []
    for name in what:
        if name not in get_args(What):
            raise ValueError(f"what is {name!r}; allowed: {', '.join(get_args(What))}")
        kind, architecture, sizes = _KINDS[name]
        dataset = "tiny" if data_dir is None else "digit" if architecture == "cnn" else cifar
        for size in sizes:
            works.append(
                Work(
                    name=name,
                    kind=kind,
                    architecture=architecture,
                    batch_size=size,
                    dataset=dataset,
                    data_dir=data_dir,
                    epochs=epochs,
                )
            )
    return works


class Laps:
    """A clock that is told whenever a part of some work is done: seconds by part."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def done(self, part: str) -> None:
        """What took place since the last part, or since the start, was this part, or more of it."""
        now = time.perf_counter()
        self.seconds[part] = self.seconds.get(part, 0.0) + now - self._last
        self._last = now


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prepared:
    """What our child tells the parent and, through it, PyTorch's child.

    Attributes:
      arrays: a `.npz` file: uint8 images and labels, and the initial variables under their Flax names.
      settings: the method's settings as a dictionary (`CamuSettings` or `TrainSettings`); of a job by the names
        `original`, `retrain` and `camu`.
      mean, std: of the pipeline.
      augment: of the pipeline.
      num_classes: C.
      accelerator: whether ours runs on one.
      steps_per_pass: minibatches of an epoch; 1 for whole runs.
      rows: what one step handles, in `Work.unit`; for whole passes all of them.
      flops: of one step or pass, as XLA counts them before optimisation.
      first_seconds: the first step (or pass), without compilation.
      compile_seconds: tracing and compiling all that the rounds use.
    """

    arrays: str
    settings: dict[str, Any]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augment: str
    num_classes: int
    accelerator: bool
    steps_per_pass: int
    rows: int
    flops: float
    first_seconds: float
    compile_seconds: float
