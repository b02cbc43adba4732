"""Algorithm 2 of the paper: Causal Machine Unlearning, as a pure step over one pytree."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import optax

from camu_jax import _validate, losses
from camu_jax._value import by_value_transformation
from camu_jax.model import Model, Variables, as_variables
from camu_jax.optimizers import adam_l2
from camu_jax.types import Settings, Tuples

Counterfactual = Literal["frozen", "current"]
KL_LEARNING_RATE, CE_LEARNING_RATE = 4e-4, 5e-4
"""Of the two Adams in the preset `reference`: the authors' code for MNIST, random removal."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CamuLosses(Settings):
    """What the two losses of Algorithm 2 are. The defaults are the preset `reference`: the authors' code.

    A weight of 0 removes its term, and with it the work; both KL weights 0 remove the whole KL update. That is how
    the ablations of section 4.3 are written.
    """

    kl_forget: float = 0.5
    """Weight of KL between the embeddings of forget and counterfactual examples."""
    kl_retain: float = 0.5
    """Weight of KL between the current and the original embeddings of retain examples."""
    ce_forget: float = 0.01
    """Weight of the cross-entropy of forget examples with the counterfactual labels."""
    ce_retain: float = 0.9
    """Weight of the cross-entropy of retain examples with their own labels."""
    kl_reduction: losses.Reduction = "sum"
    """How KL is reduced over the minibatch."""
    kl_direction: losses.Direction = "target_model"
    """target_model: KL(target || model); model_target: KL(model || target)."""
    counterfactual_embedding: Counterfactual = "frozen"
    """frozen: of the original model; current: of the model being unlearned, with its gradient."""

    def __post_init__(self) -> None:
        _validate.at_least(0, kl_forget=self.kl_forget, kl_retain=self.kl_retain)
        _validate.at_least(0, ce_forget=self.ce_forget, ce_retain=self.ce_retain)
        _validate.one_of(get_args(losses.Reduction), kl_reduction=self.kl_reduction)
        _validate.one_of(get_args(losses.Direction), kl_direction=self.kl_direction)
        _validate.one_of(get_args(Counterfactual), counterfactual_embedding=self.counterfactual_embedding)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class CamuParams:
    """What `camu_step` takes and returns.

    Attributes:
      variables: the post-unlearning model g_u, `{"params", "batch_stats"}`.
      original: the frozen pre-unlearning model g_o, same structure.
      kl_state: Optax state of the KL update.
      ce_state: Optax state of the cross-entropy update.
      key: the source of what layers such as Dropout draw; None for models that draw nothing.
      model, losses, kl_optimizer, ce_optimizer: static; they ride along so that the step has two arguments. They
        compare by what they compute, so that an equal but fresh optimizer does not compile the step again.
    """

    variables: Variables
    original: Variables
    kl_state: optax.OptState
    ce_state: optax.OptState
    key: jax.Array | None
    model: Model = dataclasses.field(metadata={"static": True})
    losses: CamuLosses = dataclasses.field(metadata={"static": True})
    kl_optimizer: optax.GradientTransformation = dataclasses.field(metadata={"static": True})
    ce_optimizer: optax.GradientTransformation = dataclasses.field(metadata={"static": True})


def init_camu(
    model: Model,
    variables: Variables,
    losses: CamuLosses | None = None,
    *,
    kl_optimizer: optax.GradientTransformation | None = None,
    ce_optimizer: optax.GradientTransformation | None = None,
    key: jax.Array | None = None,
) -> CamuParams:
    """Initialises g_u = g_o (Algorithm 2, line 1).

    Args:
      model: the model.
      variables: the original model's variables; copied, so that they outlive the donated parameters.
      losses: None is the preset `reference`, as the defaults of `make_tuples` are.
      kl_optimizer: for the KL update; None is `adam_l2(KL_LEARNING_RATE)`.
      ce_optimizer: for the cross-entropy update; None is `adam_l2(CE_LEARNING_RATE)`.
      key: a `jax.random` key for a model whose layers draw, such as Dropout; copied.

    Returns:
      The argument of the first `camu_step`.

    Raises:
      ValueError: `variables` lacks `params` or holds an unknown collection.
    """
    kl_optimizer = by_value_transformation(kl_optimizer or adam_l2(KL_LEARNING_RATE))
    ce_optimizer = by_value_transformation(ce_optimizer or adam_l2(CE_LEARNING_RATE))
    variables = as_variables(variables)
    params = CamuParams(
        variables=variables,
        original=variables,
        kl_state=kl_optimizer.init(variables["params"]),
        ce_state=ce_optimizer.init(variables["params"]),
        key=key,
        model=model,
        losses=losses or CamuLosses(),
        kl_optimizer=kl_optimizer,
        ce_optimizer=ce_optimizer,
    )
    return jax.tree.map(jnp.copy, params)  # no buffer twice, and none that the caller still needs


