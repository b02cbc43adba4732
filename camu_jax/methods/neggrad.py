"""NegGrad: gradient descent on the retain set and ascent on the forget set (NGrad in the CaMU paper, A.2.2).

    L = alpha * CE(f(x_r), y_r) - (1 - alpha) * CE(f(x_f), y_f)

Kurmanji et al., "Towards Unbounded Machine Unlearning", NeurIPS 2023, the baseline NegGrad+; official code:
github.com/meghdadk/SCRUB, `train_negrad`. The ascent has no bound there and may explode; here it stops, example by
example, at `forget_ceiling`.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from camu_jax import _validate, loop, losses
from camu_jax.optimizers import sgd_l2
from camu_jax.problem import Predictor, Problem
from camu_jax.training import TrainState
from camu_jax.types import Examples, Settings


@dataclasses.dataclass(frozen=True, kw_only=True)
class NegGrad(Settings):
    """NegGrad. Official: alpha 0.95 to 0.9999, no momentum and no ceiling; on `tiny` that forgets no class."""

    epochs: int = 5
    """Passes over the retain set; the forget set goes along, again and again."""
    batch_size: int = 32
    """Retain examples in a minibatch."""
    forget_batch_size: int = 32
    """Forget examples in a minibatch."""
    learning_rate: float = 0.01
    """SGD's learning rate."""
    momentum: float = 0.9
    """SGD's momentum."""
    l2: float = 0.0
    """L2 regularisation, added to the gradient."""
    alpha: float = 0.8
    """Weight of the descent; the ascent has 1 - alpha. At 1 this is fine-tuning on the retain set."""
    forget_ceiling: float | None = 1.0
    """A forget example is left alone while its cross-entropy is above this many log C; None never stops."""

    def __post_init__(self) -> None:
        _validate.at_least(1, epochs=self.epochs, batch_size=self.batch_size, forget_batch_size=self.forget_batch_size)
        _validate.at_least(0, learning_rate=self.learning_rate, l2=self.l2)
        _validate.between(0, 1, alpha=self.alpha, momentum=self.momentum)
        if self.forget_ceiling is not None:
            _validate.above(0, forget_ceiling=self.forget_ceiling)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class NegGradState:
    """The model under its optimizer; `settings` are static."""

    student: TrainState
    settings: NegGrad = dataclasses.field(metadata={"static": True})


def step(
    state: NegGradState, retain: Examples, forget: Examples, *, key: jax.Array
) -> tuple[NegGradState, dict[str, jax.Array]]:
    """One update by L. With BatchNorm the retain batch comes first, and each has its own statistics."""
    student, s = state.student, state.settings
    retain_key, forget_key, model_key = jax.random.split(key, 3)
    images = [student.pipeline.training(retain_key, retain.x), student.pipeline.training(forget_key, forget.x)]

    def loss_fn(params: Any) -> tuple[jax.Array, Any]:
        (out_r, out_f), stats = student.model.train({**student.variables, "params": params}, images, model_key)
        ce_retain = losses.cross_entropy(out_r.logits, retain.y)
        ce_forget = losses.cross_entropy(out_f.logits, forget.y)
        ascent = ce_forget
        if s.forget_ceiling is not None:
            ascent = jnp.minimum(ce_forget, s.forget_ceiling * math.log(forget.num_classes))
        loss = s.alpha * jnp.mean(ce_retain) - (1 - s.alpha) * jnp.mean(ascent)
        return loss, (stats, {"loss": loss, "ce_retain": jnp.mean(ce_retain), "ce_forget": jnp.mean(ce_forget)})

    gradient, (stats, metrics) = jax.grad(loss_fn, has_aux=True)(student.variables["params"])
    return dataclasses.replace(state, student=student.descend(gradient, stats)), metrics


def unlearn(key: jax.Array, problem: Problem, settings: NegGrad, *, progress: loop.Listener | None = None) -> Predictor:
    """Descends on the retain set and ascends on the forget set, starting from the original model."""
    problem.validate(with_original=True)
    s = settings
    optimizer = sgd_l2(s.learning_rate, s.momentum, s.l2)
    student = TrainState.create(problem.model, problem.original, problem.pipeline, optimizer)
    streams = loop.Stream(problem.retain, s.batch_size), loop.Stream(problem.forget, s.forget_batch_size)
    state = loop.run(step, NegGradState(student, s), *streams, key=key, epochs=s.epochs, progress=progress)
    return Predictor((state.student.variables,), problem.model, problem.pipeline)
