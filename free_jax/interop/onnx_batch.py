"""Makes a graph that was exported for one image run on any number.

A value that holds one image a row ("batched") has its images along one axis.  Node by
node it is followed where that axis goes; reshapes that name a size of one there are
written with -1.  Where a node is met that might mix images, nothing is claimed: such a
graph is run one image at a time.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from free_jax.interop.raw_graph import Node, RawGraph, Ref

# The axis of images of a value; None for what no image enters.
Place = int | None
Shapes = Mapping[str, tuple[int, ...]]


class _Unknown(Exception):
    """Nothing can be said of a node."""


def freed(graph: RawGraph, shapes: Shapes) -> RawGraph | None:
    """The graph for any number of images, or None where that is not certain.

    Args:
      graph: of one image.
      shapes: of all values, for one image.
    """
    places: dict[str, Place] = {graph.input: 0}
    nodes = []
    for node in graph.nodes:
        try:
            node, place = _step(node, places, shapes, graph)
        except (_Unknown, KeyError, IndexError, TypeError, ValueError):
            return None
        nodes.append(node)
        places[node.out] = place
    if places.get(graph.output) != 0 or len(shapes[graph.output]) < 2:
        return None
    return graph._replace(nodes=tuple(nodes))


def _step(
    node: Node, places: dict[str, Place], shapes: Shapes, graph: RawGraph
) -> tuple[Node, Place]:
    mine = [places.get(arg.name) if isinstance(arg, Ref) else None for arg in node.args]
    if all(place is None for place in mine):
        return node, None
    op = node.op.removeprefix("onnx.")
    if op in ("Shape", "Size"):
        # Sizes with one image's batch in them: those of the file's own arithmetic.
        raise _Unknown

    def shape(arg: Any) -> tuple[int, ...]:
        if isinstance(arg, Ref):
            known = shapes.get(arg.name)
            return np.shape(graph.weights[arg.name]) if known is None else known
        return np.shape(arg)

    if op in _RULES:
        return _RULES[op](node, mine, [shape(arg) for arg in node.args])
    if op in _PER_CHANNEL:
        _only_first(mine)
        return node, _must(mine[0] == 0, 0)
    if op in _ELEMENTWISE:
        return node, _aligned(mine, [shape(arg) for arg in node.args])
    raise _Unknown


def _must(condition: bool, place: Place) -> Place:
    if not condition:
        raise _Unknown
    return place


def _only_first(mine: list[Place]) -> int:
    if mine[0] is None or any(place is not None for place in mine[1:]):
        raise _Unknown
    return mine[0]


def _aligned(mine: list[Place], shapes: list[tuple[int, ...]]) -> Place:
    """Broadcasting: all images on one axis, and size one there in what has none."""
    rank = max(len(shape) for shape in shapes)
    found: set[int] = set()
    for place, shape in zip(mine, shapes, strict=True):
        if place is not None:
            found.add(place + rank - len(shape))
    if len(found) != 1:
        raise _Unknown
    (axis,) = found
    pairs = list(zip(mine, shapes, strict=True))
    size = max(s[axis - rank + len(s)] for p, s in pairs if p is not None)
    for place, shape in pairs:
        own = axis - rank + len(shape)
        if place is None and own >= 0 and shape[own] != 1:
            raise _Unknown
        if place is not None and shape[own] != size:
            raise _Unknown
    return axis


def _reshape(node: Node, mine, shapes) -> tuple[Node, Place]:
    """Rows stay whole images: the order of numbers is images first."""
    _must(_only_first(mine) == 0, 0)
    wanted = list(node.args[1])
    if not node.kwargs.get("allowzero"):
        wanted = [shapes[0][i] if s == 0 else s for i, s in enumerate(wanted)]
    if not wanted:
        raise _Unknown
    if -1 in wanted:
        known = int(np.prod([s for s in wanted if s != -1]))
        wanted[wanted.index(-1)] = int(np.prod(shapes[0])) // known
    if any(s < 1 for s in wanted):
        raise _Unknown
    return node._replace(args=(node.args[0], [-1, *wanted[1:]])), 0


def _flatten(node: Node, mine, shapes) -> tuple[Node, Place]:
    _must(_only_first(mine) == 0 and node.kwargs.get("axis", 1) >= 1, 0)
    return node, 0


def _transpose(node: Node, mine, shapes) -> tuple[Node, Place]:
    perm = node.kwargs.get("perm") or list(range(len(shapes[0])))[::-1]
    return node, list(perm).index(_only_first(mine))


def _unsqueeze(node: Node, mine, shapes) -> tuple[Node, Place]:
    axes = sorted(axis % (len(shapes[0]) + len(node.args[1])) for axis in node.args[1])
    place = _only_first(mine)
    for axis in axes:
        place += axis <= place
    return node, place


def _squeeze(node: Node, mine, shapes) -> tuple[Node, Place]:
    place = _only_first(mine)
    rank = len(shapes[0])
    if len(node.args) < 2:  # All of size one, one image's own axis too.
        raise _Unknown
    axes = [axis % rank for axis in node.args[1]]
    _must(place not in axes, 0)
    return node, place - sum(axis < place for axis in axes)


def _along(default: int, node: Node, mine, shapes) -> tuple[Node, Place]:
    """Works along one axis and keeps all."""
    place = _only_first(mine)
    axis = node.kwargs.get("axis", default) % len(shapes[0])
    return node, _must(axis != place, place)


def _from(node: Node, mine, shapes) -> tuple[Node, Place]:
    """Works along an axis and all behind it."""
    place = _only_first(mine)
    axis = node.kwargs.get("axis", -1) % len(shapes[0])
    return node, _must(axis > place, place)


def _softmax(node: Node, mine, shapes) -> tuple[Node, Place]:
    rule = _from if node.kwargs.get("flattened") else functools.partial(_along, -1)
    return rule(node, mine, shapes)


def _reduce(node: Node, mine, shapes) -> tuple[Node, Place]:
    place, rank = _only_first(mine), len(shapes[0])
    if len(node.args) < 2 or not node.args[1]:
        raise _Unknown  # Over all axes, that of images too.
    axes = [axis % rank for axis in node.args[1]]
    _must(place not in axes, 0)
    if node.kwargs.get("keepdims", 1):
        return node, place
    return node, place - sum(axis < place for axis in axes)


def _concat(node: Node, mine, shapes) -> tuple[Node, Place]:
    """Class tokens and the like are repeated for each image."""
    found = {place for place in mine if place is not None}
    _must(len(found) == 1, 0)
    (place,) = found
    axis = node.kwargs["axis"] % len(shapes[0])
    _must(axis != place, 0)
    if all(p is not None for p in mine):
        return node, place
    _must(all(shape[place] == 1 for shape in shapes), 0)
    kwargs = {"axis": axis, "batch": place}
    return node._replace(op="onnx.StretchedConcat", kwargs=kwargs), place


def _gather(node: Node, mine, shapes) -> tuple[Node, Place]:
    place = _only_first(mine)
    axis = node.kwargs.get("axis", 0) % len(shapes[0])
    _must(axis != place, 0)
    return node, place + (len(shapes[1]) - 1 if axis < place else 0)


def _slice(node: Node, mine, shapes) -> tuple[Node, Place]:
    place = _only_first(mine)
    axes = node.args[3] if len(node.args) > 3 and node.args[3] else None
    axes = range(len(node.args[1])) if axes is None else axes
    _must(place not in [axis % len(shapes[0]) for axis in axes], 0)
    return node, place


def _pad(node: Node, mine, shapes) -> tuple[Node, Place]:
    place, pads = _only_first(mine), node.args[1]
    axes = node.args[3] if len(node.args) > 3 and node.args[3] else None
    axes = list(range(len(shapes[0]))) if axes is None else axes
    for i, axis in enumerate(axes):
        if axis % len(shapes[0]) == place:
            _must(pads[i] == pads[i + len(axes)] == 0, 0)
    return node, place


def _resize(node: Node, mine, shapes) -> tuple[Node, Place]:
    place = _only_first(mine)
    _must(not node.kwargs.get("axes") and place == 0, 0)
    scales = node.args[2] if len(node.args) > 2 else None
    sizes = node.args[3] if len(node.args) > 3 else None
    if sizes:  # Sizes name the number of images: name the others only.
        args = (*node.args[:3], sizes[1:])
        axes = list(range(1, len(shapes[0])))
        return node._replace(args=args, kwargs={**node.kwargs, "axes": axes}), 0
    return node, _must(bool(scales) and scales[0] == 1, 0)


def _expand(node: Node, mine, shapes) -> tuple[Node, Place]:
    place, wanted = _only_first(mine), list(node.args[1])
    place += max(len(wanted) - len(shapes[0]), 0)
    own = place - max(len(shapes[0]) - len(wanted), 0)
    _must(own < 0 or wanted[own] == 1, 0)
    return node, place


def _matmul(node: Node, mine, shapes) -> tuple[Node, Place]:
    """No axis of images may be multiplied along; stacks broadcast."""
    rank = max(map(len, shapes))
    found = set()
    for place, shape in zip(mine, shapes, strict=True):
        if place is not None:
            _must(len(shape) >= 2, 0)
            found.add(place + rank - len(shape))
    _must(len(found) == 1, 0)
    (axis,) = found
    if axis == rank - 2:  # Rows of the first factor.
        return node, _must(mine[1] is None and len(shapes[1]) == 2, axis)
    _must(axis < rank - 2, 0)
    lead = [shape[: len(shape) - 2] for shape in shapes]
    _aligned(mine, lead)
    return node, axis


def _gemm(node: Node, mine, shapes) -> tuple[Node, Place]:
    _must(_only_first(mine) == 0 and not node.kwargs.get("transA"), 0)
    bias = shapes[2] if len(shapes) > 2 else ()
    return node, _must(len(bias) < 2 or bias[0] == 1, 0)


def _getitem(node: Node, mine, shapes) -> tuple[Node, Place]:
    return node, _only_first(mine)


def _split(node: Node, mine, shapes) -> tuple[Node, Place]:
    return _along(0, node, mine, shapes)


_ELEMENTWISE = frozenset(
    (
        *("Abs", "Add", "And", "Cast", "Ceil", "Celu", "Clip", "Cos", "Div", "Elu"),
        *("Equal", "Erf", "Exp", "Floor", "Gelu", "Greater", "GreaterOrEqual"),
        *("HardSigmoid", "HardSwish", "IsInf", "IsNaN", "LeakyRelu", "Less"),
        *("LessOrEqual", "Log", "Max", "Mean", "Min", "Mish", "Mul", "Neg", "Not"),
        *("Or", "PRelu", "Pow", "Reciprocal", "Relu", "Round", "Selu", "Shrink"),
        *("Sigmoid", "Sign", "Sin", "Softplus", "Softsign", "Sqrt", "Sub", "Sum"),
        *("Swish", "Tan", "Tanh", "ThresholdedRelu", "Where", "Xor"),
    )
)
# Images on the first axis, channels on the second, each image for itself.
_PER_CHANNEL = frozenset(
    (
        *("AveragePool", "BatchNormalization", "Conv", "ConvTranspose"),
        *("DepthToSpace", "GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool"),
        *("GroupNormalization", "InstanceNormalization", "LRN", "LpPool", "MaxPool"),
        *("SpaceToDepth",),
    )
)
_RULES: dict[str, Callable[..., tuple[Node, Place]]] = {
    "Concat": _concat,
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "Gemm": _gemm,
    "LayerNormalization": _from,
    "LogSoftmax": _softmax,
    "LpNormalization": functools.partial(_along, -1),
    "MatMul": _matmul,
    "Pad": _pad,
    "RMSNormalization": _from,
    "Reshape": _reshape,
    "Resize": _resize,
    "Slice": _slice,
    "Softmax": _softmax,
    "Split": _split,
    "Squeeze": _squeeze,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
    "getitem": _getitem,
    **{
        f"Reduce{name}": _reduce
        for name in (
            *("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum"),
            "SumSquare",
        )
    },
}
