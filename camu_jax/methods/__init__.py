"""Every unlearning method, by name. All have one signature: `unlearn(key, problem, settings) -> Predictor`."""

from collections.abc import Callable
from typing import Any, NamedTuple

from camu_jax.camu import CamuSettings
from camu_jax.methods import camu, retrain
from camu_jax.problem import Predictor
from camu_jax.training import TrainSettings


class Method(NamedTuple):
    """A registry entry.

    Attributes:
      unlearn: `(key, problem, settings) -> Predictor`.
      settings: the frozen dataclass of its hyperparameters.
      cost: `(problem, settings) -> forward-pass equivalents`, for estimates of time.
      uses_original: whether the original model's parameters influence the result.
    """

    unlearn: Callable[..., Predictor]
    settings: type[Any]
    cost: Callable[..., float]
    uses_original: bool = True


METHODS: dict[str, Method] = {
    "retrain": Method(retrain.unlearn, TrainSettings, retrain.cost, uses_original=False),
    "camu": Method(camu.unlearn, CamuSettings, camu.cost),
}
"""The registry; add an entry to add a method."""
