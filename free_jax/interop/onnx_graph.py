"""A classifier in an .onnx file as a raw graph, and what the file says about images."""

import math
import pathlib
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from free_jax.errors import InputError
from free_jax.interop.endings import needed
from free_jax.interop.onnx_images import describe_input, with_nchw_input
from free_jax.interop.onnx_names import class_names
from free_jax.interop.onnx_nodes import Reading, first_line
from free_jax.interop.onnx_parts import OnnxParts, Slot, read_parts
from free_jax.interop.raw_graph import Node, RawGraph, Ref
from free_jax.models.operators import OPERATORS, onnx_static, unknown

_FLOATS = (1, 10, 11, 16)


class OnnxModel(NamedTuple):
    """A classifier, read.

    Attributes:
      graph: takes NCHW whatever the file's layout.
      image_shape: (h, w, c); 0 where any size is taken.
      layout: of the file's input.
      range: 1 if it wants pixels (normalised, from) in [0, 1], 255 if in [0, 255].
      fixed_batch: 1 if it takes one image at a time.
      class_names: by output, if the file says them.
      sources: what each of these was read from.
    """

    graph: RawGraph
    image_shape: tuple[int, int, int]
    layout: Literal["NCHW", "NHWC"]
    range: Literal[1, 255]
    fixed_batch: int | None
    class_names: tuple[str, ...] | None
    sources: dict[str, str]


def read_onnx(
    path: str | pathlib.Path,
    *,
    inside: str | pathlib.Path,
    output: str | None = None,
    classes: int | None = None,
) -> OnnxModel:
    """Reads a classifier from an .onnx file; nothing of it is run.

    Args:
      path: the file.
      inside: the folder that weights beside it may lie in.
      output: the name of the output to take, where there are several.
      classes: number of classes, if it is known; tells outputs apart.

    Raises:
      InputError: it is no classifier that can be read; says what and where.
    """
    path = pathlib.Path(path)
    parts = read_parts(path, pathlib.Path(inside))
    image = _image_input(parts, path)
    names, key = class_names(parts.metadata)
    wanted = classes or (len(names) if names else None)
    chosen, why = choose_output(parts, path, output, wanted)
    graph = _translate(parts, image, chosen, path)
    seen = describe_input(image, graph, parts.metadata, path)
    graph = with_nchw_input(graph, seen.layout)
    fixed = _fixed_batch(image, path)
    found = _width(graph, seen.image_shape, fixed, path)
    if names and found and len(names) != found:
        key, names = f"{key} holds {len(names)} names for {found} outputs", None
    said = {
        "input": f"{image.name} {_sizes(image.shape)}",
        "layout": seen.layout_source,
        "range": seen.range_source,
        "output": f"{chosen.name} ({why})",
        "class_names": f"metadata: {key}" if key else "",
        "opset": str(parts.opset),
        "precision": "float16, read as float32" if parts.half else "float32",
    }
    return OnnxModel(
        graph,
        seen.image_shape,
        seen.layout,
        seen.range,
        fixed,
        names,
        {name: text for name, text in said.items() if text},
    )


def _sizes(shape: tuple[int | None, ...] | None) -> str:
    return "of any shape" if shape is None else "x".join(str(s or "n") for s in shape)


def _image_input(parts: OnnxParts, path: pathlib.Path) -> Slot:
    if len(parts.inputs) != 1:
        names = ", ".join(f"{i.name[:40]} {_sizes(i.shape)}" for i in parts.inputs[:6])
        raise InputError(
            f"{path}: takes {len(parts.inputs)} inputs ({names}); only one batch of "
            "images can be given"
        )
    (image,) = parts.inputs
    if image.kind not in (*_FLOATS, 2):
        raise InputError(
            f"{path}: input {image.name!r} is of ONNX type {image.kind}; images are "
            "floats or uint8"
        )
    if image.shape is None or len(image.shape) != 4:
        raise InputError(
            f"{path}: input {image.name!r} is {_sizes(image.shape)}; a batch of images "
            "has four axes"
        )
    return image


def choose_output(
    parts: OnnxParts, path: pathlib.Path, named: str | None, classes: int | None
) -> tuple[Slot, str]:
    """The output that is logits or probabilities, and why it was taken.

    By the name that is asked for, else logits before probabilities by their names,
    else by width.

    Raises:
      InputError: none of them fits, or several do; names them.
    """
    listed = ", ".join(f"{o.name[:40]} {_sizes(o.shape)}" for o in parts.outputs[:6])
    if named is not None:
        for slot in parts.outputs:
            if slot.name == named:
                return _classifying(slot, path), "by its name"
        raise InputError(f"{path}: has no output {named!r}; it has {listed}")
    fits = [slot for slot in parts.outputs if _may_classify(slot, classes)]
    if len(parts.outputs) == 1 or not fits:
        return _classifying(parts.outputs[0], path), "the only one"
    for word in ("logit", "prob", "softmax"):
        mine = [slot for slot in fits if word in slot.name.lower()]
        if len(mine) == 1:
            return mine[0], f"by its name, of {listed}"
    if classes:
        mine = [slot for slot in fits if slot.shape and slot.shape[1] == classes]
        if len(mine) == 1:
            return mine[0], f"by its width, of {listed}"
    entering = [_enters_softmax(parts, slot.name) for slot in fits]
    if sum(name is not None for name in entering) == 1:
        (softmax,) = (s for s, name in zip(fits, entering, strict=True) if name)
        for slot in fits:  # Its logits, if they are given too.
            if _source(parts, slot.name) in entering:
                return slot, f"what enters a softmax, of {listed}"
        return softmax, f"the one with a softmax, of {listed}"
    if len(fits) == 1:
        return fits[0], f"the only one of two axes, of {listed}"
    raise InputError(f"{path}: which output is it: {listed}? Name it by output_name")


