"""ResNet-10/18/34/50/101 with the released codes' stem and blocks.

The stem is a 3x3 stride-1 convolution and batch norm WITHOUT ReLU or pooling; the
bottleneck's middle convolution has a bias and its shortcut has no batch norm
(released code; the checkpoints' keys are in `interop.torch_weights`).
"""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from free_jax.models.cpu.convolution import Conv, Lowering
from free_jax.models.head import with_head
from free_jax.models.normalization import BatchNorm, Norm

STAGES = {
    10: (False, (1, 1, 1, 1)),
    18: (False, (2, 2, 2, 2)),
    34: (False, (3, 4, 6, 3)),
    50: (True, (3, 4, 6, 3)),
    101: (True, (3, 4, 23, 3)),
}


class SimpleBlock(nn.Module):
    """Two 3x3 convolutions; the shortcut has a batch norm where channels change."""

    features: int
    stride: int
    lowering: Lowering

    @nn.compact
    def __call__(self, x: jax.Array, *, norm: Norm) -> jax.Array:
        """Maps [n, h, w, c] to [n, h / stride, w / stride, features]."""
        conv = functools.partial(Conv, self.features, lowering=self.lowering)
        y = conv(stride=self.stride, name="conv1")(x)
        y = nn.relu(BatchNorm(name="bn1")(y, norm=norm))
        y = BatchNorm(name="bn2")(conv(name="conv2")(y), norm=norm)
        if x.shape[-1] != self.features:
            x = conv(size=1, stride=self.stride, name="shortcut")(x)
            x = BatchNorm(name="bn_shortcut")(x, norm=norm)
        return nn.relu(y + x)


class BottleneckBlock(nn.Module):
    """1x1, 3x3 (with bias), 1x1; the shortcut has no batch norm."""

    features: int
    stride: int
    lowering: Lowering

    @nn.compact
    def __call__(self, x: jax.Array, *, norm: Norm) -> jax.Array:
        """Maps [n, h, w, c] to [n, h / stride, w / stride, features]."""
        conv = functools.partial(Conv, lowering=self.lowering)
        inner = self.features // 4
        y = conv(inner, size=1, name="conv1")(x)
        y = nn.relu(BatchNorm(name="bn1")(y, norm=norm))
        y = conv(inner, stride=self.stride, use_bias=True, name="conv2")(y)
        y = nn.relu(BatchNorm(name="bn2")(y, norm=norm))
        y = conv(self.features, size=1, name="conv3")(y)
        y = BatchNorm(name="bn3")(y, norm=norm)
        if x.shape[-1] != self.features:
            x = conv(self.features, size=1, stride=self.stride, name="shortcut")(x)
        return nn.relu(y + x)


class ResNet(nn.Module):
    """Residual network for small images.

    Attributes:
      num_classes: number of outputs.
      depth: 10, 18, 34, 50 or 101.
      width: channels of the first stage; each later one has twice as many.
      lowering: see `convolution.conv2d`.
      dtype: of activations and convolutions, e.g. "bfloat16"; parameters, moments
        and the head keep theirs.  None takes the images'.
    """

    num_classes: int = 5
    depth: int = 10
    width: int = 64
    lowering: Lowering = "auto"
    dtype: str | None = None

    @nn.compact
    def __call__(
        self, images: jax.Array, *, norm: Norm, features: bool = False
    ) -> jax.Array:
        """Maps normalised images [n, h, w, c] to logits (or features)."""
        bottleneck, stages = STAGES[self.depth]
        block = BottleneckBlock if bottleneck else SimpleBlock
        x = images.astype(self.dtype or images.dtype)
        x = Conv(self.width, lowering=self.lowering, name="conv0")(x)
        x = BatchNorm(name="bn0")(x, norm=norm)
        index = 0
        for stage, blocks in enumerate(stages):
            width = self.width * 2**stage * (4 if bottleneck else 1)
            for i in range(blocks):
                stride = 2 if stage > 0 and i == 0 else 1
                x = block(width, stride, self.lowering, name=f"block{index}")(
                    x, norm=norm
                )
                index += 1
        x = jnp.mean(x, axis=(1, 2))
        x = x.astype(images.dtype)
        return with_head(x, self.num_classes, features=features)


def resnet(depth: int) -> Callable[..., ResNet]:
    """The constructor of one depth, for the registry."""
    return functools.partial(ResNet, depth=depth)
