"""Retrain: a fresh model trained on the retain set, the gold standard (A.2.4: twice the original's epochs)."""

import dataclasses

import jax

from camu_jax import loop
from camu_jax.problem import Predictor, Problem
from camu_jax.training import TrainSettings, train


@dataclasses.dataclass(frozen=True, kw_only=True)
class Retrain(TrainSettings):
    """Retrain: how the fresh model is trained."""

    epochs: int = 20
    """Passes over the retain set."""


def unlearn(key: jax.Array, problem: Problem, settings: Retrain, *, progress: loop.Listener | None = None) -> Predictor:
    """Trains from scratch without the forget set."""
    problem.validate()
    variables = train(key, problem.model, problem.retain, settings, pipeline=problem.pipeline, progress=progress)
    return Predictor((variables,), problem.model, problem.pipeline)