def _source(parts: OnnxParts, name: str) -> str:
    """The value that a name passes on."""
    for node in reversed(parts.nodes):
        if node.op == "Identity" and name in node.outputs and node.inputs:
            name = node.inputs[0]
    return name


def _enters_softmax(parts: OnnxParts, name: str) -> str | None:
    """What a value is the softmax of, if it is one."""
    name = _source(parts, name)
    for node in parts.nodes:
        softmax = node.op in ("Softmax", "LogSoftmax")
        if softmax and name in node.outputs and node.inputs:
            return _source(parts, node.inputs[0])
    return None


def _may_classify(slot: Slot, classes: int | None) -> bool:
    try:
        _classifying(slot, pathlib.Path())
    except InputError:
        return False
    width = slot.shape[1] if slot.shape and len(slot.shape) > 1 else None
    return not (classes and width and width != classes)


def _classifying(slot: Slot, path: pathlib.Path) -> Slot:
    """The output, if it may be [n, classes]."""
    if slot.kind not in _FLOATS:
        raise InputError(
            f"{path}: output {slot.name[:60]!r} is of ONNX type {slot.kind}, not of "
            "floats; a label alone is no teacher with gradients"
        )
    shape = slot.shape
    if shape is None:
        return slot
    rest = shape[2:]
    flat = len(shape) == 2 or (len(shape) == 4 and all(s in (1, None) for s in rest))
    if not flat or shape[1] == 1:
        raise InputError(
            f"{path}: output {slot.name[:60]!r} is {_sizes(shape)}; a classifier gives "
            "[n, classes] (a detector or a segmenter is none)"
        )
    return slot


def _translate(
    parts: OnnxParts, image: Slot, chosen: Slot, path: pathlib.Path
) -> RawGraph:
    reading = Reading(parts, image)
    for number, node in enumerate(parts.nodes):
        try:
            reading.add(node)
        except InputError as error:
            raise InputError(
                f"{path}: node {number} ({node.op[:40]}): {error}"
            ) from None
    value = reading.values.get(chosen.name)
    if not isinstance(value, Ref) or value.name not in reading.of_images:
        raise InputError(f"{path}: output {chosen.name[:60]!r} depends on no image")
    nodes = tuple(reading.nodes)
    graph = needed(
        RawGraph(image.name, nodes, value.name, reading.weights, reading.keys)
    )
    if missing := unknown({node.op for node in graph.nodes}):
        short = ", ".join(name.removeprefix("onnx.") for name in missing[:8])
        raise InputError(f"{path}: operators that free_jax does not know: {short}")
    return graph


def _fixed_batch(image: Slot, path: pathlib.Path) -> int | None:
    """1 where the graph may only be given one image at a time."""
    batch = image.shape[0] if image.shape else None
    if batch not in (None, 1):
        raise InputError(
            f"{path}: takes exactly {batch} images at a time; export it with a free "
            "batch, or for one image"
        )
    return batch


def _width(
    graph: RawGraph,
    image_shape: tuple[int, int, int],
    fixed: int | None,
    path: pathlib.Path,
) -> int | None:
    """How many outputs there are, where the size of images is known."""
    if 0 in image_shape:
        return None
    batch = fixed or 2
    shape = value_shapes(graph, batch, image_shape, path)[graph.output]
    classes = math.prod(shape[1:])
    if shape[0] != batch or classes < 2 or max(shape[1:]) != classes:
        raise InputError(
            f"{path}: gives {list(shape)} for {batch} images; a classifier gives "
            "[n, classes]"
        )
    return classes


def value_shapes(
    graph: RawGraph, batch: int, image_shape: tuple[int, int, int], path: pathlib.Path
) -> dict[str, tuple[int, ...]]:
    """The shape of every value for a batch of images; nothing is computed.

    Raises:
      InputError: an operator does not fit what it is given, or makes a giant value.
    """
    h, w, c = image_shape
    shapes: dict[str, tuple[int, ...]] = {}

    def run(x):
        values: dict[str, Any] = {**graph.weights, graph.input: x}
        for node in graph.nodes:
            try:
                args = [_filled(arg, values) for arg in node.args]
                made = OPERATORS[node.op](*args, **node.kwargs)
            except InputError as error:
                raise InputError(f"{path}: {node.op}: {error}") from None
            except Exception as error:
                raise InputError(
                    f"{path}: {node.op} does not fit {_shape_text(node, values)} "
                    f"({first_line(error)})"
                ) from None
            values[node.out] = made
            if not isinstance(made, list | tuple):
                shapes[node.out] = np.shape(made)
                if math.prod(shapes[node.out]) > onnx_static.LARGEST_MADE:
                    raise InputError(
                        f"{path}: {node.op} makes a value of shape {shapes[node.out]}"
                    )
        return jnp.asarray(values[graph.output])

    with np.errstate(all="ignore"):
        jax.eval_shape(run, jax.ShapeDtypeStruct((batch, c, h, w), jnp.float32))
    shapes[graph.input] = (batch, c, h, w)
    return shapes


def _filled(arg: Any, values: dict[str, Any]) -> Any:
    if isinstance(arg, Ref):
        return values[arg.name]
    return arg


def _shape_text(node: Node, values: dict[str, Any]) -> str:
    shapes = [
        str(list(np.shape(values[arg.name])))
        for arg in node.args
        if isinstance(arg, Ref) and not isinstance(values[arg.name], list | tuple)
    ]
    return " and ".join(shapes) or "its arguments"
