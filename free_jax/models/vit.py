"""A vision transformer for small images: patches, attention, no batch norm."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from free_jax.models.head import with_head
from free_jax.models.normalization import Norm


def patches(images: jax.Array, size: int) -> jax.Array:
    """[n, rows, columns, size * size * c] tiles; what is left over is padded by zeros.

    A convolution of as large a stride would be the same; on CPU this is one product.
    """
    n, h, w, c = images.shape
    rows, columns = -(-h // size), -(-w // size)
    padding = ((0, 0), (0, rows * size - h), (0, columns * size - w), (0, 0))
    images = jnp.pad(images, padding)
    tiles = images.reshape(n, rows, size, columns, size, c)
    return tiles.swapaxes(2, 3).reshape(n, rows, columns, size * size * c)


class EncoderBlock(nn.Module):
    """Attention between all tokens, then two layers on each; both added to it.

    Attributes:
      heads: of the attention; they divide the width.
      expansion: the inner layer is so many times as wide.
    """

    heads: int
    expansion: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps tokens [n, t, d] to tokens of the same shape."""
        width = x.shape[-1]
        seen = nn.LayerNorm(epsilon=1e-6, dtype=x.dtype, name="norm0")(x)
        x = x + nn.MultiHeadDotProductAttention(
            num_heads=self.heads, dtype=x.dtype, name="attention"
        )(seen)
        y = nn.LayerNorm(epsilon=1e-6, dtype=x.dtype, name="norm1")(x)
        y = nn.gelu(nn.Dense(self.expansion * width, dtype=x.dtype, name="fc0")(y))
        return x + nn.Dense(width, dtype=x.dtype, name="fc1")(y)


class ViT(nn.Module):
    """A vision transformer whose description is the mean of its tokens.

    Attributes:
      num_classes: number of outputs.
      patch: pixels a side of a token; images of any size are padded to a multiple.
      dim: numbers a token holds.
      depth: blocks.
      heads: of each block's attention.
      expansion: of each block's inner layer.
      dtype: of activations, e.g. "bfloat16"; parameters and the head keep theirs.
        None takes the images'.

    Reference:
      Dosovitskiy et al., "An Image is Worth 16x16 Words", ICLR 2021.
    """

    # No batch norm, so no moments of its inputs.
    gives = frozenset({"gradients", "features"})

    num_classes: int = 5
    patch: int = 4
    dim: int = 128
    depth: int = 6
    heads: int = 4
    expansion: int = 4
    dtype: str | None = None

    @nn.compact
    def __call__(
        self, images: jax.Array, *, norm: Norm, features: bool = False
    ) -> jax.Array:
        """Maps normalised images [n, h, w, c] to logits (or features [n, dim]).

        Every image is treated alone, whatever `norm` says.
        """
        del norm
        x = patches(images.astype(self.dtype or images.dtype), self.patch)
        x = nn.Dense(self.dim, dtype=x.dtype, name="embed")(x)
        x = x.reshape(x.shape[0], -1, self.dim)
        place = self.param(
            "position", nn.initializers.normal(0.02), (x.shape[1], self.dim)
        )
        x = x + place.astype(x.dtype)
        for i in range(self.depth):
            x = EncoderBlock(self.heads, self.expansion, name=f"block{i}")(x)
        x = nn.LayerNorm(epsilon=1e-6, name="norm")(x).mean(1).astype(images.dtype)
        return with_head(x, self.num_classes, features=features)
