"""Algorithm 2 of the paper: Causal Machine Unlearning, as a pure step over one pytree."""

import dataclasses
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import optax

from camu_jax import _validate, losses
from camu_jax.model import Model, Variables, as_variables
from camu_jax.optimizers import adam_l2
from camu_jax.tuples import LabelRule
from camu_jax.types import Tuples

Counterfactual = Literal["frozen", "current"]
Pairing = Literal["independent", "tuple"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class CamuSettings:
    """Every choice of CaMU. The defaults are the preset `reference`: the authors' code for MNIST, random removal.

    A weight of 0 removes its term, and with it the work; both KL weights 0 remove the whole KL update. That is how
    the ablations of section 4.3 are written.
    """

    epochs: int = 10
    """Passes over the joined data set (T in Algorithm 2)."""
    batch_size: int = 32
    """Tuples in a minibatch."""
    kl_learning_rate: float = 4e-4
    """Adam's learning rate for the KL update (Eq 3.13)."""
    ce_learning_rate: float = 5e-4
    """Adam's learning rate for the cross-entropy update (Eq 3.14)."""
    l2: float = 1e-4
    """L2 regularisation, added to the gradient before Adam's moments, in both updates."""
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
    labels: LabelRule = "retain"
    """uniform: y* is uniform over all labels but y_f; retain: y* is the retain example's label unless it is y_f."""
    replace: bool = False
    """Whether a retain example may be drawn again while others were not drawn at all."""
    pairing: Pairing = "independent"
    """tuple: the minibatch's retain examples are those behind its counterfactuals; independent: shuffled apart."""
    repeat: int = 1
    """How often the forget set is repeated (the paper: 10 for C100 class removal)."""

    def __post_init__(self) -> None:
        _validate.at_least(1, epochs=self.epochs, batch_size=self.batch_size, repeat=self.repeat)
        _validate.at_least(0, kl_learning_rate=self.kl_learning_rate, ce_learning_rate=self.ce_learning_rate)
        _validate.at_least(0, l2=self.l2, kl_forget=self.kl_forget, kl_retain=self.kl_retain)
        _validate.at_least(0, ce_forget=self.ce_forget, ce_retain=self.ce_retain)
        _validate.one_of(get_args(losses.Reduction), kl_reduction=self.kl_reduction)
        _validate.one_of(get_args(losses.Direction), kl_direction=self.kl_direction)
        _validate.one_of(get_args(Counterfactual), counterfactual_embedding=self.counterfactual_embedding)
        _validate.one_of(get_args(LabelRule), labels=self.labels)
        _validate.one_of(get_args(Pairing), pairing=self.pairing)

    @classmethod
    def reference(cls, **changes: Any) -> "CamuSettings":
        """What the authors' code does; it reproduces the paper's tables."""
        return cls(**changes)

    @classmethod
    def paper(cls, **changes: Any) -> "CamuSettings":
        """The equations as the paper writes them: weights 1, batch means, current embeddings, uniform y*."""
        text: dict[str, Any] = dict(
            kl_forget=1.0,
            kl_retain=1.0,
            ce_forget=1.0,
            ce_retain=1.0,
            kl_reduction="mean",
            kl_direction="model_target",
            counterfactual_embedding="current",
            labels="uniform",
            replace=True,
            pairing="tuple",
        )
        return cls(**{**text, **changes})


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class CamuParams:
    """What `camu_step` takes and returns.

    Attributes:
      variables: the post-unlearning model g_u, `{"params", "batch_stats"}`.
      original: the frozen pre-unlearning model g_o, same structure.
      kl_state: Optax state of the KL update.
      ce_state: Optax state of the cross-entropy update.
      model, settings, kl_optimizer, ce_optimizer: static; they ride along so that the step has two arguments.
    """

    variables: Variables
    original: Variables
    kl_state: optax.OptState
    ce_state: optax.OptState
    model: Model = dataclasses.field(metadata={"static": True})
    settings: CamuSettings = dataclasses.field(metadata={"static": True})
    kl_optimizer: optax.GradientTransformation = dataclasses.field(metadata={"static": True})
    ce_optimizer: optax.GradientTransformation = dataclasses.field(metadata={"static": True})


def init_camu(
    model: Model,
    variables: Variables,
    settings: CamuSettings | None = None,
    *,
    kl_optimizer: optax.GradientTransformation | None = None,
    ce_optimizer: optax.GradientTransformation | None = None,
) -> CamuParams:
    """Initialises g_u = g_o (Algorithm 2, line 1).

    Args:
      model: the model.
      variables: the original model's variables; copied, so that they outlive the donated parameters.
      settings: None is `CamuSettings.reference()`.
      kl_optimizer: for the KL update; None is Adam with L2 and `settings.kl_learning_rate`.
      ce_optimizer: for the cross-entropy update; None is Adam with L2 and `settings.ce_learning_rate`.

    Returns:
      The argument of the first `camu_step`.

    Raises:
      ValueError: `variables` lacks `params` or holds an unknown collection.
    """
    settings = settings or CamuSettings.reference()
    kl_optimizer = kl_optimizer or adam_l2(settings.kl_learning_rate, settings.l2)
    ce_optimizer = ce_optimizer or adam_l2(settings.ce_learning_rate, settings.l2)
    variables = as_variables(variables)
    return CamuParams(
        variables=jax.tree.map(jnp.copy, variables),
        original=jax.tree.map(jnp.copy, variables),
        kl_state=jax.tree.map(jnp.copy, kl_optimizer.init(variables["params"])),
        ce_state=jax.tree.map(jnp.copy, ce_optimizer.init(variables["params"])),
        model=model,
        settings=settings,
        kl_optimizer=kl_optimizer,
        ce_optimizer=ce_optimizer,
    )


def kl_loss(params: CamuParams, weights: Any, batch: Tuples) -> tuple[jax.Array, Any]:
    """Eq 3.13: align the embeddings of F with F*'s, and keep those of R*.

    With BatchNorm the model sees the retain batch, then the forget batch (then the counterfactual one where
    `counterfactual_embedding` is `current`), each with its own statistics. The original model always uses its
    recorded statistics.

    Args:
      params: supplies the frozen model, the batch statistics and the settings.
      weights: the parameters to differentiate by (`params.variables["params"]`).
      batch: a minibatch of tuples, `[B, *image]`.

    Returns:
      The weighted loss, `[]`, and the new batch statistics.
    """
    s = params.settings
    original = jax.lax.stop_gradient(params.original)
    images = {}
    if s.kl_retain:
        images["retain"] = batch.retain.x
    if s.kl_forget:
        images["forget"] = batch.forget.x
        if s.counterfactual_embedding == "current":
            images["counterfactual"] = batch.counterfactual.x
    outputs, stats = params.model.train({**params.variables, "params": weights}, list(images.values()))
    current = {name: out.embedding for name, out in zip(images, outputs, strict=True)}

    loss = jnp.zeros(())
    if s.kl_forget:
        target = current.get("counterfactual", batch.counterfactual_embedding)
        if target is None:
            target = params.model.eval(original, batch.counterfactual.x).embedding
        divergence = losses.embedding_kl(current["forget"], target, direction=s.kl_direction)
        loss += s.kl_forget * losses.reduce(divergence, s.kl_reduction)
    if s.kl_retain:
        target = batch.retain_embedding
        if target is None:
            target = params.model.eval(original, batch.retain.x).embedding
        divergence = losses.embedding_kl(current["retain"], target, direction=s.kl_direction)
        loss += s.kl_retain * losses.reduce(divergence, s.kl_reduction)
    return loss, stats


def ce_loss(params: CamuParams, weights: Any, batch: Tuples) -> tuple[jax.Array, Any]:
    """Eq 3.14: teach F the counterfactual labels and R* its own.

    With BatchNorm the model sees the forget batch, then the retain batch, each with its own statistics.

    Args:
      params: supplies the batch statistics and the settings.
      weights: the parameters to differentiate by (`params.variables["params"]`).
      batch: a minibatch of tuples, `[B, *image]`.

    Returns:
      The weighted loss, `[]`, and the new batch statistics.
    """
    s = params.settings
    terms = []
    if s.ce_forget:
        terms.append((s.ce_forget, batch.forget.x, batch.counterfactual.y))
    if s.ce_retain:
        terms.append((s.ce_retain, batch.retain.x, batch.retain.y))
    outputs, stats = params.model.train({**params.variables, "params": weights}, [x for _, x, _ in terms])
    loss = jnp.zeros(())
    for (weight, _, y), out in zip(terms, outputs, strict=True):
        loss += weight * jnp.mean(losses.cross_entropy(out.logits, y))
    return loss, stats


def camu_update(params: CamuParams, batch: Tuples) -> tuple[CamuParams, dict[str, jax.Array]]:
    """One iteration of Algorithm 2: the KL update, then the cross-entropy update. Not jitted, donates nothing."""
    s = params.settings
    metrics = {}
    if s.kl_forget or s.kl_retain:  # line 3: update g_u by Eq 3.13
        params, metrics["kl"] = _descend(kl_loss, params, batch, "kl")
    if s.ce_forget or s.ce_retain:  # line 4: update g_u by Eq 3.14
        params, metrics["ce"] = _descend(ce_loss, params, batch, "ce")
    return params, metrics


def _descend(loss_fn: Any, params: CamuParams, batch: Tuples, which: str) -> tuple[CamuParams, jax.Array]:
    optimizer = getattr(params, f"{which}_optimizer")
    state = getattr(params, f"{which}_state")
    weights = params.variables["params"]
    (loss, stats), gradient = jax.value_and_grad(loss_fn, argnums=1, has_aux=True)(params, weights, batch)
    updates, state = optimizer.update(gradient, state, weights)
    variables = {"params": optax.apply_updates(weights, updates), "batch_stats": stats}
    return dataclasses.replace(params, variables=variables, **{f"{which}_state": state}), loss


camu_step = jax.jit(camu_update, donate_argnums=0)
"""`camu_step(params, batch) -> (params, metrics)`: `camu_update` as one XLA program.

`params` (`CamuParams`) is donated: use what is returned. `batch` is a `Tuples` of `[B, *image]`, e.g.
`jax.tree.map(lambda a: a[rows], S)`. `metrics` holds the two losses before their updates, `kl` and `ce`, `[]`.
Works inside `jax.jit`, `jax.lax.scan` and `jax.vmap`. Never changes `params.original`, and with both learning rates 0
no parameter.
"""
