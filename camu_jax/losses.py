"""KL on embeddings (Eqs 3.11, 3.13), cross-entropy on logits (Eqs 3.12, 3.14), and distillation for the baselines."""

from typing import Literal

import jax
import jax.numpy as jnp
import optax

Direction = Literal["target_model", "model_target"]
Reduction = Literal["sum", "mean"]


def embedding_kl(embedding: jax.Array, target: jax.Array, *, direction: Direction = "target_model") -> jax.Array:
    """KL divergence between two embeddings, each read as a distribution by a softmax over its dimensions.

    Non-negative up to rounding, zero when the embeddings differ by a constant. Computed in float32 at least.

    Args:
      embedding: the model's embedding, `[..., D]`.
      target: what it should look like, `[..., D]`. Gradients flow into both.
      direction: `target_model` is KL(target || model), as in the authors' code; `model_target` is
        KL(model || target), as Eq 3.13 writes it.

    Returns:
      `[...]`, in nats.
    """
    model, target = (jax.nn.log_softmax(_at_least_float32(e), axis=-1) for e in (embedding, target))
    first, second = (target, model) if direction == "target_model" else (model, target)
    return optax.losses.kl_divergence_with_log_targets(log_predictions=second, log_targets=first)


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Cross-entropy of integer labels, in nats: `[..., C]`, `[...]` -> `[...]`, in float32 at least."""
    return optax.losses.softmax_cross_entropy_with_integer_labels(_at_least_float32(logits), labels)


def distillation_kl(logits: jax.Array, target: jax.Array, *, temperature: float = 1.0) -> jax.Array:
    """KL(softmax(target / T) || softmax(logits / T)), teacher's logits first: two `[..., C]` -> `[...]`, in nats."""
    return embedding_kl(logits / temperature, target / temperature)


def reduce(values: jax.Array, how: Reduction) -> jax.Array:
    """Sum or mean of per-example losses over the minibatch: `[B]` -> `[]`."""
    return jnp.sum(values) if how == "sum" else jnp.mean(values)


def _at_least_float32(x: jax.Array) -> jax.Array:
    return x.astype(jnp.float32) if jnp.finfo(x.dtype).bits < 32 else x
