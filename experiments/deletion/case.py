"""A request with all that it needs: the data, the original model, which rows go and which stay."""

import dataclasses
from pathlib import Path

import jax
import numpy as np

from camu_jax import Examples, Predictor, Problem, digests, weights
from camu_jax.deletion import Request
from camu_jax.deletion.delete import deleted_until
from camu_jax.deletion.receipt import Asked, Receipt
from experiments import UsageError, keys
from experiments.deletion import folder, rows
from experiments.deletion.options import ForgetConfig
from experiments.experiment import Experiment, open_experiment


@dataclasses.dataclass(frozen=True)
class Case:
    """A request.

    Attributes:
      options: all settings.
      experiment: the data and the model.
      named: the rows that must go.
      retain: the numbers of those that stay and have a label, ascending.
      unlabelled: of the rows that must go, those without a label.
      left_out: how many rows stay and have no label.
      previous: the receipt of the deletion before.
      earlier: rows of the data that were deleted before.
    """

    options: ForgetConfig
    experiment: Experiment
    named: rows.Named
    retain: np.ndarray  # type: ignore[explicit-any]  # of integers
    unlabelled: list[int]
    left_out: int
    previous: Receipt | None
    earlier: list[int]

    def asked(self) -> Asked:
        """For the receipt."""
        return {
            "rows": self.named.numbers,
            "ids": self.named.ids,
            "total": len(self.experiment.train),
            "unlabelled": self.unlabelled,
            "left_out": self.left_out,
        }

    def stored(self) -> list[Path]:
        """Where the original lies; empty where it is trained here."""
        if self.options.previous is not None:
            return folder.models_in(Path(self.options.previous))
        return [] if self.experiment.config.original is None else [Path(self.experiment.config.original)]
