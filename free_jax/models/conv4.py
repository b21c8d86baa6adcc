"""Conv4: four blocks of convolution, batch norm, ReLU and 2x2 max-pooling."""

import flax.linen as nn
import jax

from free_jax.models.cpu.convolution import Conv, Lowering
from free_jax.models.head import with_head
from free_jax.models.normalization import BatchNorm, Norm


class Conv4(nn.Module):
    """The few-shot literature's four-block network.

    Attributes:
      num_classes: number of outputs.
      width: channels of every block; 32 in the released codes, 64 in the papers.
      global_pool: maximum over the last map before the head, so that the parameters
        do not depend on the image size ("arbitrary_input" in the released codes).
      lowering: see `convolution.conv2d`.
      dtype: of activations and convolutions, e.g. "bfloat16"; parameters, moments
        and the head keep theirs.  None takes the images'.
    """

    num_classes: int = 5
    width: int = 32
    global_pool: bool = False
    lowering: Lowering = "auto"
    dtype: str | None = None

    @nn.compact
    def __call__(
        self, images: jax.Array, *, norm: Norm, features: bool = False
    ) -> jax.Array:
        """Maps normalised images to logits.

        Args:
          images: [n, h, w, c], normalised; h and w at least 16.
          norm: see `BatchNorm`.
          features: return the flattened last map [n, width * h//16 * w//16] instead.

        Returns:
          Logits [n, num_classes], or features.
        """
        x = images.astype(self.dtype or images.dtype)
        for i in range(4):
            x = Conv(
                self.width, use_bias=True, lowering=self.lowering, name=f"conv{i}"
            )(x)
            # ReLU and max commute; pooling first leaves a quarter of the ReLU's work.
            x = nn.relu(BatchNorm(name=f"bn{i}")(x, norm=norm, max_pool=True))
        x = x.max(axis=(1, 2)) if self.global_pool else x.reshape(x.shape[0], -1)
        x = x.astype(images.dtype)
        return with_head(x, self.num_classes, features=features)
