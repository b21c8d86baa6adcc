"""Networks (Linen, NHWC) and the registry that names them."""

import dataclasses
import functools
from typing import Any

import flax.linen as nn

from free_jax.models.conv4 import Conv4
from free_jax.models.convnext import ConvNeXt
from free_jax.models.cpu.convolution import conv2d, upsample_conv2d
from free_jax.models.generator import Generator
from free_jax.models.graph import Graph
from free_jax.models.normalization import BatchNorm
from free_jax.models.resnet import ResNet, resnet
from free_jax.models.resnet12 import ResNet12
from free_jax.models.vit import ViT

__all__ = [
    "BatchNorm",
    "Conv4",
    "ConvNeXt",
    "Generator",
    "Graph",
    "ResNet",
    "ResNet12",
    "ViT",
    "conv2d",
    "get_model",
    "model_names",
    "upsample_conv2d",
]

_CLASSIFIERS: dict[str, Any] = {
    "conv4": Conv4,
    **{f"resnet{depth}": resnet(depth) for depth in (10, 18, 34, 50, 101)},
    "resnet12": ResNet12,
    "vit": ViT,
    "convnext": ConvNeXt,
    "graph": Graph,
}

# Fields of every Linen module.
_LINEN = ("parent", "name")


def model_names() -> tuple[str, ...]:
    """Names that `get_model` accepts."""
    return tuple(_CLASSIFIERS)


def get_model(name: str, **kwargs: Any) -> nn.Module:
    """Builds a classifier by name.

    Args:
      name: one of `model_names()`.
      **kwargs: fields of the module, e.g. ``num_classes=5``, ``width=64`` for Conv4.

    Returns:
      A Linen module called as ``module(images, norm="batch" | "running")``.

    Raises:
      ValueError: the name is unknown, or the module has no such field.
    """
    if name not in _CLASSIFIERS:
        apart = "; keywords are arguments of their own" if "(" in name else ""
        known = ", ".join(_CLASSIFIERS)
        raise ValueError(f"unknown model {name!r}; known models: {known}{apart}")
    made = _CLASSIFIERS[name]
    module: Any = made.func if isinstance(made, functools.partial) else made
    fields = [f.name for f in dataclasses.fields(module) if f.name not in _LINEN]
    if unknown := sorted(set(kwargs) - set(fields)):
        raise ValueError(f"no keyword {unknown[0]!r}; it takes {', '.join(fields)}")
    return made(**kwargs)