def kl_loss(params: CamuParams, weights: Any, batch: Tuples, *, key: jax.Array | None = None) -> tuple[jax.Array, Any]:
    """Eq 3.13: align the embeddings of F with F*'s, and keep those of R*.

    With BatchNorm the model sees the retain batch, then the forget batch (then the counterfactual one where
    `counterfactual_embedding` is `current`), each with its own statistics. The original model always uses its
    recorded statistics.

    Args:
      params: supplies the frozen model, the batch statistics and the choice of losses.
      weights: the parameters to differentiate by (`params.variables["params"]`).
      batch: a minibatch of tuples, `[B, *image]`.
      key: for layers that draw; None for models that draw nothing.

    Returns:
      The weighted loss, `[]`, and the new batch statistics.
    """
    s = params.losses
    original = jax.lax.stop_gradient(params.original)
    images = {}
    if s.kl_retain:
        images["retain"] = batch.retain.x
    if s.kl_forget:
        images["forget"] = batch.forget.x
        if s.counterfactual_embedding == "current":
            images["counterfactual"] = batch.counterfactual.x
    outputs, stats = params.model.train({**params.variables, "params": weights}, list(images.values()), key)
    current = {name: out.embedding for name, out in zip(images, outputs, strict=True)}

    loss = jnp.zeros(())
    if s.kl_forget:
        target = current.get("counterfactual", batch.counterfactual_embedding)
        if target is None:
            target = params.model.eval(original, batch.counterfactual.x).embedding
        divergence = losses.embedding_kl(_needed(current["forget"]), _needed(target), direction=s.kl_direction)
        loss += s.kl_forget * losses.reduce(divergence, s.kl_reduction)
    if s.kl_retain:
        target = batch.retain_embedding
        if target is None:
            target = params.model.eval(original, batch.retain.x).embedding
        divergence = losses.embedding_kl(_needed(current["retain"]), _needed(target), direction=s.kl_direction)
        loss += s.kl_retain * losses.reduce(divergence, s.kl_reduction)
    return loss, stats


def _needed(embedding: jax.Array | None) -> jax.Array:
    if embedding is None:
        raise ValueError(
            "model returns no embedding; allowed: (logits, embedding), the penultimate representation beside the "
            "logits, which CaMU's KL update compares (Eq 3.13)"
        )
    return embedding


def ce_loss(params: CamuParams, weights: Any, batch: Tuples, *, key: jax.Array | None = None) -> tuple[jax.Array, Any]:
    """Eq 3.14: teach F the counterfactual labels and R* its own.

    With BatchNorm the model sees the forget batch, then the retain batch, each with its own statistics.

    Args:
      params: supplies the batch statistics and the choice of losses.
      weights: the parameters to differentiate by (`params.variables["params"]`).
      batch: a minibatch of tuples, `[B, *image]`.
      key: for layers that draw; None for models that draw nothing.

    Returns:
      The weighted loss, `[]`, and the new batch statistics.
    """
    s = params.losses
    terms = []
    if s.ce_forget:
        terms.append((s.ce_forget, batch.forget.x, batch.counterfactual.y))
    if s.ce_retain:
        terms.append((s.ce_retain, batch.retain.x, batch.retain.y))
    variables = {**params.variables, "params": weights}
    outputs, stats = params.model.train(variables, [x for _, x, _ in terms], key)
    loss = jnp.zeros(())
    for (weight, _, y), out in zip(terms, outputs, strict=True):
        loss += weight * jnp.mean(losses.cross_entropy(out.logits, y))
    return loss, stats


def camu_update(params: CamuParams, batch: Tuples) -> tuple[CamuParams, dict[str, jax.Array]]:
    """One iteration of Algorithm 2: the KL update, then the cross-entropy update. Not jitted, donates nothing."""
    s = params.losses
    kl_key = ce_key = None
    if params.key is not None:
        next_key, kl_key, ce_key = jax.random.split(params.key, 3)
        params = dataclasses.replace(params, key=next_key)

    metrics = {}
    if s.kl_forget or s.kl_retain:  # line 3: update g_u by Eq 3.13
        gradient, stats, metrics["kl"] = _gradient(kl_loss, params, batch, kl_key)
        variables, state = _descend(params.kl_optimizer, params.kl_state, params.variables, gradient, stats)
        params = dataclasses.replace(params, variables=variables, kl_state=state)
    if s.ce_forget or s.ce_retain:  # line 4: update g_u by Eq 3.14
        gradient, stats, metrics["ce"] = _gradient(ce_loss, params, batch, ce_key)
        variables, state = _descend(params.ce_optimizer, params.ce_state, params.variables, gradient, stats)
        params = dataclasses.replace(params, variables=variables, ce_state=state)
    return params, metrics


def _gradient(
    loss_fn: Callable[..., tuple[jax.Array, Any]], params: CamuParams, batch: Tuples, key: jax.Array | None
) -> tuple[Any, Any, jax.Array]:
    """The gradient by the parameters of g_u, the new batch statistics, and the loss."""
    value_and_grad = jax.value_and_grad(loss_fn, argnums=1, has_aux=True)
    (loss, stats), gradient = value_and_grad(params, params.variables["params"], batch, key=key)
    return gradient, stats, loss


def _descend(
    optimizer: optax.GradientTransformation, state: optax.OptState, variables: Variables, gradient: Any, stats: Any
) -> tuple[Variables, optax.OptState]:
    weights = variables["params"]
    updates, state = optimizer.update(gradient, state, weights)
    return {"params": optax.apply_updates(weights, updates), "batch_stats": stats}, state


camu_step = jax.jit(camu_update, donate_argnums=0)
"""`camu_step(params, batch) -> (params, metrics)`: `camu_update` as one XLA program.

`params` (`CamuParams`) is donated: use what is returned. `batch` is a `Tuples` of `[B, *image]`, e.g.
`jax.tree.map(lambda a: a[rows], S)`. `metrics` holds the two losses before their updates, `kl` and `ce`, `[]`.
Works inside `jax.jit`, `jax.lax.scan` and `jax.vmap`. Never changes `params.original`, and with both learning rates 0
no parameter.
"""
