"""ResNet-12, the larger network of the few-shot literature."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from free_jax.models.cpu.convolution import Conv, Lowering
from free_jax.models.head import with_head
from free_jax.models.normalization import BatchNorm, Norm


class PooledBlock(nn.Module):
    """Three convolutions beside a shortcut, then rows and columns are halved.

    Attributes:
      width: channels.
      lowering: see `convolution.conv2d`.
    """

    width: int
    lowering: Lowering

    @nn.compact
    def __call__(self, x: jax.Array, *, norm: Norm) -> jax.Array:
        """Maps [n, h, w, c] to [n, h // 2, w // 2, width]."""

        def layer(y: jax.Array, size: int, number: int | str) -> jax.Array:
            y = Conv(
                self.width, size=size, lowering=self.lowering, name=f"conv{number}"
            )(y)
            return BatchNorm(name=f"bn{number}")(y, norm=norm)

        y = nn.leaky_relu(layer(x, 3, 0), 0.1)
        y = nn.leaky_relu(layer(y, 3, 1), 0.1)
        y = layer(y, 3, 2) + layer(x, 1, "_shortcut")
        y = nn.leaky_relu(y, 0.1)
        if min(y.shape[1:3]) < 2:
            return y
        return nn.max_pool(y, (2, 2), (2, 2))


class ResNet12(nn.Module):
    """Four blocks of three convolutions, each halving the map.

    Attributes:
      num_classes: number of outputs.
      widths: channels of the blocks; (64, 128, 256, 512) in TADAM, (64, 160, 320, 640)
        in MetaOptNet and most since.
      lowering: see `convolution.conv2d`.
      dtype: of activations and convolutions, e.g. "bfloat16"; parameters, moments
        and the head keep theirs.  None takes the images'.

    Reference:
      Oreshkin et al., "TADAM", NeurIPS 2018; Lee et al., "Meta-Learning with
      Differentiable Convex Optimization", CVPR 2019 (without their DropBlock).
    """

    num_classes: int = 5
    widths: Sequence[int] = (64, 160, 320, 640)
    lowering: Lowering = "auto"
    dtype: str | None = None

    @nn.compact
    def __call__(
        self, images: jax.Array, *, norm: Norm, features: bool = False
    ) -> jax.Array:
        """Maps normalised images [n, h, w, c] to logits (or features)."""
        x = images.astype(self.dtype or images.dtype)
        for i, width in enumerate(self.widths):
            x = PooledBlock(width, self.lowering, name=f"block{i}")(x, norm=norm)
        x = jnp.mean(x, axis=(1, 2)).astype(images.dtype)
        return with_head(x, self.num_classes, features=features)
