"""`models.ResNet` as ONNX nodes."""

from collections.abc import Mapping
from typing import Any

from free_jax.models import ResNet
from free_jax.models.resnet import STAGES
from free_jax.release.onnx_writers.builder import Builder


def resnet_features(
    build: Builder, module: ResNet, variables: Mapping[str, Any], images: str
) -> str:
    """The mean of the last map over pixels.

    Args:
      build: gets the nodes.
      module: whose depth decides.
      variables: ``params`` and, where batch norm has statistics, ``batch_stats``.
      images: normalised, NCHW.
    """
    params, stats = variables["params"], variables.get("batch_stats") or {}
    bottleneck, stages = STAGES[module.depth]
    block = _bottleneck if bottleneck else _simple
    x = build.conv(images, params["conv0"])
    x = build.batch_norm(x, params["bn0"], stats.get("bn0"))
    first = [sum(stages[:stage]) for stage in range(1, len(stages))]
    for index in range(sum(stages)):
        name, stride = f"block{index}", 2 if index in first else 1
        x = block(build, x, params[name], stats.get(name, {}), stride)
    return build.node("ReduceMean", x, axes=[2, 3], keepdims=0)


def _simple(build: Builder, x: str, params: Any, stats: Any, stride: int) -> str:
    y = build.conv(x, params["conv1"], stride)
    y = build.node("Relu", build.batch_norm(y, params["bn1"], stats.get("bn1")))
    y = build.conv(y, params["conv2"])
    y = build.batch_norm(y, params["bn2"], stats.get("bn2"))
    return _joined(build, x, y, params, stats, stride)


def _bottleneck(build: Builder, x: str, params: Any, stats: Any, stride: int) -> str:
    y = build.conv(x, params["conv1"])
    y = build.node("Relu", build.batch_norm(y, params["bn1"], stats.get("bn1")))
    y = build.conv(y, params["conv2"], stride)
    y = build.node("Relu", build.batch_norm(y, params["bn2"], stats.get("bn2")))
    y = build.conv(y, params["conv3"])
    y = build.batch_norm(y, params["bn3"], stats.get("bn3"))
    return _joined(build, x, y, params, stats, stride)


def _joined(build: Builder, x: str, y: str, params: Any, stats: Any, stride: int):
    """The block's two ways, the short one with what its parameters hold."""
    if "shortcut" in params:
        x = build.conv(x, params["shortcut"], stride)
    if "bn_shortcut" in params:
        x = build.batch_norm(x, params["bn_shortcut"], stats.get("bn_shortcut"))
    return build.node("Relu", build.node("Add", y, x))
