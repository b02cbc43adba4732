"""Retrain: a fresh model trained on the retain set, the gold standard (A.2.4: twice the original's epochs)."""

import jax

from camu_jax.problem import Predictor, Problem
from camu_jax.training import TrainSettings, train


def unlearn(key: jax.Array, problem: Problem, settings: TrainSettings) -> Predictor:
    """Trains from scratch without the forget set."""
    problem.validate()
    variables = train(
        key, problem.model, problem.retain, settings, pipeline=problem.pipeline, progress=problem.progress
    )
    return Predictor((variables,), problem.model, problem.pipeline)


def cost(problem: Problem, settings: TrainSettings) -> float:
    """Forward-pass equivalents: 3 for each retain example and epoch."""
    return 3.0 * len(problem.retain) * settings.epochs
