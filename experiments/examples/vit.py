"""Vision transformers (Dosovitskiy et al., 2021): ViT-S/16 for images of 224x224, and a small one for 28x28.

`python experiments/run.py --dataset=folder:photos --model.factory=experiments/examples/vit.py:small`
`python experiments/run.py ... --model.factory=experiments/examples/vit.py:vit_s16 --pipeline.image_size=224`
"""

import flax.linen as nn
import jax
import jax.numpy as jnp


class Block(nn.Module):
    """Attention and a perceptron, each behind a LayerNorm and added to what it was given."""

    heads: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = x + nn.MultiHeadDotProductAttention(self.heads)(nn.LayerNorm(epsilon=1e-6)(x))
        h = nn.gelu(nn.Dense(4 * x.shape[-1])(nn.LayerNorm(epsilon=1e-6)(x)), approximate=False)
        return x + nn.Dense(x.shape[-1])(h)


class ViT(nn.Module):
    """Patches as tokens behind a class token, whose last state is the embedding.

    Attributes:
      num_classes: C.
      patch: side of a patch; the images' sides are multiples of it.
      width: of a token.
      depth: how many blocks.
      heads: of the attention.
    """

    num_classes: int
    patch: int
    width: int
    depth: int
    heads: int

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        size = (self.patch, self.patch)
        x = nn.Conv(self.width, size, strides=size, padding="VALID", name="patches")(x)
        x = x.reshape(x.shape[0], -1, self.width)
        token = self.param("class_token", nn.initializers.zeros, (1, 1, self.width))
        x = jnp.concatenate([jnp.broadcast_to(token, (x.shape[0], 1, self.width)), x], axis=1)
        x = x + self.param("position", nn.initializers.normal(0.02), (1, x.shape[1], self.width))
        for _ in range(self.depth):
            x = Block(self.heads)(x)
        embedding = nn.LayerNorm(epsilon=1e-6)(x)[:, 0]
        return nn.Dense(self.num_classes, name="classify")(embedding), embedding


def vit_s16(num_classes: int) -> ViT:
    """ViT-S/16: 12 blocks of width 384 with 6 heads, about 22 million parameters."""
    return ViT(num_classes, patch=16, width=384, depth=12, heads=6)


def small(num_classes: int, image_shape: tuple[int, ...]) -> ViT:
    """Four blocks of width 64 with 4 heads, and 16 patches in an image."""
    return ViT(num_classes, patch=max(1, image_shape[0] // 4), width=64, depth=4, heads=4)
