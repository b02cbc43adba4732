"""The original model beside the methods: what is measured of it is where every method starts."""

import jax

from camu_jax import Predictor, Problem, Settings, loop
from camu_jax.methods import Method


def unchanged(
    key: jax.Array, problem: Problem, settings: Settings, *, progress: loop.Listener | None = None
) -> Predictor:
    """The original model, which has forgotten nothing; takes what an unlearning method takes."""
    problem.validate()
    return Predictor((problem.original,), problem.model, problem.pipeline)


ORIGINAL = Method("original", unchanged)
"""Not in the registry of methods: nobody may ask it to forget."""
