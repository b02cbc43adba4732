"""SCRUB: a student that disobeys its teacher on the forget set and obeys it on the retain set.

    d(x) = T^2 * KL(softmax(g_o(x) / T) || softmax(f(x) / T))
    max step (forget set, in the first `msteps` epochs): maximise d
    min step (retain set, in every epoch after the max steps): minimise gamma * CE(f(x), y) + alpha * d

Kurmanji et al., "Towards Unbounded Machine Unlearning", NeurIPS 2023; official code:
github.com/meghdadk/SCRUB. One optimizer serves both steps. At f = g_o the gradient of d is 0, so that the official
order starts at a stationary point: here `warmup` min passes come first. `rewind` is SCRUB+R.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp

from camu_jax import _validate, evaluate, loop, losses
from camu_jax.model import Variables
from camu_jax.optimizers import adam_l2, sgd_l2
from camu_jax.problem import Predictor, Problem
from camu_jax.training import TrainState
from camu_jax.types import Examples, Settings

Optimizer = Literal["adam", "sgd"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scrub(Settings):
    """SCRUB with the weights of the official large-scale notebook, and Adam."""

    epochs: int = 4
    """Passes over the retain set, those before the first max pass not counted."""
    msteps: int = 2
    """Epochs that begin with a max pass over the forget set."""
    warmup: int = 1
    """Min passes before the first epoch; 0 is the official order."""
    batch_size: int = 32
    """Retain examples in a minibatch."""
    forget_batch_size: int = 64
    """Forget examples in a minibatch; fewer, larger steps forget less violently."""
    optimizer: Optimizer = "adam"
    """adam, or sgd with momentum 0.9."""
    learning_rate: float = 5e-4
    """The optimizer's learning rate, for both steps."""
    decay_epochs: tuple[int, ...] = ()
    """After each of these epochs the learning rate is a tenth."""
    l2: float = 5e-4
    """L2 regularisation, added to the gradient."""
    gamma: float = 0.99
    """Weight of the cross-entropy of the retain set."""
    alpha: float = 0.001
    """Weight of the divergence from the teacher on the retain set; 0 removes it."""
    temperature: float = 4.0
    """T, softens the predictions of teacher and student."""
    rewind: bool = False
    """Return the epoch whose error on the forget set is nearest to the final one on unseen examples of its classes."""
    validation_share: float = 0.1
    """With rewind: share of the retain examples of the forget set's classes that is held out for that, one at least."""

    def __post_init__(self) -> None:
        _validate.at_least(1, epochs=self.epochs, batch_size=self.batch_size, forget_batch_size=self.forget_batch_size)
        _validate.at_least(0, msteps=self.msteps, warmup=self.warmup, learning_rate=self.learning_rate, l2=self.l2)
        _validate.at_least(0, gamma=self.gamma, alpha=self.alpha)
        _validate.above(0, temperature=self.temperature)
        _validate.between(0, 0.9, validation_share=self.validation_share)
        if self.rewind:
            _validate.above(0, validation_share=self.validation_share)
        _validate.one_of(get_args(Optimizer), optimizer=self.optimizer)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ScrubState:
    """The student under its optimizer.

    Attributes:
      student: the model being unlearned.
      teacher: variables of the original model; None where its logits come with the batch.
      decay: what the learning rate is multiplied with, `[]`.
      settings: static.
    """

    student: TrainState
    teacher: Any
    decay: jax.Array
    settings: Scrub = dataclasses.field(metadata={"static": True})


Batch = tuple[Examples, Any]
"""Examples, and the teacher's logits `[B, C]` or None."""


def max_step(state: ScrubState, batch: Batch, *, key: jax.Array) -> tuple[ScrubState, dict[str, jax.Array]]:
    """One update on forget examples, away from the teacher."""
    return _step(state, batch, key, gamma=0.0, alpha=-1.0)


def min_step(state: ScrubState, batch: Batch, *, key: jax.Array) -> tuple[ScrubState, dict[str, jax.Array]]:
    """One update on retain examples, towards their labels and the teacher."""
    return _step(state, batch, key, gamma=state.settings.gamma, alpha=state.settings.alpha)


