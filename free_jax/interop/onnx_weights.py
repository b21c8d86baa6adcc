"""Classifiers as ONNX models, written from their Linen variables without PyTorch.

Batch norm by running statistics is folded into the convolution before it.
"""

from typing import Any

import numpy as np

from free_jax.errors import InputError
from free_jax.types import PyTree
from free_jax.zoo.network import Network

_OPSET, _IR = 17, 8  # Old enough for every runtime in use.


def to_onnx(variables: PyTree, architecture: Network, name: str) -> bytes:
    """An ONNX model of one classifier.

    Args:
      variables: of one teacher, see `zoo.take`.
      architecture: Conv4 or a ResNet.
      name: of the graph.

    Returns:
      The file's content.  Input ``images``: float32 [n, h, w, c], NORMALISED as
      ``architecture.normalize`` does; output ``logits``: [n, way].

    Raises:
      InputError: another architecture.
    """
    import onnx
    from onnx import helper

    graph = _Graph(variables)
    if architecture.name == "conv4":
        graph.conv4(dict(architecture.kwargs).get("global_pool", False))
    elif architecture.name.startswith("resnet"):
        graph.resnet()
    else:
        raise InputError(
            f"{architecture.name} has no ONNX export; give Conv4 or ResNet"
        )
    image = ["n", *architecture.image_shape]
    floats = onnx.TensorProto.FLOAT
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            name,
            [helper.make_tensor_value_info("images", floats, image)],
            [
                helper.make_tensor_value_info(
                    "logits", floats, ["n", architecture.num_classes]
                )
            ],
            graph.weights,
        ),
        opset_imports=[helper.make_opsetid("", _OPSET)],
        ir_version=_IR,
        producer_name="free_jax",
    )
    onnx.checker.check_model(model)
    return model.SerializeToString()


class _Graph:
    """Nodes and weights, appended layer by layer; maps are NCHW inside."""

    def __init__(self, variables: PyTree):
        self._params, self._stats = variables["params"], variables["batch_stats"]
        self.nodes: list[Any] = []
        self.weights: list[Any] = []

    def conv4(self, global_pool: bool) -> None:
        x = self._add("Transpose", "images", perm=[0, 3, 1, 2])
        for i in range(4):
            x = self._conv(x, (f"conv{i}",), (f"bn{i}",))
            x = self._add("Relu", x)
            x = self._add("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
        if global_pool:
            x = self._add("Flatten", self._add("GlobalMaxPool", x))
        else:
            # The head reads maps flattened with channels last.
            x = self._add("Flatten", self._add("Transpose", x, perm=[0, 2, 3, 1]))
        self._head(x)

    def resnet(self) -> None:
        x = self._add("Transpose", "images", perm=[0, 3, 1, 2])
        x = self._conv(x, ("conv0",), ("bn0",))
        blocks = sum(name.startswith("block") for name in self._params)
        stem = width = np.shape(self._params["conv0"]["kernel"])[-1]
        for i in range(blocks):
            x, width = self._block(x, f"block{i}", width, stem)
        self._head(self._add("Flatten", self._add("GlobalAveragePool", x)))

    def _block(self, x: str, block: str, width: int, stem: int) -> tuple[str, int]:
        layers = self._params[block]
        last = "conv3" if "conv3" in layers else "conv2"
        features = np.shape(layers[last]["kernel"])[-1]
        bottleneck = last == "conv3"
        first = np.shape(layers["conv1"]["kernel"])[-1]
        # A stage halves its maps where it widens, but for the first one.
        stage_width = first * (4 if bottleneck else 1)
        before = stem * (4 if bottleneck else 1)
        stride = 2 if width != stage_width and stage_width > before else 1
        strides = {"conv1": 1 if bottleneck else stride, "conv2": 1, "conv3": 1}
        if bottleneck:
            strides["conv2"] = stride
        y = x
        for number in (1, 2, 3) if bottleneck else (1, 2):
            conv = f"conv{number}"
            y = self._conv(y, (block, conv), (block, f"bn{number}"), strides[conv])
            if conv != last:
                y = self._add("Relu", y)
        if "shortcut" in layers:
            norm = (block, "bn_shortcut") if "bn_shortcut" in layers else None
            x = self._conv(x, (block, "shortcut"), norm, stride)
        return self._add("Relu", self._add("Add", y, x)), features

    def _conv(
        self,
        x: str,
        conv: tuple[str, ...],
        norm: tuple[str, ...] | None,
        stride: int = 1,
    ) -> str:
        layer = _at(self._params, conv)
        kernel = np.asarray(layer["kernel"], np.float64)
        bias = np.asarray(layer.get("bias", np.zeros(kernel.shape[-1])), np.float64)
        if norm:
            affine, stats = _at(self._params, norm), _at(self._stats, norm)
            factor = np.float64(affine["scale"]) / np.sqrt(
                np.float64(stats["var"]) + 1e-5
            )
            kernel = kernel * factor
            bias = (bias - np.float64(stats["mean"])) * factor + np.float64(
                affine["bias"]
            )
        pad, where = kernel.shape[0] // 2, ".".join(conv)
        weights = self._weight(f"{where}.kernel", kernel.transpose(3, 2, 0, 1))
        return self._add(
            "Conv",
            x,
            weights,
            self._weight(f"{where}.bias", bias),
            pads=[pad] * 4,
            strides=[stride] * 2,
        )

    def _head(self, x: str) -> None:
        head = self._params["head"]
        kernel = self._weight("head.kernel", head["kernel"])
        self._add(
            "Gemm", x, kernel, self._weight("head.bias", head["bias"]), to="logits"
        )

    def _weight(self, name: str, value: Any) -> str:
        from onnx import numpy_helper

        value = np.ascontiguousarray(value, np.float32)
        self.weights.append(numpy_helper.from_array(value, name))
        return name

    def _add(self, kind: str, *inputs: str, to: str = "", **attributes: Any) -> str:
        from onnx import helper

        name = to or f"{kind.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name


def _at(tree: PyTree, path: tuple[str, ...]) -> Any:
    for name in path:
        tree = tree[name]
    return tree
