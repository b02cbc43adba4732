"""CaMU as a method: Algorithm 1 prepares the tuples, the shared loop runs Algorithm 2 over them."""

import contextlib
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from camu_jax import evaluate, loop
from camu_jax.camu import CamuParams, CamuSettings, camu_update, init_camu
from camu_jax.images import Pipeline
from camu_jax.problem import Predictor, Problem
from camu_jax.tuples import draw_rows, pair_tuples
from camu_jax.types import Examples, Tuples


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _State:
    camu: CamuParams
    pipeline: Pipeline = dataclasses.field(metadata={"static": True})


def unlearn(key: jax.Array, problem: Problem, settings: CamuSettings) -> Predictor:
    """Unlearns the forget set with CaMU.

    As in the authors' code, forget and counterfactual images are augmented once and retain images anew in each step.
    Where nothing is augmented, the original model's embeddings of the retain and counterfactual images never change
    and are computed once.
    """
    problem.validate()
    rows_key, forget_key, retain_key, pair_key, loop_key = jax.random.split(key, 5)
    pipeline = problem.pipeline

    forget = problem.forget[jnp.tile(jnp.arange(len(problem.forget)), settings.repeat)]
    retain = problem.retain[draw_rows(rows_key, len(forget), len(problem.retain), replace=settings.replace)]
    streamed = isinstance(problem.forget.x, np.ndarray)  # then S lies in host memory as well
    with jax.default_device(jax.local_devices(backend="cpu")[0]) if streamed else contextlib.nullcontext():
        drawn = pair_tuples(
            pair_key,
            _prepare(pipeline, forget_key, forget),
            _prepare(pipeline, retain_key, retain),
            labels=settings.labels,
        )
    drawn = jax.device_get(drawn) if streamed else drawn
    S = dataclasses.replace(drawn, retain=retain)
    del drawn  # it holds augmented retain images, which each step makes anew
    if settings.kl_forget and settings.counterfactual_embedding == "frozen":
        S = dataclasses.replace(S, counterfactual_embedding=_embed(problem, S.counterfactual.x))
    if settings.kl_retain and pipeline.augment == "none":
        S = dataclasses.replace(S, retain_embedding=_embed(problem, S.retain.x))
    S = jax.device_get(S) if streamed else S

    step: loop.Step = _paired_step
    rows: tuple[Any, ...] = (S,)
    if settings.pairing == "independent":
        step = _independent_step
        rows = (S.forget, S.counterfactual, S.counterfactual_embedding), (S.retain, S.retain_embedding)
    streams = [loop.Stream(part, settings.batch_size) for part in rows]
    state = _State(init_camu(problem.model, problem.original, settings), pipeline)
    epochs, progress = settings.epochs, problem.progress
    # `init_camu` has made copies: nothing else has these buffers.
    state = loop.run(step, state, *streams, key=loop_key, epochs=epochs, progress=progress, donate=True)
    return Predictor((state.camu.variables,), problem.model, pipeline)


def cost(problem: Problem, settings: CamuSettings) -> float:
    """Forward-pass equivalents of the settings in use (14 a forget example and epoch in the authors' code)."""
    n = float(len(problem.forget) * settings.repeat)
    once = each = 0.0
    if settings.kl_forget:
        each += 3.0
        if settings.counterfactual_embedding == "frozen":
            once += 1.0
        else:
            each += 3.0
    if settings.kl_retain:
        each += 3.0
        if problem.pipeline.augment == "none":
            once += 1.0
        else:
            each += 1.0
    each += 3.0 * bool(settings.ce_forget) + 3.0 * bool(settings.ce_retain)
    return n * (once + each * settings.epochs)


def _prepare(pipeline: Pipeline, key: jax.Array, examples: Examples) -> Examples:
    """Model inputs of stored examples, augmented once."""
    return dataclasses.replace(examples, x=pipeline.training(key, examples.x))


def _embed(problem: Problem, x: jax.Array) -> jax.Array:
    original = Predictor((problem.original,), problem.model, problem.pipeline)
    return evaluate.outputs(original, x).embedding


def _paired_step(state, batch, *, key):  # type: ignore[no-untyped-def]
    retain = dataclasses.replace(batch.retain, x=state.pipeline.training(key, batch.retain.x))
    camu, metrics = camu_update(state.camu, dataclasses.replace(batch, retain=retain))
    return dataclasses.replace(state, camu=camu), metrics


def _independent_step(state, pairs, kept, *, key):  # type: ignore[no-untyped-def]
    (forget, counterfactual, counterfactual_embedding), (retain, retain_embedding) = pairs, kept
    batch = Tuples(forget, counterfactual, retain, counterfactual_embedding, retain_embedding)
    return _paired_step(state, batch, key=key)
