"""Boundary Unlearning: give the forget set to its nearest wrong class (Shrink), or to a shadow class (Expand).

    Shrink: minimise CE(f(x), y'),  y' = argmax_{c != y} g_o(x')_c,  x' = clip(x + epsilon * sign(grad_x CE(g_o(x), y)))
    Expand: minimise CE(f^{C+1}(x), C) with one more logit, which is then dropped

Chen et al., "Boundary Unlearning: Rapid Forgetting of Deep Networks via Shifting the Decision Boundary", CVPR 2023;
official code: github.com/TY-LEE-KR/Boundary-Unlearning-Code. Both update on the forget set only: they are ordinary
training steps on changed labels. Designed to forget one whole class; with random examples the others suffer too.
"""

import dataclasses
import functools
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp

from camu_jax import _validate, loop
from camu_jax.images import Pipeline
from camu_jax.model import Model, Variables
from camu_jax.optimizers import sgd_l2
from camu_jax.problem import Predictor, Problem
from camu_jax.training import TrainState, train_step
from camu_jax.types import Examples, Outputs, Settings

Variant = Literal["shrink", "expand"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Boundary(Settings):
    """Boundary Shrink or Expand. The official learning rate, 1e-5, is that of another network; tune it."""

    variant: Variant = "shrink"
    """shrink: nearest wrong labels; expand: a shadow class."""
    epochs: int = 10
    """Passes over the forget set."""
    batch_size: int = 64
    """Forget examples in a minibatch."""
    learning_rate: float = 1e-4
    """SGD's learning rate."""
    momentum: float = 0.9
    """SGD's momentum."""
    l2: float = 0.0
    """L2 regularisation, added to the gradient."""
    epsilon: float = 0.1
    """Length of the adversarial step of shrink, in pixels from 0 to 1."""
    keep_uncrossed: bool = False
    """As the official code: where the adversarial step crosses no boundary, train on y itself, so that F is learned."""

    def __post_init__(self) -> None:
        _validate.one_of(get_args(Variant), variant=self.variant)
        _validate.at_least(1, epochs=self.epochs, batch_size=self.batch_size)
        _validate.at_least(0, learning_rate=self.learning_rate, l2=self.l2)
        _validate.between(0, 1, momentum=self.momentum, epsilon=self.epsilon)


def nearest_labels(
    model: Model,
    variables: Variables,
    pipeline: Pipeline,
    examples: Examples,
    *,
    epsilon: float = 0.1,
    keep_uncrossed: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """The nearest but incorrect labels, found by one untargeted FGSM step in pixel space.

    Images stored as uint8 stay in [0, 1] and on the grid of k/255. Of floating images the range is not known: they are
    neither clipped nor rounded, and `epsilon` is in their units.

    Args:
      model: the model.
      variables: of the original model; used in evaluation mode.
      pipeline: how stored images become inputs; nothing is augmented.
      examples: the forget set.
      epsilon: length of the step.
      keep_uncrossed: take the prediction even where it is y; else no label equals y.

    Returns:
      Labels `[N]`, and whether each adversarial image crossed the decision boundary (is not predicted as y), `[N]`.

    Raises:
      TypeError: the inputs are neither uint8 nor floating: there is no step from one token to the next.
    """
    why = "it takes a step along their gradient (expand does not)"
    _validate.with_arithmetic("forget", examples.x.dtype, "Boundary's shrink", why)
    parts = []
    for start in range(0, len(examples), 500):
        batch = examples[start : start + 500]
        parts.append(_nearest(model, pipeline, keep_uncrossed, variables, batch, jnp.float32(epsilon)))
    labels, crossed = jax.tree.map(lambda *a: jnp.concatenate(a), *parts)
    return labels, crossed


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _nearest(
    model: Model, pipeline: Pipeline, keep_uncrossed: bool, variables: Variables, batch: Examples, epsilon: jax.Array
) -> tuple[jax.Array, jax.Array]:
    stored = batch.x.dtype == jnp.uint8
    pixels = batch.x.astype(jnp.float32) / 255 if stored else batch.x

    def others(logits: jax.Array) -> jax.Array:
        return jnp.where(jax.nn.one_hot(batch.y, logits.shape[-1], dtype=bool), -jnp.inf, logits)

    def margin(pixels: jax.Array) -> jax.Array:
        """CE = log(1 + exp(margin)): the same sign, also where the model is so sure that float32 rounds CE to 0."""
        logits = model.eval(variables, pipeline.normalise(pixels) if stored else pixels).logits
        own = jnp.take_along_axis(logits, batch.y[:, None], axis=-1)[:, 0]
        return jnp.sum(jax.nn.logsumexp(others(logits), axis=-1) - own)

    adversarial = pixels + epsilon.astype(pixels.dtype) * jnp.sign(jax.grad(margin)(pixels))
    if stored:
        adversarial = jnp.round(255 * jnp.clip(adversarial, 0, 1)).astype(jnp.uint8)
    logits = model.eval(variables, pipeline.clean(adversarial)).logits
    predicted = jnp.argmax(logits, axis=-1).astype(batch.y.dtype)
    crossed = predicted != batch.y
    if keep_uncrossed:
        return predicted, crossed
    return jnp.argmax(others(logits), axis=-1).astype(batch.y.dtype), crossed


def expanded(model: Model, image: jax.ShapeDtypeStruct) -> Model:
    """The model with one more class: its logit is a linear function of the embedding, `params["shadow"]`.

    `image` is as for `expand`.

    The official code widens the last layer. Where that layer reads the embedding (ResNet-18), this is the same;
    where only linear layers lie between (the paper's CNN), both can express the same logits.
    """

    def init(key: jax.Array) -> Variables:
        model_key, shadow_key = jax.random.split(key)
        return expand(shadow_key, model, model.init(model_key), image)

    def apply(variables: Variables, x: jax.Array, *, train: bool, key: jax.Array | None = None) -> tuple[Outputs, Any]:
        params = variables["params"]
        out, stats = model.apply({**variables, "params": params["model"]}, x, train=train, key=key)
        shadow = out.embedding @ params["shadow"]["kernel"] + params["shadow"]["bias"].reshape(1, 1)
        return Outputs(jnp.concatenate([out.logits, shadow], axis=-1), out.embedding), stats

    return Model(init=init, apply=apply)


def expand(key: jax.Array, model: Model, variables: Variables, image: jax.ShapeDtypeStruct) -> Variables:
    """Variables of `expanded(model, image)`: the given ones, and a fresh shadow class (Xavier normal, bias 0).

    Args:
      key: a `jax.random` key; consumed.
      model: the model without the shadow class.
      variables: its variables.
      image: shape and dtype of one model input, `[1, *image]`.

    Returns:
      `{"params": {"model", "shadow"}, "batch_stats"}`.

    Raises:
      ValueError: the model returns no embedding.
    """
    out = jax.eval_shape(model.eval, variables, image)
    if out.embedding is None:
        raise ValueError("model returns no embedding; allowed with variant expand: (logits, embedding)")
    width, classes = out.embedding.shape[-1], out.logits.shape[-1]
    scale = (2 / (width + classes + 1)) ** 0.5
    shadow = {
        "kernel": scale * jax.random.normal(key, (width, 1), out.embedding.dtype),
        "bias": jnp.zeros((1,), out.embedding.dtype),
    }
    return {**variables, "params": {"model": variables["params"], "shadow": shadow}}


def unlearn(
    key: jax.Array, problem: Problem, settings: Boundary, *, progress: loop.Listener | None = None
) -> Predictor:
    """Moves the decision boundary over the forget set; it learns nothing of the retain set.

    As in the official code nothing is augmented: the nearest label belongs to the clean image. The result's `info`
    holds the share of forget examples whose adversarial image `crossed` the boundary (Shrink).
    """
    problem.validate(with_original=True)
    s, forget, model, variables = settings, problem.forget, problem.model, problem.original
    pipeline = dataclasses.replace(problem.pipeline, augment="none")
    head_key, loop_key = jax.random.split(key)
    info = {}
    if s.variant == "shrink":
        labels, crossed = nearest_labels(
            model, variables, pipeline, forget, epsilon=s.epsilon, keep_uncrossed=s.keep_uncrossed
        )
        relabelled = dataclasses.replace(forget, y=labels)
        info["crossed"] = jnp.mean(crossed.astype(jnp.float32))
    else:
        shadow = jnp.full(len(forget), forget.num_classes, jnp.int32)  # a class more, which the labels may not hold
        relabelled = Examples(forget.x, shadow, forget.num_classes + 1)
        image = jax.eval_shape(pipeline.clean, forget.x[:1])
        variables = expand(head_key, model, variables, image)
        model = expanded(model, image)
    state = TrainState.create(model, variables, pipeline, sgd_l2(s.learning_rate, s.momentum, s.l2))
    stream = loop.Stream(relabelled, s.batch_size)
    state = loop.run(train_step, state, stream, key=loop_key, epochs=s.epochs, progress=progress)
    variables = state.variables
    if s.variant == "expand":
        variables = {**variables, "params": variables["params"]["model"]}
    return Predictor((variables,), problem.model, problem.pipeline, info=info)
