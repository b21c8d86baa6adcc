"""`models.Conv4` as ONNX nodes."""

from collections.abc import Mapping
from typing import Any

from free_jax.models import Conv4
from free_jax.release.onnx_writers.builder import Builder


def conv4_features(
    build: Builder, module: Conv4, variables: Mapping[str, Any], images: str
) -> str:
    """The flattened last map, or its maximum over pixels where the module says so.

    Args:
      build: gets the nodes.
      module: whose fields decide.
      variables: ``params`` and, where batch norm has statistics, ``batch_stats``.
      images: normalised, NCHW.
    """
    params, stats = variables["params"], variables.get("batch_stats") or {}
    x = images
    for i in range(4):
        x = build.conv(x, params[f"conv{i}"])
        x = build.batch_norm(x, params[f"bn{i}"], stats.get(f"bn{i}"))
        x = build.node("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
        x = build.node("Relu", x)
    if module.global_pool:
        return build.node("ReduceMax", x, axes=[2, 3], keepdims=0)
    # The head's rows are in the order of pixels, then channels.
    return build.node("Flatten", build.node("Transpose", x, perm=[0, 2, 3, 1]))
