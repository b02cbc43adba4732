"""Every unlearning method, by name. All have one signature: `unlearn(key, problem, settings) -> Predictor`."""

from collections.abc import Callable
from typing import Any, NamedTuple

from camu_jax.camu import CamuSettings
from camu_jax.methods import bad_teacher, boundary, camu, neggrad, retrain, scrub, sisa, unroll
from camu_jax.problem import Predictor
from camu_jax.training import TrainSettings


class Method(NamedTuple):
    """A registry entry.

    Attributes:
      unlearn: `(key, problem, settings) -> Predictor`.
      settings: the frozen dataclass of its hyperparameters.
      cost: `(problem, settings) -> forward-pass equivalents`, for estimates of time.
      uses_original: whether the original model's parameters influence the result.
      one_by_one: `settings -> bool`, whether it decides something outside of JAX, so that `jax.vmap` does not take it.
    """

    unlearn: Callable[..., Predictor]
    settings: type[Any]
    cost: Callable[..., float]
    uses_original: bool = True
    one_by_one: Callable[[Any], bool] = lambda settings: False


METHODS: dict[str, Method] = {
    "retrain": Method(retrain.unlearn, TrainSettings, retrain.cost, uses_original=False),
    "neggrad": Method(neggrad.unlearn, neggrad.NegGradSettings, neggrad.cost),
    "boundary": Method(boundary.unlearn, boundary.BoundarySettings, boundary.cost),
    "bad_teacher": Method(bad_teacher.unlearn, bad_teacher.BadTeacherSettings, bad_teacher.cost),
    "scrub": Method(scrub.unlearn, scrub.ScrubSettings, scrub.cost, one_by_one=lambda s: s.rewind),
    "sisa": Method(sisa.unlearn, sisa.SisaSettings, sisa.cost, uses_original=False, one_by_one=lambda s: True),
    "unroll": Method(unroll.unlearn, unroll.UnrollSettings, unroll.cost),
    "camu": Method(camu.unlearn, CamuSettings, camu.cost),
}
"""The registry, in the order of the paper's tables; add an entry to add a method."""

CAMU_ABLATIONS: dict[str, dict[str, float]] = {
    "finetune": {"kl_forget": 0.0, "kl_retain": 0.0, "ce_forget": 0.0},
    "no_counterfactual": {"kl_forget": 0.0, "ce_forget": 0.0},
    "no_retain_embedding": {"kl_retain": 0.0},
}
"""The ablations of section 4.3 (Tables 6 and 7): changes of `CamuSettings`, for `dataclasses.replace`."""
