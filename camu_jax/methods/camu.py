"""CaMU as a method: Algorithm 1 prepares the tuples, the shared loop runs Algorithm 2 over them."""

import contextlib
import dataclasses
import math
import warnings
from collections.abc import Callable
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from camu_jax import _validate, evaluate, loop
from camu_jax.camu import CE_LEARNING_RATE, KL_LEARNING_RATE, CamuLosses, CamuParams, camu_update, init_camu
from camu_jax.images import Pipeline
from camu_jax.optimizers import adam_l2
from camu_jax.problem import Predictor, Problem
from camu_jax.rows import in_host_memory
from camu_jax.tuples import LabelRule, draw_rows, pair_tuples
from camu_jax.types import Examples, Tuples

Pairing = Literal["independent", "tuple"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Camu(CamuLosses):
    """Every choice of CaMU. The defaults are the preset `reference`: the authors' code for MNIST, random removal."""

    epochs: int = 10
    """Passes over the joined data set (T in Algorithm 2)."""
    batch_size: int = 32
    """Tuples in a minibatch."""
    kl_learning_rate: float = KL_LEARNING_RATE
    """Adam's learning rate for the KL update (Eq 3.13)."""
    ce_learning_rate: float = CE_LEARNING_RATE
    """Adam's learning rate for the cross-entropy update (Eq 3.14)."""
    l2: float = 1e-4
    """L2 regularisation, added to the gradient before Adam's moments, in both updates."""
    labels: LabelRule = "retain"
    """uniform: y* is uniform over all labels but y_f; retain: y* is the retain example's label unless it is y_f."""
    replace: bool = False
    """Whether a retain example may be drawn again while others were not drawn at all."""
    pairing: Pairing = "independent"
    """tuple: the minibatch's retain examples are those behind its counterfactuals; independent: shuffled apart."""
    repeat: int = 1
    """How often the forget set is repeated (the paper: 10 for C100 class removal)."""
    mask_scale: float = 1.0
    """The mask of a counterfactual is uniform in [0, mask_scale); take the length of the inputs' range."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _validate.at_least(1, epochs=self.epochs, batch_size=self.batch_size, repeat=self.repeat)
        _validate.at_least(0, kl_learning_rate=self.kl_learning_rate, ce_learning_rate=self.ce_learning_rate)
        _validate.at_least(0, l2=self.l2)
        _validate.above(0, mask_scale=self.mask_scale)
        _validate.one_of(get_args(LabelRule), labels=self.labels)
        _validate.one_of(get_args(Pairing), pairing=self.pairing)

    @classmethod
    def reference(cls, **changes: Any) -> "Camu":
        """What the authors' code does; it reproduces the paper's tables."""
        return cls(**changes)

    @classmethod
    def paper(cls, **changes: Any) -> "Camu":
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

    @property
    def tuples(self) -> dict[str, Any]:
        """What `make_tuples` needs of these settings: `make_tuples(key, F, R, **settings.tuples)`."""
        return {"labels": self.labels, "replace": self.replace, "mask_scale": self.mask_scale}

    @property
    def losses(self) -> CamuLosses:
        """What `init_camu` needs of them: `init_camu(model, variables, settings.losses)`."""
        return CamuLosses(**{field.name: getattr(self, field.name) for field in dataclasses.fields(CamuLosses)})


ABLATIONS: dict[str, dict[str, float]] = {
    "finetune": {"kl_forget": 0.0, "kl_retain": 0.0, "ce_forget": 0.0},
    "no_counterfactual": {"kl_forget": 0.0, "ce_forget": 0.0},
    "no_retain_embedding": {"kl_retain": 0.0},
}
"""The ablations of section 4.3 (Tables 6 and 7): changes of `Camu`, for `dataclasses.replace`."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _State:
    camu: CamuParams
    pipeline: Pipeline = dataclasses.field(metadata={"static": True})


def unlearn(key: jax.Array, problem: Problem, settings: Camu, *, progress: loop.Listener | None = None) -> Predictor:
    """Unlearns the forget set with CaMU.

    As in the authors' code, forget and counterfactual images are augmented once and retain images anew in each step.
    Where nothing is augmented, the original model's embeddings of the retain and counterfactual images never change
    and are computed once.

    Raises:
      TypeError, ValueError: as `Problem.validate`; the inputs are neither uint8 nor floating; or the model returns no
        embedding and the KL update is wanted.

    Warns:
      UserWarning: the inputs are spread so widely that the mask changes next to nothing.
    """
    problem.validate(with_original=True)
    _validate.with_arithmetic("forget", problem.forget.x.dtype, "Camu", "a counterfactual is an input plus noise")
    _warn_of_wide_inputs(problem, settings.mask_scale)
    s, pipeline = settings, problem.pipeline
    rows_key, forget_key, retain_key, pair_key, loop_key = jax.random.split(key, 5)

    # Algorithm 1: the joined data set S.
    forget = problem.forget.pick(jnp.tile(jnp.arange(len(problem.forget)), s.repeat))
    retain = problem.retain.pick(draw_rows(rows_key, len(forget), len(problem.retain), replace=s.replace))
    streamed = in_host_memory(forget.x)  # then S lies in host memory as well
    with jax.default_device(jax.local_devices(backend="cpu")[0]) if streamed else contextlib.nullcontext():
        F, R_star = _prepare(pipeline, forget_key, forget), _prepare(pipeline, retain_key, retain)
        drawn = pair_tuples(pair_key, F, R_star, labels=s.labels, mask_scale=s.mask_scale)
    place: Callable[..., Any] = jax.device_get if streamed else lambda tree: tree
    S = dataclasses.replace(place(drawn), retain=retain)
    del drawn, R_star  # augmented retain images, which each step makes anew
    if s.kl_forget and s.counterfactual_embedding == "frozen":
        S = dataclasses.replace(S, counterfactual_embedding=place(_embed(problem, S.counterfactual.x)))
    if s.kl_retain and pipeline.augment == "none":
        S = dataclasses.replace(S, retain_embedding=place(_embed(problem, S.retain.x)))

    # Algorithm 2: minibatch by minibatch.
    step: loop.Step = _paired_step
    rows: tuple[Any, ...] = (S,)
    if s.pairing == "independent":
        step = _independent_step
        rows = (S.forget, S.counterfactual, S.counterfactual_embedding), (S.retain, S.retain_embedding)
    streams = [loop.Stream(part, s.batch_size) for part in rows]
    camu = init_camu(
        problem.model,
        problem.original,
        s.losses,
        kl_optimizer=adam_l2(s.kl_learning_rate, s.l2),
        ce_optimizer=adam_l2(s.ce_learning_rate, s.l2),
    )
    # `init_camu` has made copies: nothing else has these buffers.
    state = loop.run(
        step, _State(camu, pipeline), *streams, key=loop_key, epochs=s.epochs, progress=progress, donate=True
    )
    return Predictor((state.camu.variables,), problem.model, pipeline)


def _prepare(pipeline: Pipeline, key: jax.Array, examples: Examples) -> Examples:
    """Model inputs of stored examples, augmented once."""
    return dataclasses.replace(examples, x=pipeline.training(key, examples.x))


def _warn_of_wide_inputs(problem: Problem, mask_scale: float) -> None:
    """Warns where a mask of this scale is next to nothing beside the spread of the inputs, of 1 000 at most."""
    x = problem.forget.x
    if not _validate.is_concrete(x):
        return
    with jax.ensure_compile_time_eval():  # within somebody's jit the closed-over inputs are concrete still
        inputs = problem.pipeline.clean(x[: min(1000, 1 + 2**21 // math.prod(x.shape[1:]))])
        some = np.asarray(inputs, np.float64)
    if some.std() > 10 * mask_scale:
        warnings.warn(
            f"mask_scale is {mask_scale:g} and the standard deviation of the inputs {some.std():.3g}: the mask, "
            "uniform from 0 to mask_scale, makes next to no difference to them; set mask_scale to the length of their "
            f"range, about {np.ptp(some):.3g}, or give inputs of a smaller range",
            stacklevel=4,
        )


def _embed(problem: Problem, x: jax.Array) -> jax.Array | None:
    original = Predictor((problem.original,), problem.model, problem.pipeline)
    return evaluate.outputs(original, x).embedding


def _paired_step(state: _State, batch: Tuples, *, key: jax.Array) -> tuple[_State, dict[str, jax.Array]]:
    augment_key, camu_key = jax.random.split(key)
    retain = dataclasses.replace(batch.retain, x=state.pipeline.training(augment_key, batch.retain.x))
    camu = dataclasses.replace(state.camu, key=camu_key)
    camu, metrics = camu_update(camu, dataclasses.replace(batch, retain=retain))
    return dataclasses.replace(state, camu=dataclasses.replace(camu, key=None)), metrics


def _independent_step(state: _State, pairs: Any, kept: Any, *, key: jax.Array) -> tuple[_State, dict[str, jax.Array]]:
    (forget, counterfactual, counterfactual_embedding), (retain, retain_embedding) = pairs, kept
    batch = Tuples(forget, counterfactual, retain, counterfactual_embedding, retain_embedding)
    return _paired_step(state, batch, key=key)
