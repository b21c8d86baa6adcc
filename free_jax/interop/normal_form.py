"""The graphs of ``torch.export`` without what depends on how they were saved.

`spelling` has one name for every operation; here the shapes that ``torch.export`` knows
are used too, so that equal computations have equal nodes, whether a graph was saved as
traced or decomposed, for any number of images or for one:

- a change of shape is ``flatten.using_ints`` where it merges neighbouring axes,
  ``unflatten.int`` where it splits one, ``reshape.default`` with -1 for the number of
  images otherwise; so it does not depend on the image size where the network does not;
- a cast, a slice or a change of shape that changes nothing is left out;
- a number that is k times the number of images is read from the input's shape.

No torch and no JAX.
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from free_jax.errors import InputError
from free_jax.interop.raw_graph import Node, RawGraph, Ref, refs
from free_jax.interop.spelling import plain


class Images(NamedTuple):
    """A size that is `times` the number of images."""

    times: int


Size = int | Images | None  # None: an expression of another kind


class Traced(NamedTuple):
    """A graph as ``torch.export`` wrote it, with what it knows of every value.

    Attributes:
      graph: the nodes as they were saved.
      shapes: tensor -> sizes.
      dtypes: tensor -> ``"torch.float32"``.
      sizes: symbolic number -> its size.
    """

    graph: RawGraph
    shapes: dict[str, tuple[Size, ...]]
    dtypes: dict[str, str]
    sizes: dict[str, Size]


# A change of shape that keeps the order of elements.
_SHAPES = {
    f"aten.{name}"
    for name in (
        *("reshape.default", "view_as.default", "flatten.using_ints"),
        "unflatten.int",
    )
}
_CASTS = {"aten.to.dtype", "aten.to.other", "aten.type_as.default"}
_PERMUTATIONS = {
    f"aten.{name}"
    for name in (
        *("permute.default", "transpose.int", "t.default"),
        *("numpy_T.default", "mT.default", "movedim.int"),
    )
}
_FLOATS = {f"torch.{name}" for name in ("float16", "bfloat16", "float32", "float64")}


def normal_form(traced: Traced, source: str) -> RawGraph:
    """The graph in the one spelling, without what its output does not need.

    Weights become float32 where they are floating point, and so does the computation.

    Args:
      traced: a graph of ``torch.export``, functional or not, in inference.
      source: what error messages call it.

    Raises:
      InputError: traced in training mode, or it writes into a part of a tensor.
    """
    _check_inference(traced.graph, source)
    try:
        graph = plain(traced.graph)
    except InputError as error:
        raise InputError(f"{source}: {error}") from error
    known = _Known(traced, graph)
    nodes: list[Node] = []
    renamed: dict[str, str] = {}
    for node in graph.nodes:
        node = node._replace(
            args=tuple(_renamed(arg, renamed) for arg in node.args),
            kwargs={k: _renamed(arg, renamed) for k, arg in node.kwargs.items()},
        )
        same = _same_as(node, known)
        if known.of_images.intersection(_reads(node)):
            known.of_images.add(node.out)
        if same is not None:
            renamed[node.out] = same
        else:
            nodes.append(_rewritten(node, known))
    output = renamed.get(graph.output, graph.output)
    nodes = _needed(known.counts + nodes, output)
    used = {name for node in nodes for name in _reads(node)}
    return graph._replace(
        nodes=tuple(nodes),
        output=output,
        weights={k: _float32(v) for k, v in graph.weights.items() if k in used},
        keys={k: v for k, v in graph.keys.items() if k in used},
    )


# Operator -> place of "training" among its arguments, and of the statistics.
_MODES = {
    "aten.batch_norm.default": (5, 3),
    "aten.native_batch_norm.default": (5, 3),
    "aten.cudnn_batch_norm.default": (5, 3),
    "aten._native_batch_norm_legit.default": (5, 3),
    "aten._native_batch_norm_legit_functional.default": (5, 3),
    "aten.dropout.default": (2, None),
    "aten.dropout_.default": (2, None),
    "aten.feature_dropout.default": (2, None),
}


def _check_inference(graph: RawGraph, source: str) -> None:
    for node in graph.nodes:
        place, statistics = _MODES.get(node.op, (0, None))
        if place == 0 or not _argument(node, place, "train", False):
            continue
        # Without running statistics a norm is the same in both modes.
        if statistics is None or node.args[statistics] is not None:
            raise InputError(
                f"{source}: exported in training mode ({node.op}); call .eval() on the "
                "module and export it again"
            )


class _Known:
    """What is known of the values; and the nodes that count the images."""

    def __init__(self, traced: Traced, graph: RawGraph):
        self.shapes = traced.shapes
        self.dtypes = traced.dtypes
        self.sizes = traced.sizes
        self.input = graph.input
        self.images = self.shapes.get(graph.input, (None,))[0]
        self.of_images = {graph.input}  # values that depend on the images
        self.counts: list[Node] = []
        self._names: dict[int, str] = {}

    def count(self, times: int) -> Ref:
        """The number of images, `times` over, as a value of the graph."""
        if times not in self._names:
            self._names[times] = name = f"images_{times}"
            if times == 1:
                args: tuple[Any, ...] = (Ref(self.input), 0)
                node = Node("aten.sym_size.int", args, {}, name)
            else:
                node = Node("mul", (self.count(1), times), {}, name)
            self.counts.append(node)
        return Ref(self._names[times])

    def repeats_for_images(self, node: Node) -> bool:
        """Whether a constant is repeated for a number of images that is fixed."""
        if node.op != "aten.expand.default" or not isinstance(self.images, int):
            return False
        after = self.shapes.get(node.out) or (None,)
        return after[0] == self.images and node.args[0].name not in self.of_images


def _renamed(arg: Any, renamed: dict[str, str]) -> Any:
    if isinstance(arg, Ref):
        return Ref(renamed.get(arg.name, arg.name))
    if isinstance(arg, list | tuple):
        return [_renamed(value, renamed) for value in arg]
    return arg


def _reads(node: Node) -> Iterator[str]:
    yield from refs(node.args)
    yield from refs([*node.kwargs.values()])


def _needed(nodes: list[Node], output: str) -> list[Node]:
    """Those nodes that the output depends on."""
    needed, kept = {output}, []
    for node in reversed(nodes):
        if node.out in needed:
            kept.append(node)
            needed.update(_reads(node))
    return kept[::-1]


def _float32(array: np.ndarray) -> np.ndarray:
    # ml_dtypes' bfloat16 is of kind V.
    floating = array.dtype.kind == "f" or "float" in array.dtype.name
    return array.astype(np.float32) if floating else array


def _same_as(node: Node, known: _Known) -> str | None:
    """The value that this node returns unchanged; None: it computes something."""
    first = node.args[0] if node.args else None
    if not isinstance(first, Ref):
        return None
    if node.op in _CASTS:
        types = known.dtypes.get(first.name), known.dtypes.get(node.out)
        unchanged = types[0] == types[1] or set(types) <= _FLOATS
        return first.name if types[0] and unchanged else None
    before, after = known.shapes.get(first.name), known.shapes.get(node.out)
    if before is None or before != after or None in before:
        return None
    if node.op == "aten.expand.default":
        return None if known.repeats_for_images(node) else first.name
    whole = node.op == "aten.slice.Tensor" and _argument(node, 4, "step", 1) == 1
    return first.name if whole or node.op in _SHAPES else None


def _argument(node: Node, index: int, name: str, default: Any) -> Any:
    if len(node.args) > index:
        return node.args[index]
    return node.kwargs.get(name, default)


def _rewritten(node: Node, known: _Known) -> Node:
    before = after = None
    if node.args and isinstance(node.args[0], Ref):
        before = known.shapes.get(node.args[0].name)
        after = known.shapes.get(node.out)
    if node.op in _SHAPES and before and after and None not in before + after:
        return _change_of_shape(node, before, after, known)
    if node.op in _PERMUTATIONS and before is not None:
        return _permutation(node, len(before))
    if known.repeats_for_images(node):
        sizes = [known.count(1), *node.args[1][1:]]
        return node._replace(args=(node.args[0], sizes))
    return node._replace(
        args=tuple(_counted(arg, known) for arg in node.args),
        kwargs={
            key: _counted(arg, known)
            for key, arg in node.kwargs.items()
            if arg is not None or key != "dtype"
        },
    )


def _counted(arg: Any, known: _Known) -> Any:
    """Numbers of images read from the input; half and double types become float32."""
    if isinstance(arg, Ref):
        size = known.sizes.get(arg.name)
        return known.count(size.times) if isinstance(size, Images) else arg
    if isinstance(arg, list | tuple):
        return [_counted(value, known) for value in arg]
    if isinstance(arg, str) and arg in _FLOATS:
        return "torch.float32"
    return arg


def _permutation(node: Node, rank: int) -> Node:
    order = list(range(rank))
    rest = node.args[1:]
    if node.op == "aten.permute.default":
        order = [int(axis) % rank for axis in rest[0]]
    elif node.op == "aten.movedim.int":
        axis, place = (int(value) % rank for value in rest)
        order.insert(place, order.pop(axis))
    elif node.op == "aten.numpy_T.default":
        order.reverse()
    elif rank > 1:
        a, b = (int(value) % rank for value in rest or (-2, -1))
        order[a], order[b] = order[b], order[a]
    return Node("aten.permute.default", (node.args[0], order), {}, node.out)


def _change_of_shape(
    node: Node, before: tuple[Size, ...], after: tuple[Size, ...], known: _Known
) -> Node:
    """The same elements in another shape, with as few numbers as possible."""
    x = node.args[0]
    # A weight of one leading row is no batch of one image.
    images = known.images if x.name in known.of_images else None
    if len(after) < len(before):
        run = _run(before, after)
        if run is not None:
            args: tuple[Any, ...] = (x, run[0], run[1] - 1)
            return Node("aten.flatten.using_ints", args, {}, node.out)
    elif len(after) > len(before):
        run = _run(after, before)
        if run is not None:
            sizes = [_free(size) for size in after[run[0] : run[1]]]
            if run[0] == 0 and after[0] == images:
                sizes[0] = -1
            return Node("aten.unflatten.int", (x, run[0], sizes), {}, node.out)
    if sum(isinstance(size, Images) for size in after) == 1:
        sizes = [_free(size) for size in after]
    elif images is not None and after[0] == before[0] == images:
        sizes = [-1, *after[1:]]
    else:
        sizes = [known.count(s.times) if isinstance(s, Images) else s for s in after]
    return Node("aten.reshape.default", (x, sizes), {}, node.out)


def _free(size: Size) -> Size:
    return -1 if isinstance(size, Images) else size


def _run(long: tuple[Size, ...], short: tuple[Size, ...]) -> tuple[int, int] | None:
    """Start and end of the neighbouring axes of `long` that are one axis of `short`.

    Of two readings, the one that leaves the first axis, the images, alone.
    """
    length = len(long) - len(short) + 1
    for start in [*range(1, len(short)), 0]:
        end = start + length
        if (
            long[:start] == short[:start]
            and long[end:] == short[start + 1 :]
            and _product(long[start:end]) == short[start]
        ):
            return start, end
    return None


def _product(sizes: tuple[Size, ...]) -> Size:
    times = math.prod(s.times if isinstance(s, Images) else s or 0 for s in sizes)
    counts = sum(isinstance(size, Images) for size in sizes)
    return None if counts > 1 else Images(times) if counts else times
