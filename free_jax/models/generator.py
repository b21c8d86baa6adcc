"""The image generator: latents (and labels) to images in [0, 1]."""

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from free_jax.models.cpu.convolution import Conv, Lowering
from free_jax.models.normalization import BatchNorm


class Generator(nn.Module):
    """Two nearest-upsampling stages after a linear layer, sigmoid output.

    Layer by layer the released codes' generator (latent 256, 128 then 64 channels).
    Batch norm always uses the batch's own moments.

    Attributes:
      image_shape: (h, w, c) of the output; h and w multiples of 4.
      width: channels of the second stage; the first has twice as many.
      num_classes: 0 for the unconditional generator, else the number of labels.
      label_input: how labels enter: "split" gives latents and labels half of the first
        map's channels each (Trustworthy-DFML), so that after batch norm they weigh
        the same; "concat" appends the one-hot label to the latents, so that labels
        start weak and images of one class stay diverse.
      lowering: see `convolution.conv2d`.
    """

    image_shape: tuple[int, int, int] = (32, 32, 3)
    width: int = 64
    num_classes: int = 0
    label_input: Literal["split", "concat"] = "split"
    lowering: Lowering = "auto"

    @nn.compact
    def __call__(self, latents: jax.Array, labels: jax.Array) -> jax.Array:
        """Maps latents [n, d] and labels [n] int to images [n, h, w, c] in [0, 1].

        The unconditional generator ignores the labels.
        """
        height, width, channels = self.image_shape
        rows, cols, top = height // 4, width // 4, 2 * self.width
        normal = nn.initializers.normal(0.02)

        def dense(name: str, features: int) -> nn.Dense:
            return nn.Dense(features, kernel_init=normal, name=name)

        def norm(name: str, x: jax.Array) -> jax.Array:
            def init(key, shape):
                return 1.0 + 0.02 * jax.random.normal(key, shape)

            return BatchNorm(scale_init=init, name=name)(x, norm="batch")

        n = latents.shape[0]
        onehot = jax.nn.one_hot(labels, self.num_classes)
        if self.num_classes and self.label_input == "split":
            half = self.width * rows * cols
            parts = [dense("latent", half)(latents), dense("label", half)(onehot)]
            x = jnp.concatenate(
                [part.reshape(n, rows, cols, self.width) for part in parts], axis=-1
            )
        else:  # Without classes the one-hot labels are zero columns wide.
            x = jnp.concatenate([latents, onehot], axis=-1)
            x = dense("latent", top * rows * cols)(x)
            x = x.reshape(n, rows, cols, top)
        x = norm("bn0", x)
        for i, features in enumerate((top, self.width)):
            x = Conv(
                features,
                upsample=True,
                kernel_init=normal,
                lowering=self.lowering,
                name=f"conv{i}",
            )(x)
            x = nn.leaky_relu(norm(f"bn{i + 1}", x), 0.2)
        x = Conv(
            channels,
            use_bias=True,
            kernel_init=normal,
            lowering=self.lowering,
            name="conv2",
        )(x)
        return nn.sigmoid(x)
