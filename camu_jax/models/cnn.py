"""The paper's CNN for the MNIST data sets (A.2.4)."""

import flax.linen as nn
import jax

from camu_jax.model import Model, from_linen
from camu_jax.models.convolution import conv_pool_twice
from camu_jax.models.layers import ConvWeights, Linear
from camu_jax.types import Outputs


class CNN(nn.Module):
    """Two 5x5 convolutions with ReLU and 2x2 max pooling, then three linear layers with nothing between them.

    449 098 parameters for 28x28x1 images and 10 classes at width 1. The embedding is the first linear layer, without
    ReLU, as in the authors' code.

    Attributes:
      num_classes: C.
      width: multiplies the channels (16, 32) and the hidden layers (256, 128).
    """

    num_classes: int
    width: int = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> Outputs:
        first = ConvWeights(16 * self.width, name="Conv_0")(x.shape[-1])
        second = ConvWeights(32 * self.width, name="Conv_1")(16 * self.width)
        x, *weights = nn.dtypes.promote_dtype(x, *first, *second)  # as Flax's own layers do
        maps = conv_pool_twice(x, tuple(weights[:2]), tuple(weights[2:]))
        embedding = Linear(256 * self.width)(maps.reshape(x.shape[0], -1))
        return Outputs(Linear(self.num_classes)(Linear(128 * self.width)(embedding)), embedding)


def cnn(num_classes: int, image_shape: tuple[int, ...] = (28, 28, 1), *, width: int = 1) -> Model:
    """The CNN as a `Model`."""
    return from_linen(CNN(num_classes, width), image_shape)
