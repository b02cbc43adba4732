"""Unrolling SGD: undo the first-order effect of the forget set on an incremental training (Unroll).

    incremental:     theta <- theta - eta * g_b with g_b = grad CE(theta; F_b) over the forget set, then the same over
                     the retain set, then theta <- theta + sigma * sum_b g_b
    single_gradient: the same training, then theta <- theta + sigma * epochs * sum_b grad CE(theta_0; F_b)

Thudi et al., "Unrolling SGD: Understanding Factors Influencing Machine Unlearning", EuroS&P 2022; official code:
github.com/cleverhans-lab/unrolling-sgd. Its scripts take the gradient before the first update, as the paper does and
this file (`correlation_verification.py`), after it (`Correlation_unlearning.py`), or at the end. The first variant is
what the CaMU paper describes (A.2.2). It must be plain SGD: only then is added back what was taken. Where the model is
sure of the forget set its gradients are small, and a sigma far above eta is needed to forget anything.
"""

import dataclasses
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp

from camu_jax import _validate, loop
from camu_jax.model import Variables
from camu_jax.optimizers import sgd_l2
from camu_jax.problem import Predictor, Problem
from camu_jax.training import TrainState, cross_entropy_gradient, train_step
from camu_jax.types import Examples, Settings

Variant = Literal["incremental", "single_gradient"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Unroll(Settings):
    """Unroll, with plain SGD."""

    variant: Variant = "incremental"
    """incremental: the gradients recorded in training; single_gradient: those at the original model's parameters."""
    epochs: int = 1
    """Passes of the incremental training, each over the forget set first and then over the retain set."""
    batch_size: int = 32
    """Examples in a minibatch."""
    learning_rate: float = 0.01
    """eta, SGD's learning rate."""
    sigma: float | None = None
    """Weight of the gradients when they are added back; None is eta."""

    def __post_init__(self) -> None:
        _validate.one_of(get_args(Variant), variant=self.variant)
        _validate.at_least(1, epochs=self.epochs, batch_size=self.batch_size)
        _validate.at_least(0, learning_rate=self.learning_rate)
        if self.sigma is not None:
            _validate.at_least(0, sigma=self.sigma)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class UnrollState:
    """The model under plain SGD, and `recorded`, the sum of its gradients on the forget set so far."""

    student: TrainState
    recorded: Any

    @classmethod
    def create(cls, student: TrainState) -> "UnrollState":
        """The state before the first gradient."""
        return cls(student, jax.tree.map(jnp.zeros_like, student.variables["params"]))

    def added_back(self, sigma: float) -> Variables:
        """The variables after adding `sigma` times the recorded gradients."""
        params = jax.tree.map(lambda p, g: p + sigma * g, self.student.variables["params"], self.recorded)
        return {**self.student.variables, "params": params}


def record_step(state: UnrollState, batch: Examples, *, key: jax.Array) -> tuple[UnrollState, dict[str, jax.Array]]:
    """Records the gradient of a forget batch; the model stays."""
    loss, _, gradient = cross_entropy_gradient(state.student, batch, key=key)
    return dataclasses.replace(state, recorded=jax.tree.map(jnp.add, state.recorded, gradient)), {"loss": loss}


def forget_step(state: UnrollState, batch: Examples, *, key: jax.Array) -> tuple[UnrollState, dict[str, jax.Array]]:
    """One SGD update on a forget batch, whose gradient is recorded."""
    loss, stats, gradient = cross_entropy_gradient(state.student, batch, key=key)
    recorded = jax.tree.map(jnp.add, state.recorded, gradient)
    return UnrollState(state.student.descend(gradient, stats), recorded), {"loss": loss}


def retain_step(state: UnrollState, batch: Examples, *, key: jax.Array) -> tuple[UnrollState, dict[str, jax.Array]]:
    """One SGD update on a batch whose gradient is not recorded."""
    student, metrics = train_step(state.student, batch, key=key)
    return dataclasses.replace(state, student=student), metrics


def unlearn(key: jax.Array, problem: Problem, settings: Unroll, *, progress: loop.Listener | None = None) -> Predictor:
    """Trains the original model on, forget set first, then adds the forget set's gradients back."""
    problem.validate(with_original=True)
    s = settings
    forget, retain = (loop.Stream(part, s.batch_size) for part in (problem.forget, problem.retain))
    first: loop.Step = forget_step if s.variant == "incremental" else retain_step
    passes = list(enumerate([(first, forget), (retain_step, retain)] * s.epochs))
    if s.variant == "single_gradient":
        passes.insert(0, (len(passes), (record_step, forget)))
    times = 1 if s.variant == "incremental" else s.epochs

    student = TrainState.create(problem.model, problem.original, problem.pipeline, sgd_l2(s.learning_rate))
    state = UnrollState.create(student)
    done, steps = 0, sum(stream.batches for _, (_, stream) in passes)
    for number, (step, stream) in passes:
        listener = loop.part(progress, done, steps)
        state = loop.run(step, state, stream, key=key, epochs=1, first_epoch=number, progress=listener)
        done += stream.batches
    sigma = s.learning_rate if s.sigma is None else s.sigma
    return Predictor((state.added_back(sigma * times),), problem.model, problem.pipeline)
