"""Training of one's own: what `--train FILE.py:NAME` does, a loop that trains a fresh model as the original was."""

from collections.abc import Callable

import jax
import numpy as np

from camu_jax import Examples, Model, Variables, weights
from experiments import UsageError, keys, own_code

_FLAG = "train"
Trainer = Callable[[jax.Array, Examples], Variables]


def make(train: str, model: Model) -> Trainer:
    """A function that trains the model by the user's loop.

    The user's function is called as `NAME(seed, x, y)`, with inputs `[N, ...]` and labels `[N]` as they are stored, and
    returns its trained model: an NNX module, or its weights as a tree that fits the model.

    Args:
      train: `FILE.py:NAME`.
      model: the model.

    Raises:
      UsageError: there is no such function; later on, it fails or returns something that does not fit. In one line.
    """
    function = own_code.function(_FLAG, train)

    def trained(key: jax.Array, examples: Examples) -> Variables:
        seed = int(jax.random.bits(key)) >> 1  # NumPy's and others' seeds are of 31 bits
        with own_code.said_in_one_line(_FLAG, train), own_code.beside(_FLAG, train):
            made = function(seed, np.asarray(examples.x), np.asarray(examples.y))
        try:
            return weights.fit(f"of {train}", _tree(made), jax.eval_shape(model.init, keys.trial()))
        except weights.WeightsError as error:
            raise UsageError(f"{_FLAG}: {error}") from None

    return trained


def digest(train: str) -> str:
    """The digest of the code that trains; see `own_code.digest`."""
    return own_code.digest(_FLAG, train)


def _tree(made: object) -> object:
    """The weights of what was returned."""
    from flax import nnx

    return nnx.to_pure_dict(nnx.state(made, nnx.Not(nnx.RngState))) if isinstance(made, nnx.Module) else made
