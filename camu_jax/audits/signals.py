"""What an attack looks at: one number an example."""

import jax
import jax.numpy as jnp


def margin(logits: jax.Array, y: jax.Array) -> jax.Array:
    """The logit-scaled confidence log p_y - log(1 - p_y) of Carlini et al. (IEEE S&P 2022), which is KLoM's margin.

    Args:
      logits: `[..., C]`, C at least 2.
      y: labels, `[...]`.

    Returns:
      f_y - logsumexp over the other classes, float32, `[...]`. Finite where the logits are.
    """
    logits = logits.astype(jnp.float32)
    own = jax.nn.one_hot(y, logits.shape[-1], dtype=bool)
    others = jax.nn.logsumexp(jnp.where(own, -jnp.inf, logits), axis=-1)
    return jnp.take_along_axis(logits, y[..., None], axis=-1)[..., 0] - others


def loss(logits: jax.Array, y: jax.Array) -> jax.Array:
    """The cross-entropy, `[..., C]`, `[...]` -> `[...]`."""
    return jax.nn.softplus(-margin(logits, y))


def entropy(logits: jax.Array) -> jax.Array:
    """The entropy of the prediction in nats, `[..., C]` -> `[...]`."""
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
    return -jnp.sum(jnp.exp(log_p) * log_p, axis=-1)


def modified_entropy(logits: jax.Array, y: jax.Array) -> jax.Array:
    """Song and Mittal's modified entropy (USENIX Security 2021): an entropy that knows the label.

        -(1 - p_y) log p_y - sum over c != y of p_c log(1 - p_c)

    It is 0 where the model is sure of y, and large where it is sure of another class.

    Args:
      logits: `[..., C]`.
      y: labels, `[...]`.

    Returns:
      `[...]`, float32, in nats.
    """
    classes = jnp.arange(logits.shape[-1], dtype=y.dtype)
    one_against_rest = jnp.moveaxis(
        jax.vmap(lambda c: margin(logits, jnp.broadcast_to(c, y.shape)))(classes), 0, -1
    )  # log p_c - log(1 - p_c), so that both logarithms keep their digits
    log_p, log_q = -jax.nn.softplus(-one_against_rest), -jax.nn.softplus(one_against_rest)
    own = jax.nn.one_hot(y, logits.shape[-1], dtype=bool)
    terms = jnp.where(own, jnp.exp(log_q) * log_p, jnp.exp(log_p) * log_q)
    return -jnp.sum(terms, axis=-1)
