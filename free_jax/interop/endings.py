"""The end of a classifier: softmax, linear head, and the pooled map before it."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from free_jax.interop.raw_graph import Node, RawGraph, Ref, refs

_PROBABILITIES = {
    "aten.sigmoid.default": "probabilities",
    "aten.softmax.int": "probabilities",
    "aten.log_softmax.int": "log-probabilities",
    "onnx.Softmax": "probabilities",
    "onnx.Sigmoid": "probabilities",
    "onnx.LogSoftmax": "log-probabilities",
}
_CASTS = {"aten.to.dtype", "onnx.Cast"}
_SHAPES = {
    "aten.reshape.default",
    "aten.flatten.using_ints",
    "aten.squeeze.default",
    "aten.squeeze.dim",
    "aten.squeeze.dims",
    "onnx.Reshape",
    "onnx.Flatten",
    "onnx.Squeeze",
}
_TRANSPOSES = {
    "aten.t.default": (),
    "aten.permute.default": ([1, 0],),
    "aten.transpose.int": (0, 1),
    "onnx.Transpose": (),
}


class Head(NamedTuple):
    """A linear head.

    Attributes:
      features: the name of the value that enters it.
      kernel, bias: names of weights; bias None: there is none.
      transposed: the kernel is [classes, features], as PyTorch keeps it.
    """

    features: str
    kernel: str
    bias: str | None
    transposed: bool


def without_softmax(graph: RawGraph) -> tuple[RawGraph, str]:
    """The graph up to its logits, and what it gave: "logits", "probabilities", .."""
    made = {node.out: node for node in graph.nodes}
    output, given = graph.output, "logits"
    name = output
    while (node := made.get(name)) is not None:
        if node.op in _PROBABILITIES and _over_classes(node):
            if given == "logits":
                given = _PROBABILITIES[node.op]
            output = name = node.args[0].name
        elif node.op in _CASTS or node.op in _SHAPES:
            if node.op in _CASTS:
                output = node.args[0].name if output == name else output
            name = node.args[0].name
        else:
            break
    return graph._replace(output=output), given


def _over_classes(node: Node) -> bool:
    dim = node.args[1] if len(node.args) > 1 else node.kwargs.get("axis", -1)
    return dim in (1, -1)


def linear_head(graph: RawGraph) -> Head | None:
    """The linear layer that the output is, up to its shape; None: it is none."""
    made = {node.out: node for node in graph.nodes}
    node = made.get(graph.output)
    while node is not None and node.op in _SHAPES | _CASTS:
        node = made.get(_name(node.args[0]) or "")
    if node is None:
        return None
    head = _linear(node, made, graph.weights)
    if head is None:
        return None
    kernel = graph.weights.get(head.kernel)
    bias = graph.weights.get(head.bias) if head.bias else None
    if kernel is None or np.ndim(kernel) != 2 or (head.bias and bias is None):
        return None
    classes = kernel.shape[0 if head.transposed else 1]
    return None if bias is not None and bias.shape != (classes,) else head


def _name(value: Any) -> str | None:
    return value.name if isinstance(value, Ref) else None


def _linear(
    node: Node, made: dict[str, Node], weights: dict[str, np.ndarray]
) -> Head | None:
    args = [_name(arg) for arg in node.args]
    if node.op == "aten.linear.default":
        x, kernel, bias = (*args, None)[:3]
        return Head(x, kernel, bias, True) if x and kernel else None
    if node.op == "onnx.Gemm":
        x, kernel, bias = (*args, None)[:3]
        said = node.kwargs
        scales = said.get("alpha", 1) == 1 and said.get("beta", 1) == 1
        if not (x and kernel and scales) or said.get("transA"):
            return None
        return Head(x, kernel, bias, bool(said.get("transB")))
    if node.op == "aten.addmm.default" and len(args) == 3 and not node.kwargs:
        bias, x, kernel = args
    elif node.op in ("aten.mm.default", "aten.matmul.default", "onnx.MatMul"):
        (x, kernel), bias = args, None
    elif node.op in ("aten.add.Tensor", "onnx.Add") and len(args) == 2:
        bias = next((a for a in args if a in weights), None)
        other = made.get(next((a for a in args if a and a != bias), ""))
        inner = _linear(other, made, weights) if other and bias else None
        return inner._replace(bias=bias) if inner and inner.bias is None else None
    else:
        return None
    if not x or not kernel:
        return None
    turn = made.get(kernel)
    if turn is not None and turn.op in _TRANSPOSES:
        said = tuple(turn.args[1:])
        if said in ((), _TRANSPOSES[turn.op]) and _name(turn.args[0]) in weights:
            return Head(x, turn.args[0].name, bias, True)
    return Head(x, kernel, bias, False)


# What gives a map [n, c, h, w], and what leaves it one.
_MAPS = ("conv2d", "max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "pixel_shuffle")
_KEEPS = frozenset(
    "aten." + name
    for name in (
        *("add.Tensor", "mul.Tensor", "sub.Tensor", "cat.default"),
        *("batch_norm.default", "celu.default", "clamp.default", "elu.default"),
        *("gelu.default", "group_norm.default", "hardswish.default"),
        *("hardtanh.default", "leaky_relu.default", "mish.default", "prelu.default"),
        *("relu.default", "relu6.default", "selu.default", "sigmoid.default"),
        *("silu.default", "softplus.default", "tanh.default", "to.dtype"),
    )
)


def _is_map(name: str, made: dict[str, Node]) -> bool:
    for _ in range(64):
        node = made.get(name)
        if node is None:
            return False
        if node.op.removeprefix("aten.").split(".")[0] in _MAPS:
            return True
        name = next(refs(node.args), "")
        if node.op not in _KEEPS:
            return False
    return False


def _spatial(dims: Any) -> bool:
    dims = dims if isinstance(dims, list | tuple) else [dims]
    return sorted(d % 4 for d in dims if isinstance(d, int)) == [2, 3]


def one_pooling(graph: RawGraph) -> RawGraph:
    """Writes all ways to the mean of a map [n, c] alike, and flattening [n, c * h * w].

    ``mean([-1, -2])``, adaptive pooling to one pixel followed by flatten, view, reshape
    or squeeze become ``mean([2, 3])``; a view of a map by its batch size becomes
    ``flatten(1)``.
    """
    made: dict[str, Node] = {}
    nodes: list[Node] = []
    for node in graph.nodes:
        node = _one_pooling(node, made)
        made[node.out] = node
        nodes.append(node)
    return graph._replace(nodes=tuple(nodes))


def _one_pooling(node: Node, made: dict[str, Node]) -> Node:
    source = _name(node.args[0]) if node.args else None
    if source is None or node.kwargs:
        return node
    if node.op == "aten.mean.dim" and _spatial(node.args[1]) and _is_map(source, made):
        return node._replace(args=(node.args[0], [2, 3], *node.args[2:]))
    if not _flattens(node, made):
        return node
    pooled = made.get(source)
    if pooled is not None and pooled.op == "aten.squeeze.dim":
        pooled = made.get(_name(pooled.args[0]) or "")
    if pooled is not None and _pools_all(pooled, made):
        return node._replace(op="aten.mean.dim", args=(pooled.args[0], [2, 3]))
    by_batch = node.op == "aten.reshape.default" and isinstance(node.args[1][0], Ref)
    if by_batch and _is_map(source, made):
        return node._replace(op="aten.flatten.using_ints", args=(node.args[0], 1))
    return node


def _pools_all(node: Node, made: dict[str, Node]) -> bool:
    if node.op == "aten.adaptive_avg_pool2d.default":
        return node.args[1] in ([1, 1], [1], 1)
    if node.op == "aten.mean.dim" and len(node.args) > 2 and node.args[2] is True:
        return _spatial(node.args[1]) and _is_map(node.args[0].name, made)
    return False


def _flattens(node: Node, made: dict[str, Node]) -> bool:
    """Whether the node drops the last two axes of size one, or joins them."""
    rest = list(node.args[1:])
    if node.op == "aten.flatten.using_ints":
        return rest in ([1], [1, -1], [1, 3], [-3], [-3, -1])
    if node.op == "aten.squeeze.dims":
        return _spatial(rest[0])
    if node.op == "aten.squeeze.dim":
        before = made.get(node.args[0].name)
        if before is None or before.op != "aten.squeeze.dim":
            return False
        first, second = before.args[1], rest[0]
        return (first, second) in ((-1, -1), (3, 2), (2, 2), (3, -1), (-1, 2), (-2, -1))
    if node.op == "aten.reshape.default" and len(rest[0]) == 2:
        return isinstance(rest[0][0], Ref) or rest[0][0] == -1
    return False


def needed(graph: RawGraph) -> RawGraph:
    """Only the nodes that the output depends on."""
    wanted, kept = {graph.output}, []
    for node in reversed(graph.nodes):
        if node.out in wanted:
            kept.append(node)
            wanted.update(inputs(node))
    return graph._replace(nodes=tuple(reversed(kept)))


def inputs(node: Node) -> Iterator[str]:
    """The names of the values that a node uses."""
    yield from refs(node.args)
    yield from refs(list(node.kwargs.values()))
