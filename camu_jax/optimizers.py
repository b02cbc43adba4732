"""The optimizers of the paper's code, as Optax transformations."""

from collections.abc import Callable
from typing import Any

import jax
import optax

LearningRate = float | Callable[[Any], Any]
"""A number, or an Optax schedule."""


def adam_l2(learning_rate: LearningRate, l2: float = 1e-4) -> optax.GradientTransformation:
    """Adam with L2 regularisation added to the gradient before the moments (not AdamW)."""
    return optax.chain(optax.add_decayed_weights(l2), _adam(), _descend(learning_rate))


def sgd_l2(learning_rate: LearningRate, momentum: float = 0.0, l2: float = 0.0) -> optax.GradientTransformation:
    """Stochastic gradient descent; L2 is added to the gradient before the momentum."""
    trace = optax.trace(decay=momentum) if momentum else optax.identity()
    return optax.chain(optax.add_decayed_weights(l2), trace, _descend(learning_rate))


def one_cycle(peak: float, steps: int) -> Callable[[Any], Any]:
    """Optax's one-cycle schedule along cosines; as its Adam, it mixes types, which strict dtype promotion forbids."""
    schedule = optax.cosine_onecycle_schedule(steps, peak)

    def rate(count: Any) -> Any:
        with jax.numpy_dtype_promotion("standard"):
            return schedule(count)

    return rate


def _descend(learning_rate: LearningRate) -> optax.GradientTransformation:
    return optax.scale_by_learning_rate(learning_rate) if callable(learning_rate) else optax.scale(-learning_rate)


def _adam() -> optax.GradientTransformation:
    """Optax's Adam; it raises a float to an integer power, which strict dtype promotion forbids."""
    adam = optax.scale_by_adam()

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        with jax.numpy_dtype_promotion("standard"):
            return adam.update(updates, state, params)

    return optax.GradientTransformation(adam.init, update)
