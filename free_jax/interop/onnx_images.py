"""What an ONNX graph wants of its images: order of axes, sizes and range."""

import pathlib
import re
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import numpy as np

from free_jax.errors import InputError
from free_jax.interop.onnx_parts import Slot
from free_jax.interop.raw_graph import Node, RawGraph, Ref, refs

_TO_CHANNELS_FIRST, _TO_CHANNELS_LAST = [0, 3, 1, 2], [0, 2, 3, 1]
# What stands between the input and its first arithmetic or convolution.
_MOVES = (
    *("onnx.Transpose", "onnx.Cast", "onnx.Resize", "onnx.Slice", "onnx.Pad"),
    *("onnx.Upsample",),
)
_ARITHMETIC = ("onnx.Add", "onnx.Sub", "onnx.Mul", "onnx.Div")


class InputImages(NamedTuple):
    """Images as a graph takes them.

    Attributes:
      layout: order of the axes of the graph's input.
      image_shape: (h, w, c); 0 where any size is taken.
      range: 1 or 255, the largest value of a pixel (before normalisation outside).
      layout_source, range_source: what was read or guessed from what.
    """

    layout: Literal["NCHW", "NHWC"]
    image_shape: tuple[int, int, int]
    range: Literal[1, 255]
    layout_source: str
    range_source: str


def describe_input(
    image: Slot, graph: RawGraph, metadata: Mapping[str, str], path: pathlib.Path
) -> InputImages:
    """Reads it from the input's shape, the first nodes, and what the file says.

    Raises:
      InputError: nothing tells rows from channels.
    """
    assert image.shape is not None
    first, last = image.shape[1], image.shape[3]
    seen = _channels_of_first_convolution(graph)
    plausible = (1, 3)
    if (first in plausible) != (last in plausible):
        why = "the input's shape"
        layout: Literal["NCHW", "NHWC"] = "NCHW" if first in plausible else "NHWC"
    elif seen is not None:
        layout, why = seen[0], "the first convolution"
    elif first is None or first in plausible:
        layout, why = "NCHW", "guessed: nothing says where channels stand"
    else:
        sizes = "x".join(str(size or "n") for size in image.shape)
        raise InputError(f"{path}: takes {sizes}, which are no images")
    if layout == "NCHW":
        c, h, w = image.shape[1:]
    else:
        h, w, c = image.shape[1:]
    if c is None and seen is not None and seen[0] == layout:
        c = seen[1]
    if h is None or w is None:
        h, w = _said_size(metadata, h, w)
    value_range, said = (255, "uint8 input") if image.kind == 2 else _range(graph)
    return InputImages(layout, (h or 0, w or 0, c or 3), value_range, why, said)


def _said_size(
    metadata: Mapping[str, str], h: int | None, w: int | None
) -> tuple[int | None, int | None]:
    """``imgsz``, as ultralytics writes it, for sizes that the input leaves free."""
    digits = re.findall(r"\d{1,5}", metadata.get("imgsz", ""))
    sizes = [int(size) for size in digits]
    if len(sizes) not in (1, 2) or 0 in sizes:
        return h, w
    return h or sizes[0], w or sizes[-1]


def with_nchw_input(graph: RawGraph, layout: str) -> RawGraph:
    """The graph behind a permutation, where its own input is NHWC."""
    if layout == "NCHW":
        return graph
    name = "images, channels first"
    turn = Node(
        "onnx.Transpose", (Ref(name),), {"perm": _TO_CHANNELS_LAST}, graph.input
    )
    return graph._replace(input=name, nodes=(turn, *graph.nodes))


def _consumers(graph: RawGraph, name: str) -> list[Node]:
    return [
        node
        for node in graph.nodes
        if name in refs(node.args) and not node.op.endswith((".Shape", ".Size"))
    ]


def _channels_of_first_convolution(
    graph: RawGraph,
) -> tuple[Literal["NCHW", "NHWC"], int] | None:
    """The layout and channels that the first convolution behind the input implies."""
    name, turned = graph.input, False
    for _ in range(32):
        nodes = _consumers(graph, name)
        if not nodes:
            return None
        node = nodes[0]
        if node.op == "onnx.Conv":
            weight = graph.weights.get(next(iter(refs(node.args[1:2])), ""))
            if weight is None or weight.ndim != 4:
                return None
            channels = weight.shape[1] * node.kwargs.get("group", 1)
            return ("NHWC" if turned else "NCHW"), channels
        if node.op == "onnx.Transpose":
            if node.kwargs.get("perm") != _TO_CHANNELS_FIRST:
                return None
            turned = True
        elif node.op not in (*_MOVES, *_ARITHMETIC, "onnx.BatchNormalization"):
            return None
        name = node.out
    return None


def _range(graph: RawGraph) -> tuple[Literal[1, 255], str]:
    """255 where the first arithmetic on the input brings grey levels to order one."""
    name = graph.input
    for _ in range(16):
        nodes = _consumers(graph, name)
        if not nodes:
            break
        node = nodes[0]
        if node.op == "onnx.BatchNormalization":
            mean = _numbers(graph, node.args[3])
            if mean is not None and mean.max(initial=0) > 10:
                return 255, "guessed from the means of the first normalisation"
            break
        if node.op in _ARITHMETIC and len(node.args) == 2:
            number = _numbers(graph, node.args[1])
            if number is not None and number.size:
                low, high = np.abs(number).min(), np.abs(number).max()
                kind = node.op.removeprefix("onnx.")
                large = (
                    (kind == "Div" and low > 20)
                    or (kind == "Mul" and 0 < high < 0.05)
                    or (kind in ("Sub", "Add") and high > 10)
                )
                if large:
                    return (
                        255,
                        f"guessed from its first step, {kind} {high:.4g}",
                    )
            break
        if node.op not in _MOVES:
            break
        name = node.out
    return 1, ""


def _numbers(graph: RawGraph, value: Any) -> np.ndarray | None:
    if isinstance(value, Ref):
        value = graph.weights.get(value.name)
    return None if value is None else np.asarray(value, np.float64)
