"""ConvNeXt for small images: depthwise convolutions, layer norms, no batch norm."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from free_jax.models.cpu.convolution import torch_uniform
from free_jax.models.cpu.depthwise import depthwise
from free_jax.models.head import with_head
from free_jax.models.normalization import Norm
from free_jax.models.vit import patches


class ConvNeXtBlock(nn.Module):
    """A wide depthwise convolution, then two layers on each pixel; added to it.

    Attributes:
      size: of the convolution's kernel, odd.
      scale: of what is added, at the start.
    """

    size: int = 7
    scale: float = 1e-2

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [n, h, w, c] to the same shape."""
        c, k = x.shape[-1], self.size
        kernel = self.param("depthwise", torch_uniform(k * k), (k, k, 1, c))
        bias = self.param("bias", nn.initializers.zeros, (c,))
        sides = ((k // 2, k // 2),) * 2
        y = depthwise(x, kernel.astype(x.dtype), (1, 1), sides, (1, 1))
        y = nn.LayerNorm(epsilon=1e-6, dtype=x.dtype, name="norm")(
            y + bias.astype(x.dtype)
        )
        y = nn.gelu(nn.Dense(4 * c, dtype=x.dtype, name="fc0")(y))
        y = nn.Dense(c, dtype=x.dtype, name="fc1")(y)
        scale = self.param("scale", nn.initializers.constant(self.scale), (c,))
        return x + scale.astype(x.dtype) * y


class ConvNeXt(nn.Module):
    """A ConvNeXt whose description is the mean of its last map.

    Attributes:
      num_classes: number of outputs.
      patch: pixels a side of what the first layer sees; images of any size are padded
        to a multiple.
      widths: channels of each stage; between two, rows and columns are halved.
      depths: blocks of each stage.
      kernel: side of the depthwise convolutions.
      dtype: of activations, e.g. "bfloat16"; parameters and the head keep theirs.
        None takes the images'.

    Reference:
      Liu et al., "A ConvNet for the 2020s", CVPR 2022.
    """

    # No batch norm, so no moments of its inputs.
    gives = frozenset({"gradients", "features"})

    num_classes: int = 5
    patch: int = 4
    widths: tuple[int, ...] = (40, 80, 160)
    depths: tuple[int, ...] = (2, 2, 4)
    kernel: int = 7
    dtype: str | None = None

    @nn.compact
    def __call__(
        self, images: jax.Array, *, norm: Norm, features: bool = False
    ) -> jax.Array:
        """Maps normalised images [n, h, w, c] to logits (or features [n, widths[-1]]).

        Every image is treated alone, whatever `norm` says.
        """
        del norm
        x = images.astype(self.dtype or images.dtype)
        for stage, (width, depth) in enumerate(
            zip(self.widths, self.depths, strict=True)
        ):
            if stage:
                x = nn.LayerNorm(epsilon=1e-6, dtype=x.dtype, name=f"norm{stage}")(x)
            x = patches(x, 2 if stage else self.patch)
            x = nn.Dense(width, dtype=x.dtype, name=f"down{stage}")(x)
            if not stage:
                x = nn.LayerNorm(epsilon=1e-6, dtype=x.dtype, name="norm0")(x)
            for i in range(depth):
                x = ConvNeXtBlock(self.kernel, name=f"block{stage}_{i}")(x)
        x = nn.LayerNorm(epsilon=1e-6, name="norm")(jnp.mean(x, axis=(1, 2)))
        x = x.astype(images.dtype)
        return with_head(x, self.num_classes, features=features)
