"""Causal Machine Unlearning (CaMU) and the methods it is compared with, as pure functions in JAX.

    model = camu_jax.models.cnn(num_classes=10)
    S = camu_jax.make_tuples(key, F, R)                    # Algorithm 1
    params = camu_jax.init_camu(model, variables)          # variables of the original model
    for rows in batches:
        batch = jax.tree.map(lambda a: a[rows], S)
        params, metrics = camu_jax.camu_step(params, batch)  # Algorithm 2: Eq 3.13, then Eq 3.14
    unlearned = params.variables

`F` and `R` are `Examples(x, y, num_classes)`; any model is a `Model(init, apply)`.
"""

from camu_jax import methods, models
from camu_jax.camu import CamuParams, CamuSettings, camu_step, camu_update, init_camu
from camu_jax.evaluate import accuracies, accuracy
from camu_jax.images import Pipeline
from camu_jax.model import Model, Variables, from_linen, from_nnx
from camu_jax.problem import Predictor, Problem
from camu_jax.training import TrainSettings, train
from camu_jax.tuples import make_tuples
from camu_jax.types import Examples, Outputs, Tuples

__version__ = "0.1.0"

__all__ = (
    "CamuParams",
    "CamuSettings",
    "Examples",
    "Model",
    "Outputs",
    "Pipeline",
    "Predictor",
    "Problem",
    "TrainSettings",
    "Tuples",
    "Variables",
    "accuracies",
    "accuracy",
    "camu_step",
    "camu_update",
    "from_linen",
    "from_nnx",
    "init_camu",
    "make_tuples",
    "methods",
    "models",
    "train",
)
