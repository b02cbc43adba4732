"""The paper's CNN for the MNIST data sets (A.2.4)."""

import flax.linen as nn
import jax

from camu_jax.model import Model, from_linen
from camu_jax.models.convolution import convolve
from camu_jax.models.layers import Linear, max_pool, uniform
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
        for features in (16 * self.width, 32 * self.width):
            init = uniform(5 * 5 * x.shape[-1])
            x = nn.Conv(features, (5, 5), kernel_init=init, bias_init=init, conv_general_dilated=convolve)(x)
            x = nn.relu(max_pool(x))  # the same, with a quarter of the ReLUs
        embedding = Linear(256 * self.width)(x.reshape(x.shape[0], -1))
        return Outputs(Linear(self.num_classes)(Linear(128 * self.width)(embedding)), embedding)


def cnn(num_classes: int, image_shape: tuple[int, ...] = (28, 28, 1), *, width: int = 1) -> Model:
    """The CNN as a `Model`."""
    return from_linen(CNN(num_classes, width), image_shape)