def _step(
    state: ScrubState, batch: Batch, key: jax.Array, *, gamma: float, alpha: float
) -> tuple[ScrubState, dict[str, jax.Array]]:
    student, temperature = state.student, state.settings.temperature
    examples, target = batch
    augment_key, model_key = jax.random.split(key)
    x = student.pipeline.training(augment_key, examples.x)
    if alpha and target is None:
        target = student.model.eval(state.teacher, x).logits

    def loss_fn(params: Any) -> tuple[jax.Array, Any]:
        (out,), stats = student.model.train({**student.variables, "params": params}, [x], model_key)
        loss, metrics = jnp.zeros(()), {}
        if gamma:
            metrics["ce"] = jnp.mean(losses.cross_entropy(out.logits, examples.y))
            loss += gamma * metrics["ce"]
        if alpha:
            divergence = losses.distillation_kl(out.logits, jax.lax.stop_gradient(target), temperature=temperature)
            metrics["divergence"] = temperature**2 * jnp.mean(divergence)
            loss += alpha * metrics["divergence"]
        return loss, (stats, metrics)

    gradient, (stats, metrics) = jax.grad(loss_fn, has_aux=True)(student.variables["params"])
    return dataclasses.replace(state, student=student.descend(gradient, stats, decay=state.decay)), metrics


def students(
    key: jax.Array, problem: Problem, settings: Scrub, *, progress: loop.Listener | None = None
) -> Iterator[Variables]:
    """The student after each epoch: passes of max steps and of min steps over the problem's two sets.

    Where nothing is augmented, the teacher sees each example once.
    """
    s, model, pipeline = settings, problem.model, problem.pipeline
    teacher = Predictor((problem.original,), model, pipeline)

    def with_targets(examples: Examples, needed: bool) -> Batch:
        cached = needed and pipeline.augment == "none"
        return examples, evaluate.outputs(teacher, examples.x).logits if cached else None

    max_pass = max_step, loop.Stream(with_targets(problem.forget, s.msteps > 0), s.forget_batch_size)
    min_pass = min_step, loop.Stream(with_targets(problem.retain, s.alpha > 0), s.batch_size)
    epochs = [[min_pass] * s.warmup] + [[max_pass] * (e <= s.msteps) + [min_pass] for e in range(1, s.epochs + 1)]

    optimizer = adam_l2(s.learning_rate, s.l2) if s.optimizer == "adam" else sgd_l2(s.learning_rate, 0.9, s.l2)
    student = TrainState.create(model, problem.original, pipeline, optimizer)
    state = ScrubState(student, None if pipeline.augment == "none" else problem.original, jnp.ones(()), s)
    number = done = 0
    steps = sum(stream.batches for passes in epochs for _, stream in passes)
    for epoch, passes in enumerate(epochs):
        state = dataclasses.replace(state, decay=jnp.float32(0.1 ** sum(d < epoch for d in s.decay_epochs)))
        for step, stream in passes:
            listener = loop.part(progress, done, steps)
            state = loop.run(step, state, stream, key=key, epochs=1, first_epoch=number, progress=listener)
            number, done = number + 1, done + stream.batches
        if epoch:
            yield state.student.variables


def unlearn(key: jax.Array, problem: Problem, settings: Scrub, *, progress: loop.Listener | None = None) -> Predictor:
    """Returns the last student, or with `rewind` the one whose error on the forget set is as if it were unseen.

    With `rewind` the result's `info` holds the epoch. Where no retain example is of the forget set's classes (class
    removal) there is nothing to compare with, and nothing to rewind: as much as possible shall be forgotten.
    """
    problem.validate(with_original=True)
    rows_key, loop_key = jax.random.split(key)
    retain, unseen = hold_out(rows_key, problem, settings)
    epochs = students(loop_key, dataclasses.replace(problem, retain=retain), settings, progress=progress)
    if unseen is None:
        *_, last = epochs
        return Predictor((last,), problem.model, problem.pipeline)

    def accuracy(variables: Variables, examples: Examples) -> float:
        predictor = Predictor((variables,), problem.model, problem.pipeline)
        return evaluate.accuracy(evaluate.outputs(predictor, examples.x).logits, examples.y)

    candidates = list(epochs)
    target = accuracy(candidates[-1], unseen)
    distance = [abs(accuracy(variables, problem.forget) - target) for variables in candidates]
    best = distance.index(min(distance))
    info = {"epoch": jnp.float32(best + 1)}
    return Predictor((candidates[best],), problem.model, problem.pipeline, info=info)


def hold_out(key: jax.Array, problem: Problem, settings: Scrub) -> tuple[Examples, Examples | None]:
    """The retain examples to train on, and those held out for rewinding (None: no rewinding)."""
    if not settings.rewind:
        return problem.retain, None
    same_class = jnp.flatnonzero(jnp.isin(problem.retain.y, problem.forget.y))
    wanted = max(1, round(settings.validation_share * len(same_class)))
    count = min(wanted, len(same_class), len(problem.retain) - 1)  # something stays to be trained on
    if not count:
        return problem.retain, None
    held = jax.random.permutation(key, same_class)[:count]
    kept = jnp.ones(len(problem.retain), bool).at[held].set(False)
    return problem.retain.pick(jnp.flatnonzero(kept)), problem.retain.pick(held)
