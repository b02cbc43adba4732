"""The pytrees that every part of the library exchanges.

Shape letters used throughout: `N` examples, `B` examples of a minibatch, `C` classes, `D` embedding width,
`*image` the shape of one image (`H, W, channels`), or of whatever else a model takes (the features of a row of a table,
the tokens of a text).
"""

import dataclasses
from typing import Any

import jax
import numpy as np

from camu_jax import _validate
from camu_jax.rows import pick


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Examples:
    """Labelled images, or other inputs with labels.

    Attributes:
      x: inputs, `[N, *image]`: images as stored, `[N, H, W, channels]` uint8, which a `Pipeline` normalises; floats, or
        integers of any other type (tokens, say), which the model gets as they are. NumPy arrays stay in host memory,
        and minibatches of them are sent to the device one by one. May be `camu_jax.rows.Picked`.
      y: class labels, `[N]`, integer in `[0, num_classes)`.
      num_classes: C, static: it is part of the problem and never guessed from the labels present.
    """

    x: jax.Array
    y: jax.Array
    num_classes: int = dataclasses.field(metadata={"static": True})

    def __post_init__(self) -> None:
        if isinstance(self.num_classes, np.integer):  # `y.max() + 1` is one
            object.__setattr__(self, "num_classes", int(self.num_classes))

    def __len__(self) -> int:
        return self.x.shape[0]

    def __getitem__(self, rows: jax.Array | slice) -> "Examples":
        """The examples of some rows (an index array, a boolean mask or a slice)."""
        return Examples(self.x[rows], self.y[rows], self.num_classes)

    def pick(self, rows: Any) -> "Examples":
        """As `self[rows]`, without a copy: these examples share `self.x` and read of it what is asked for."""
        x: Any = pick(self.x, rows)
        return Examples(x, self.y[rows], self.num_classes)

    def validate(self, name: str) -> None:
        """Refuses examples that no method could use.

        Labels and inputs are looked at only where they are concrete, which arrays that a jitted function closes over
        are and its arguments are not.

        Args:
          name: what the caller calls these examples; it opens every message.

        Raises:
          TypeError: inputs or labels are not arrays of a usable dtype.
          ValueError: wrong rank, different lengths, no example, an axis of length 0, a label out of range, or an input
            that holds NaN or infinity.
        """
        _validate.examples(name, self.x, self.y, self.num_classes)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """The hyperparameters of a method: a frozen dataclass that refuses wrong values when it is made.

    Its class chooses the method: see `camu_jax.methods.METHODS`.
    """


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Outputs:
    """What a model returns for a batch.

    Attributes:
      logits: unnormalised log-probabilities, `[B, C]`.
      embedding: the penultimate representation, `[B, D]`; None where the model does not tell it.
    """

    logits: jax.Array
    embedding: jax.Array | None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Tuples:
    """The joined data set S of Algorithm 1, or a minibatch of it: one row per forget example.

    Attributes:
      forget: the forget examples s_f, `[N, *image]`, floating.
      counterfactual: s_f* = (x_r* + mask, y*), `[N, *image]`.
      retain: the sampled retain examples s_r*, `[N, *image]`.
      counterfactual_embedding: the frozen original model's embedding of `counterfactual.x`, `[N, D]`, where it
        was computed beforehand; None lets `camu_step` compute it.
      retain_embedding: the same for `retain.x`.
    """

    forget: Examples
    counterfactual: Examples
    retain: Examples
    counterfactual_embedding: jax.Array | None = None
    retain_embedding: jax.Array | None = None
