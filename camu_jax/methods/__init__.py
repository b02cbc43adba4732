"""Every unlearning method. All have one signature: `unlearn(key, problem, settings, *, progress) -> Predictor`."""

import dataclasses
from collections.abc import Callable

import jax

from camu_jax import loop
from camu_jax.methods import bad_teacher, boundary, camu, neggrad, retrain, scrub, sisa, unroll
from camu_jax.methods.bad_teacher import BadTeacher
from camu_jax.methods.boundary import Boundary
from camu_jax.methods.camu import Camu
from camu_jax.methods.neggrad import NegGrad
from camu_jax.methods.retrain import Retrain
from camu_jax.methods.scrub import Scrub
from camu_jax.methods.sisa import Sisa
from camu_jax.methods.unroll import Unroll
from camu_jax.problem import Predictor, Problem
from camu_jax.types import Settings


@dataclasses.dataclass(frozen=True)
class Method:
    """A registry entry.

    Attributes:
      name: in small letters, as folders and flags are called.
      unlearn: `(key, problem, settings, *, progress) -> Predictor`.
      uses_original: whether the original model's parameters influence the result.
      exact: whether the result is that of training without the forget set, whatever an attack finds.
      one_by_one: `settings -> bool`, whether it decides something outside of JAX, so that `jax.vmap` does not take it.
      members: `settings -> int`, of how many models its predictor is made.
    """

    name: str
    unlearn: Callable[..., Predictor]
    uses_original: bool = True
    exact: bool = False
    one_by_one: Callable[..., bool] = lambda settings: False
    members: Callable[..., int] = lambda settings: 1


METHODS: dict[type[Settings], Method] = {
    Retrain: Method("retrain", retrain.unlearn, uses_original=False, exact=True),
    NegGrad: Method("neggrad", neggrad.unlearn),
    Boundary: Method("boundary", boundary.unlearn),
    BadTeacher: Method("bad_teacher", bad_teacher.unlearn),
    Scrub: Method("scrub", scrub.unlearn, one_by_one=lambda settings: settings.rewind),
    Sisa: Method(
        "sisa",
        sisa.unlearn,
        uses_original=False,
        exact=True,
        one_by_one=lambda settings: True,
        members=lambda settings: settings.shards,
    ),
    Unroll: Method("unroll", unroll.unlearn),
    Camu: Method("camu", camu.unlearn),
}
"""The registry, by the class of the settings, in the order of the paper's tables; add an entry to add a method."""


def method_of(settings: Settings) -> Method:
    """The method that settings belong to.

    Raises:
      TypeError: they belong to none.
    """
    if type(settings) not in METHODS:
        allowed = ", ".join(cls.__name__ for cls in METHODS)
        raise TypeError(f"settings is a {type(settings).__name__}; allowed: {allowed}")
    return METHODS[type(settings)]


def unlearn(
    key: jax.Array, problem: Problem, settings: Settings, *, progress: loop.Listener | None = None
) -> Predictor:
    """Unlearns the forget set with the method that the settings belong to.

    Args:
      key: a `jax.random` key; consumed.
      problem: the trained model, and what it shall forget and retain; nothing of it is changed.
      settings: of one of the classes in `METHODS`, for example `Camu()` or `Retrain(epochs=5)`.
      progress: is called after every step.

    Returns:
      The unlearned model.

    Raises:
      TypeError: `settings` belongs to no method, or as `Problem.validate`.
      ValueError: as `Problem.validate`.
    """
    return method_of(settings).unlearn(key, problem, settings, progress=progress)
