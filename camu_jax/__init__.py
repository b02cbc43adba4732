"""Machine unlearning in JAX: make a trained model forget examples, and measure what is left of them.

    problem = camu_jax.Problem.from_rows(model, variables, train, forget=[3, 17, 42])
    unlearned = camu_jax.unlearn(key, problem, camu_jax.Camu())       # the settings choose the method
    print(camu_jax.audit(audit_key, unlearned, problem, test))        # is it gone?

CaMU (Causal Machine Unlearning) is also there as the paper's two algorithms:

    S = camu_jax.make_tuples(key, F, R)                      # Algorithm 1
    params = camu_jax.init_camu(model, variables)
    for rows in batches:
        batch = jax.tree.map(lambda a: a[rows], S)
        params, metrics = camu_jax.camu_step(params, batch)  # Algorithm 2: Eq 3.13, then Eq 3.14
"""

from camu_jax import audits, deletion, methods, models, own_data, weights
from camu_jax.audits import Estimate, Evidence, audit
from camu_jax.camu import CamuLosses, CamuParams, camu_step, camu_update, init_camu
from camu_jax.checkpoint import load, save
from camu_jax.equinox_model import from_equinox
from camu_jax.evaluate import accuracies, accuracy
from camu_jax.images import Pipeline
from camu_jax.methods import BadTeacher, Boundary, Camu, NegGrad, Retrain, Scrub, Sisa, Unroll, unlearn
from camu_jax.model import Model, Variables, from_linen, from_nnx
from camu_jax.problem import Predictor, Problem
from camu_jax.training import TrainSettings, train
from camu_jax.tuples import make_tuples
from camu_jax.types import Examples, Outputs, Settings, Tuples

__version__ = "0.1.0"

__all__ = (
    "BadTeacher",
    "Boundary",
    "Camu",
    "CamuLosses",
    "CamuParams",
    "Estimate",
    "Evidence",
    "Examples",
    "Model",
    "NegGrad",
    "Outputs",
    "Pipeline",
    "Predictor",
    "Problem",
    "Retrain",
    "Scrub",
    "Settings",
    "Sisa",
    "TrainSettings",
    "Tuples",
    "Unroll",
    "Variables",
    "accuracies",
    "accuracy",
    "audit",
    "audits",
    "camu_step",
    "camu_update",
    "deletion",
    "from_equinox",
    "from_linen",
    "from_nnx",
    "init_camu",
    "load",
    "make_tuples",
    "methods",
    "models",
    "own_data",
    "save",
    "train",
    "unlearn",
    "weights",
)
