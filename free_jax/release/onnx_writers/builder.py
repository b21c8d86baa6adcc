"""A list of ONNX nodes that grows, and the layers that networks here are made of."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from free_jax.models import BatchNorm

# Widely read: onnxruntime of 2022 and later, and most other runtimes.
OPSET, IR_VERSION = 17, 8
# ``(builder, module, variables, images NCHW) -> features [n, f]``, names of values.
Writer = Callable[["Builder", Any, Mapping[str, Any], str], str]


class Builder:
    """Nodes and constants in order; a value is known by its name."""

    def __init__(self):
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def node(self, op: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        """Appends a node of one output; returns that output's name."""
        from onnx import helper

        output = output or f"{op.lower()}_{len(self.nodes)}"
        node = helper.make_node(op, list(inputs), [output], name=output, **attributes)
        self.nodes.append(node)
        return output

    def constant(self, value: Any, dtype: Any = np.float32) -> str:
        """Adds a constant; returns its name."""
        from onnx import numpy_helper

        name = f"constant_{len(self.constants)}"
        # A copy in rows: the file holds bytes in memory order.
        array = np.array(value, dtype, order="C")
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def conv(self, x: str, params: Mapping[str, Any], stride: int = 1) -> str:
        """`models.cpu.convolution.Conv` on NCHW images."""
        kernel = np.asarray(params["kernel"])
        inputs = [x, self.constant(kernel.transpose(3, 2, 0, 1))]
        if "bias" in params:
            inputs.append(self.constant(params["bias"]))
        pad = kernel.shape[0] // 2
        return self.node("Conv", *inputs, strides=[stride] * 2, pads=[pad] * 4)

    def batch_norm(
        self, x: str, params: Mapping[str, Any], stats: Mapping[str, Any] | None
    ) -> str:
        """`models.BatchNorm` on NCHW images.

        Args:
          x: images.
          params: ``scale`` and ``bias``.
          stats: running ``mean`` and ``var``; None takes those of the images.
        """
        if stats is not None:
            values = (params["scale"], params["bias"], stats["mean"], stats["var"])
            names = [self.constant(value) for value in values]
            return self.node("BatchNormalization", x, *names, epsilon=BatchNorm.epsilon)
        scale, bias = (
            self.constant(np.asarray(params[name])[:, None, None])
            for name in ("scale", "bias")
        )
        apart = self.node("Sub", x, self.node("ReduceMean", x, axes=[0, 2, 3]))
        squares = self.node("Mul", apart, apart)
        var = self.node("ReduceMean", squares, axes=[0, 2, 3])
        raised = self.node("Add", var, self.constant(BatchNorm.epsilon))
        unit = self.node("Div", apart, self.node("Sqrt", raised))
        return self.node("Add", self.node("Mul", unit, scale), bias)

    def dense(self, x: str, params: Mapping[str, Any]) -> str:
        """Linen's Dense on rows."""
        kernel, bias = (self.constant(params[name]) for name in ("kernel", "bias"))
        return self.node("Gemm", x, kernel, bias)
