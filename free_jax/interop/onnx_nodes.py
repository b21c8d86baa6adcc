"""The nodes of an ONNX file as those of a raw graph.

What depends on no image is computed while reading, so that a graph holds only what is
done to images, and small tables stand in it as lists.
"""

import math
from typing import Any

import numpy as np

from free_jax.errors import InputError
from free_jax.interop import onnx_forms
from free_jax.interop.onnx_parts import OnnxNode, OnnxParts, Slot
from free_jax.interop.raw_graph import Node, Ref
from free_jax.models.operators import OPERATORS, onnx, onnx_static

# Tables up to this long are written as lists into the program.
_SHORT = 64
# Nodes on constants are computed here if their results cannot be much larger.
_FOLDABLE = (
    frozenset(onnx_static.TABLE)
    | {f"onnx.{name}" for name in onnx.EITHER}
    | {f"onnx.{name}" for name in ("Clip", "DequantizeLinear", "Div", "Gemm", "MatMul")}
    | {f"onnx.{name}" for name in ("Max", "Min", "Mod", "Pow", "Sum", "CumSum")}
    | {name for name in onnx.TABLE if name.startswith("onnx.Reduce")}
)


class Reading:
    """Nodes in the newest form; what depends on no image is computed at once."""

    def __init__(self, parts: OnnxParts, image: Slot):
        self.opset = parts.opset
        self.nodes: list[Node] = []
        self.values: dict[str, Any] = {image.name: Ref(image.name)}
        self.values |= parts.arrays
        # Values that come from stored weights: leaves, not parts of the program.
        self.stored = set(parts.arrays)
        self.weights: dict[str, np.ndarray] = {}
        self.keys: dict[str, str] = {}
        self.of_images = {image.name}
        # Whole grey levels, which are fed as floats.
        self.levels = {image.name} if image.kind == 2 else set()

    def add(self, node: OnnxNode) -> None:
        """One node of the file.

        Raises:
          InputError: it reads what is not there, or cannot be computed.
        """
        if node.op == "Constant":
            self.values[node.outputs[0]] = onnx_forms.constant(node.attributes)
            return
        inputs = [self._value(name) for name in node.inputs]
        outputs = [name for name in node.outputs if name]
        if not outputs or any(name in self.values for name in outputs):
            raise InputError("makes no value, or one that is there already")
        args, kwargs = onnx_forms.newest(
            node.op, inputs, node.attributes, self.opset, len(node.outputs)
        )
        while args and args[-1] is None:
            args.pop()
        passes = node.op in onnx_forms.IDENTITIES or self._is_cast_of_levels(node)
        if passes and args:
            self.values[node.outputs[0]] = args[0]
            if node.inputs[0] in self.stored:
                self.stored.add(node.outputs[0])
            return
        op = f"onnx.{node.op}"
        if not any(isinstance(arg, Ref) for arg in args) and op in _FOLDABLE:
            self._fold(op, args, kwargs, node)
            return
        self._keep(op, args, kwargs, node)

    def _value(self, name: str) -> Any:
        if not name:
            return None
        if name not in self.values:
            raise InputError(f"reads {name[:60]!r}, which no node before it makes")
        return self.values[name]

    def _is_cast_of_levels(self, node: OnnxNode) -> bool:
        """A cast of grey levels, which are floats already; marks what stays whole."""
        value = self.values.get(node.inputs[0]) if node.inputs else None
        if not isinstance(value, Ref) or value.name not in self.levels:
            return False
        if node.op in ("Cast", "CastLike"):
            return True
        moves = ("Concat", "Flatten", "Gather", "Pad", "Reshape", "Resize", "Slice")
        if node.op in (*moves, "Split", "Squeeze", "Transpose", "Unsqueeze"):
            self.levels.update(node.outputs)
        return False

    def _fold(self, op: str, args: list, kwargs: dict, node: OnnxNode) -> None:
        if _size_of_result(op, args) > onnx_static.LARGEST:
            raise InputError("computes giant constants")
        try:
            with np.errstate(all="ignore"):
                made = OPERATORS[op](*args, **kwargs)
        except InputError:
            raise
        except Exception as error:
            raise InputError(first_line(error)) from None
        made = made if isinstance(made, list | tuple) else [made]
        for name, value in zip(node.outputs, made, strict=False):
            if not name:
                continue
            value = np.asarray(value)
            if value.dtype.kind == "f":
                value = value.astype(np.float32)
            self.values[name] = value
            if node.op != "Shape" and any(i in self.stored for i in node.inputs):
                self.stored.add(name)

    def _keep(self, op: str, args: list, kwargs: dict, node: OnnxNode) -> None:
        fixed = onnx_forms.STATIC_INPUTS.get(node.op, frozenset())
        names = [*node.inputs, *[""] * len(args)]
        written = [
            self._argument(names[i], arg, i in fixed) for i, arg in enumerate(args)
        ]
        if node.op == "Resize":  # Its inputs moved where the opset is old.
            written = [
                self._argument("", arg, i > 0) if i else written[0]
                for i, arg in enumerate(args)
            ]
        kwargs = {k: _plain(v) for k, v in kwargs.items()}
        outputs = list(node.outputs)
        if any(isinstance(a, Ref) and a.name in self.of_images for a in args):
            self.of_images.update(name for name in outputs if name)
        several = op in ("onnx.Split", "onnx.TopK")
        if not several:
            self.nodes.append(Node(op, tuple(written), kwargs, outputs[0]))
            self.values[outputs[0]] = Ref(outputs[0])
            return
        whole = f"{outputs[0]}, all"
        self.nodes.append(Node(op, tuple(written), kwargs, whole))
        for i, name in enumerate(outputs):
            if name:
                self.nodes.append(Node("getitem", (Ref(whole), i), {}, name))
                self.values[name] = Ref(name)

    def _argument(self, name: str, value: Any, fixed: bool) -> Any:
        """A value as an argument: numbers and short tables themselves, else a name."""
        if value is None or isinstance(value, Ref):
            return value
        whole = value.dtype.kind in "iub"
        if value.ndim == 0 or fixed or (whole and value.ndim == 1):
            if value.size <= _SHORT:
                return value.tolist()
        name = name or f"constant {len(self.weights)}"
        self.weights[name] = value
        if name in self.stored:
            self.keys[name] = name
        return Ref(name)


def _size_of_result(op: str, args: list[Any]) -> int:
    """How many numbers are made, at most, by what does not look at that itself."""
    shapes = [np.shape(arg) for arg in args if arg is not None]
    sizes = [math.prod(shape) for shape in shapes]
    if op in ("onnx.MatMul", "onnx.Gemm", "onnx.Gather", "onnx.GatherND"):
        first = shapes[0] if shapes else ()
        return math.prod(sizes[:2]) // max(min(first, default=1), 1)
    try:
        return math.prod(np.broadcast_shapes(*shapes))
    except ValueError:  # Shapes that are not to be broadcast: the largest, or a sum.
        return sum(sizes)


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray) else value


def first_line(error: Exception) -> str:
    """What an exception of a library says, short."""
    lines = str(error).splitlines()
    return lines[0][:160] if lines else type(error).__name__
