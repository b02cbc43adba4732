"""Bad teaching: learn the forget set from an incompetent teacher, the retain set from a competent one (T-S).

    L = 1/(B * C) * sum_i KL(teacher_i(x_i) || f(x_i)),  teacher_i = bad on the forget set, good on the retain set

Chundawat et al., "Can Bad Teaching Induce Forgetting?", AAAI 2023; official code:
github.com/vikram2000b/bad-teaching-unlearning. The good teacher is the original model, the bad one is a random
initialisation. The CaMU paper (A.2.2) describes two teachers trained on the forget and on the retain set instead:
`teachers="retrained"`. The first of these knows the forget set by heart, and so forgets nothing.
"""

import dataclasses
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp

from camu_jax import _validate, evaluate, loop, losses
from camu_jax.model import Variables
from camu_jax.optimizers import adam_l2
from camu_jax.problem import Predictor, Problem
from camu_jax.rows import concatenate
from camu_jax.training import TrainSettings, TrainState, train
from camu_jax.types import Settings

Teachers = Literal["official", "retrained"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class BadTeacher(Settings):
    """Bad teaching. The official notebook has minibatches of 256 and a learning rate of 1e-4."""

    epochs: int = 1
    """Passes over the forget examples and the chosen retain examples."""
    batch_size: int = 32
    """Examples in a minibatch, forget and retain mixed."""
    learning_rate: float = 3e-4
    """Adam's learning rate."""
    l2: float = 0.0
    """L2 regularisation, added to the gradient before Adam's moments."""
    retain_share: float = 0.3
    """Share of the retain set that is used, drawn once."""
    temperature: float = 1.0
    """Softens the predictions of the teachers and of the student."""
    teachers: Teachers = "official"
    """official: a random initialisation and the original model; retrained: trained on the forget and retain set."""
    teacher_epochs: int = 10
    """Passes of the retrained teachers over their sets."""
    teacher_learning_rate: float = 1e-3
    """Adam's learning rate for the retrained teachers."""

    def __post_init__(self) -> None:
        _validate.at_least(1, epochs=self.epochs, batch_size=self.batch_size, teacher_epochs=self.teacher_epochs)
        _validate.at_least(0, learning_rate=self.learning_rate, l2=self.l2)
        _validate.at_least(0, teacher_learning_rate=self.teacher_learning_rate)
        _validate.between(0, 1, retain_share=self.retain_share)
        _validate.above(0, temperature=self.temperature)
        _validate.one_of(get_args(Teachers), teachers=self.teachers)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class BadTeacherState:
    """The student under its optimizer.

    Attributes:
      student: the model being unlearned.
      teachers: variables of the bad and the good teacher; None where their logits come with the batch.
      temperature: static.
    """

    student: TrainState
    teachers: Any
    temperature: float = dataclasses.field(metadata={"static": True})


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Lesson:
    """Rows of the mixed data set.

    Attributes:
      x: stored images, `[B, h, w, c]`, or other inputs.
      forget: whether the bad teacher teaches the row, `[B]`.
      target: the row's teacher's logits, `[B, C]`; None where `step` asks the teachers.
    """

    x: jax.Array
    forget: jax.Array
    target: jax.Array | None


def step(state: BadTeacherState, batch: Lesson, *, key: jax.Array) -> tuple[BadTeacherState, dict[str, jax.Array]]:
    """One update by L."""
    student = state.student
    augment_key, model_key = jax.random.split(key)
    x = student.pipeline.training(augment_key, batch.x)
    target = batch.target
    if target is None:
        bad, good = (student.model.eval(teacher, x).logits for teacher in state.teachers)
        target = jnp.where(batch.forget[:, None], bad, good)
    target = jax.lax.stop_gradient(target)

    def loss_fn(params: Any) -> tuple[jax.Array, Any]:
        (out,), stats = student.model.train({**student.variables, "params": params}, [x], model_key)
        divergence = losses.distillation_kl(out.logits, target, temperature=state.temperature)
        return jnp.mean(divergence) / out.logits.shape[-1], stats

    (loss, stats), gradient = jax.value_and_grad(loss_fn, has_aux=True)(student.variables["params"])
    return dataclasses.replace(state, student=student.descend(gradient, stats)), {"loss": loss}


def unlearn(
    key: jax.Array, problem: Problem, settings: BadTeacher, *, progress: loop.Listener | None = None
) -> Predictor:
    """Distils both teachers into the original model. Where nothing is augmented, each example asks its teacher once."""
    problem.validate(with_original=True)
    s, model, pipeline = settings, problem.model, problem.pipeline
    rows_key, teacher_key, loop_key = jax.random.split(key, 3)
    rows = jax.random.permutation(rows_key, len(problem.retain))[: round(s.retain_share * len(problem.retain))]
    retain = problem.retain.pick(rows)
    teachers: Any = make_teachers(teacher_key, problem, s)

    target = None
    if pipeline.augment == "none":
        pairs = zip(teachers, (problem.forget.x, retain.x), strict=True)
        logits = [evaluate.outputs(Predictor((v,), model, pipeline), x).logits for v, x in pairs if len(x)]
        target, teachers = jnp.concatenate(logits), None
    forget = jnp.arange(len(problem.forget) + len(retain)) < len(problem.forget)
    lessons = Lesson(concatenate([problem.forget.x, retain.x]), forget, target)

    student = TrainState.create(model, problem.original, pipeline, adam_l2(s.learning_rate, s.l2))
    state = BadTeacherState(student, teachers, s.temperature)
    stream = loop.Stream(lessons, s.batch_size)
    state = loop.run(step, state, stream, key=loop_key, epochs=s.epochs, progress=progress)
    return Predictor((state.student.variables,), model, pipeline)


def make_teachers(key: jax.Array, problem: Problem, settings: BadTeacher) -> tuple[Variables, Variables]:
    """The bad and the good teacher."""
    if settings.teachers == "official":
        return jax.jit(problem.model.init)(key), problem.original
    training = TrainSettings(epochs=settings.teacher_epochs, learning_rate=settings.teacher_learning_rate)
    bad, good = (
        train(k, problem.model, examples, training, pipeline=problem.pipeline)
        for k, examples in zip(jax.random.split(key), (problem.forget, problem.retain), strict=True)
    )
    return bad, good
