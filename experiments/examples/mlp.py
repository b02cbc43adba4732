"""A multilayer perceptron of three layers, for small images and for the rows of a table.

`python experiments/run.py --dataset=npz:mine.npz --model.factory=experiments/examples/mlp.py:make`
"""

import flax.linen as nn
import jax


class MLP(nn.Module):
    """Two hidden layers with ReLU; the second is the embedding."""

    num_classes: int
    width: int = 256

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        x = nn.relu(nn.Dense(self.width)(x.reshape(x.shape[0], -1)))
        embedding = nn.relu(nn.Dense(self.width)(x))
        return nn.Dense(self.num_classes)(embedding), embedding


def make(num_classes: int) -> MLP:
    """The model."""
    return MLP(num_classes)
