"""Networks written as ONNX nodes: a file for each kind of module."""

import flax.linen as nn

from free_jax.models import Conv4, ResNet
from free_jax.release.onnx_writers.builder import Builder, Writer
from free_jax.release.onnx_writers.conv4 import conv4_features
from free_jax.release.onnx_writers.resnet import resnet_features
from free_jax.release.onnx_writers.through_jax import traced

__all__ = ["WRITERS", "Builder", "Writer", "traced"]

# Type of a module -> what writes it, up to the features that its layer `head` takes.
WRITERS: dict[type[nn.Module], Writer] = {
    Conv4: conv4_features,
    ResNet: resnet_features,
}
