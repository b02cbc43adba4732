"""Supervised training: of the original model, of Retrain, and of whatever else starts from scratch."""

import dataclasses
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import optax

from camu_jax import _validate, loop, losses
from camu_jax._value import by_value_transformation
from camu_jax.images import Pipeline
from camu_jax.model import Model, Variables
from camu_jax.optimizers import adam_l2, one_cycle
from camu_jax.types import Examples, Settings

Schedule = Literal["constant", "one_cycle"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainSettings(Settings):
    """How a model is trained (A.2.4)."""

    epochs: int = 10
    """Passes over the training examples."""
    batch_size: int = 32
    """Examples in a minibatch."""
    learning_rate: float = 1e-3
    """Adam's learning rate."""
    schedule: Schedule = "constant"
    """constant; one_cycle: it rises to `learning_rate` in the first three tenths of the steps and falls to nothing
    until the last, along half a cosine each (Smith and Topin, 2018)."""
    l2: float = 1e-4
    """L2 regularisation, added to the gradient before Adam's moments."""

    def __post_init__(self) -> None:
        _validate.at_least(1, epochs=self.epochs, batch_size=self.batch_size)
        _validate.at_least(0, learning_rate=self.learning_rate, l2=self.l2)
        _validate.one_of(get_args(Schedule), schedule=self.schedule)

    def optimizer(self, steps: int) -> optax.GradientTransformation:
        """Adam with these settings, for training of so many steps."""
        constant = self.schedule == "constant"
        return adam_l2(self.learning_rate if constant else one_cycle(self.learning_rate, steps), self.l2)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Variables under one optimizer; `model`, `pipeline`, `optimizer` are static and compare by what they compute."""

    variables: Variables
    opt_state: optax.OptState
    model: Model = dataclasses.field(metadata={"static": True})
    pipeline: Pipeline = dataclasses.field(metadata={"static": True})
    optimizer: optax.GradientTransformation = dataclasses.field(metadata={"static": True})

    @classmethod
    def create(
        cls, model: Model, variables: Variables, pipeline: Pipeline, optimizer: optax.GradientTransformation
    ) -> "TrainState":
        """The state before the first step."""
        opt_state = optimizer.init(variables["params"])
        return cls(variables, opt_state, model, pipeline, by_value_transformation(optimizer))

    def descend(self, gradient: Any, batch_stats: Any, *, decay: jax.Array | float = 1.0) -> "TrainState":
        """The state after one optimizer update with `gradient`, and with new batch statistics.

        `decay` multiplies the learning rate.
        """
        params = self.variables["params"]
        updates, opt_state = self.optimizer.update(gradient, self.opt_state, params)
        updates = jax.tree.map(lambda u: decay * u, updates)
        variables = {"params": optax.apply_updates(params, updates), "batch_stats": batch_stats}
        return dataclasses.replace(self, variables=variables, opt_state=opt_state)


def train_step(state: TrainState, batch: Examples, *, key: jax.Array) -> tuple[TrainState, dict[str, jax.Array]]:
    """One update by the mean cross-entropy of a minibatch of stored images."""
    loss, stats, gradient = cross_entropy_gradient(state, batch, key=key)
    return state.descend(gradient, stats), {"loss": loss}


def cross_entropy_gradient(state: TrainState, batch: Examples, *, key: jax.Array) -> tuple[jax.Array, Any, Any]:
    """The mean cross-entropy of a minibatch of stored images, the new batch statistics, and the gradient."""
    augment_key, model_key = jax.random.split(key)
    x = state.pipeline.training(augment_key, batch.x)

    def loss_fn(params: Any) -> tuple[jax.Array, Any]:
        (out,), stats = state.model.train({**state.variables, "params": params}, [x], model_key)
        return jnp.mean(losses.cross_entropy(out.logits, batch.y)), stats

    (loss, stats), gradient = jax.value_and_grad(loss_fn, has_aux=True)(state.variables["params"])
    return loss, stats, gradient


def train(
    key: jax.Array,
    model: Model,
    examples: Examples,
    settings: TrainSettings | None = None,
    *,
    optimizer: optax.GradientTransformation | optax.Schedule | None = None,
    pipeline: Pipeline = Pipeline(),
    progress: loop.Listener | None = None,
) -> Variables:
    """Trains a model from scratch.

    Args:
      key: a `jax.random` key; consumed.
      model: the model.
      examples: the training set, stored images `[N, h, w, c]`.
      settings: epochs, batch size, learning rate and its schedule, L2; None is `TrainSettings()`.
      optimizer: an Optax optimizer, in place of Adam with the settings' learning rate and L2; or an Optax schedule, in
        place of the settings' own.
      pipeline: how stored images become inputs.
      progress: is called after every step.

    Returns:
      The trained variables.

    Raises:
      TypeError, ValueError: as `Examples.validate`.
    """
    examples.validate("examples")
    settings = settings or TrainSettings()
    stream = loop.Stream(examples, settings.batch_size)
    if optimizer is None:
        optimizer = settings.optimizer(settings.epochs * stream.batches)
    elif not isinstance(optimizer, optax.GradientTransformation):  # a schedule
        optimizer = adam_l2(optimizer, settings.l2)
    init_key, loop_key = jax.random.split(key)
    state = TrainState.create(model, jax.jit(model.init)(init_key), pipeline, optimizer)
    return loop.run(train_step, state, stream, key=loop_key, epochs=settings.epochs, progress=progress).variables
