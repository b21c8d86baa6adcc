"""What an .onnx file holds, as plain data; read without trusting it.

Nothing of the file is run.  Sizes are compared with the bytes that are there before
anything is allocated, and weights beside the file are only read from its own folder.
"""

import math
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from free_jax.errors import InputError
from free_jax.models.operators.onnx_static import LARGEST

OPSETS = range(7, 25)
_FILE_CAP, _NODES_CAP, _AXES_CAP = 1 << 31, 20_000, 8
_OWN_DOMAINS = ("", "ai.onnx")
_CONTROL = ("If", "Loop", "Scan", "SequenceMap")
_QUANTISED = ("QuantizeLinear", "DynamicQuantizeLinear", "ConvInteger", "MatMulInteger")


class OnnxNode(NamedTuple):
    """One node; an input that is left out is ""."""

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any]


class Slot(NamedTuple):
    """An input or output of the whole graph.

    Attributes:
      name: of the value.
      kind: ONNX's number of its type (1 float32, 2 uint8, 10 float16, ..).
      shape: sizes, None where they are free; None if it has none.
    """

    name: str
    kind: int
    shape: tuple[int | None, ...] | None


class OnnxParts(NamedTuple):
    """A model, read.

    Attributes:
      nodes: in order of execution.
      arrays: initialisers by name; every float as float32.
      inputs, outputs: of the graph; initialisers are no inputs.
      opset: version of the operators.
      metadata: what the file says about itself, keys in lower case.
      half: whether weights were of half precision.
      files: the model and the files of its weights.
    """

    nodes: tuple[OnnxNode, ...]
    arrays: dict[str, np.ndarray]
    inputs: tuple[Slot, ...]
    outputs: tuple[Slot, ...]
    opset: int
    metadata: dict[str, str]
    half: bool
    files: tuple[pathlib.Path, ...]


def read_parts(path: pathlib.Path, inside: pathlib.Path) -> OnnxParts:
    """Reads a model and the weights beside it.

    Args:
      path: the .onnx file.
      inside: the folder that it may read from.

    Raises:
      InputError: it is no model, holds what is not supported, or reaches outside.
    """
    model = read_proto(path)
    _check_expansion(model, path)
    if len(model.functions):
        model = _inlined(model, path)
    graph = model.graph
    opset = _opset(model, path)
    if len(graph.node) > _NODES_CAP:
        raise InputError(f"{path}: more than {_NODES_CAP} nodes")
    if len(graph.sparse_initializer):
        raise InputError(f"{path}: sparse weights are not supported")
    _check_operators(graph.node, path)
    files = _Files(path, inside)
    arrays, half = {}, False
    for tensor in graph.initializer:
        half = half or tensor.data_type in (10, 16)
        arrays[tensor.name] = files.array(tensor)
    nodes = tuple(_node(node, files) for node in graph.node)
    inputs = tuple(_slot(value) for value in graph.input if value.name not in arrays)
    return OnnxParts(
        nodes,
        arrays,
        inputs,
        tuple(_slot(value) for value in graph.output),
        opset,
        {entry.key.lower(): entry.value for entry in model.metadata_props},
        half,
        (path, *files.used),
    )


def read_proto(path: pathlib.Path) -> Any:
    """The file's protobuf, without weights that lie beside it."""
    import onnx
    from google.protobuf.message import DecodeError

    try:
        if path.stat().st_size > _FILE_CAP:
            raise InputError(f"{path}: larger than {_FILE_CAP >> 30} GiB")
        model = onnx.load_model_from_string(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from None
    except (DecodeError, ValueError, RecursionError, MemoryError):
        raise InputError(f"{path}: no ONNX model, or a damaged one") from None
    if not model.HasField("graph") or not model.graph.output:
        raise InputError(f"{path}: no ONNX model (it has no graph)")
    # Where text is not UTF-8, the library gives bytes.
    if any(isinstance(text, bytes) for text in _texts(model)):
        raise InputError(f"{path}: damaged (names that are no text)")
    return model


def _texts(model: Any) -> Iterator[Any]:
    """Every name in the file that is used."""
    for entry in model.metadata_props:
        yield from (entry.key, entry.value)
    yield from (entry.domain for entry in model.opset_import)
    for function in model.functions:
        yield from (function.name, function.domain, *function.input, *function.output)
    graph = model.graph
    yield from (value.name for value in (*graph.input, *graph.output))
    for tensor in graph.initializer:
        yield tensor.name
        for entry in tensor.external_data:
            yield from (entry.key, entry.value)
    bodies = [graph.node, *(function.node for function in model.functions)]
    for node in (node for body in bodies for node in body):
        yield from (node.op_type, node.domain, *node.input, *node.output)
        yield from (attribute.name for attribute in node.attribute)


def _opset(model: Any, path: pathlib.Path) -> int:
    versions = [o.version for o in model.opset_import if o.domain in _OWN_DOMAINS]
    opset = max(versions, default=1)
    if opset not in OPSETS:
        raise InputError(
            f"{path}: opset {opset}; {OPSETS[0]} to {OPSETS[-1]} are read (export "
            "again, or use onnx.version_converter)"
        )
    return opset


def _check_expansion(model: Any, path: pathlib.Path) -> None:
    """Functions may call functions; together they must stay small, without circles."""
    functions = {(f.domain, f.name): f for f in model.functions}
    sizes: dict[tuple, int] = {}
    open_: set[tuple] = set()

    def size(nodes: Iterable[Any]) -> int:
        total = 0
        for node in nodes:
            key = (node.domain, node.op_type)
            total += 1 + (of(key) if key in functions else 0)
            if total > _NODES_CAP:
                raise InputError(f"{path}: more than {_NODES_CAP} nodes")
        return total

    def of(key: tuple) -> int:
        if key in open_ or len(open_) > 100:
            raise InputError(f"{path}: function {key[1][:60]!r} calls itself")
        if key not in sizes:
            open_.add(key)
            sizes[key] = size(functions[key].node)
            open_.discard(key)
        return sizes[key]

    size(model.graph.node)


def _inlined(model: Any, path: pathlib.Path) -> Any:
    import onnx.inliner

    try:
        return onnx.inliner.inline_local_functions(model)
    except Exception as error:
        why = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise InputError(f"{path}: functions that cannot be read ({why})") from None


def _check_operators(nodes: Iterable[Any], path: pathlib.Path) -> None:
    foreign, control, quantised = {}, {}, {}
    for node in nodes:
        name = node.op_type
        if node.domain not in _OWN_DOMAINS:
            foreign[f"{node.domain}.{name}"[:80]] = None
        elif name in _CONTROL or any(a.HasField("g") for a in node.attribute):
            control[name[:80]] = None
        elif name in _QUANTISED or name.startswith("QLinear"):
            quantised[name] = None
    if foreign:
        raise InputError(
            f"{path}: operators outside ONNX's own ({', '.join(list(foreign)[:5])}); "
            "export it again without a runtime's optimisations"
        )
    if control:
        raise InputError(
            f"{path}: branches or loops ({', '.join(control)}) are not supported; "
            "export it again with fixed sizes, or simplify it with onnxsim"
        )
    if quantised:
        raise InputError(
            f"{path}: a quantised network ({', '.join(list(quantised)[:5])}); give the "
            "model from before quantisation"
        )


def _slot(value: Any) -> Slot:
    tensor = value.type.tensor_type
    if not value.type.HasField("tensor_type"):
        return Slot(value.name, 0, None)
    if not tensor.HasField("shape"):
        return Slot(value.name, tensor.elem_type, None)
    sizes = tuple(
        d.dim_value
        if d.WhichOneof("value") == "dim_value" and d.dim_value > 0
        else None
        for d in tensor.shape.dim
    )
    return Slot(value.name, tensor.elem_type, sizes)


def _node(node: Any, files: "_Files") -> OnnxNode:
    attributes = {a.name: _attribute(a, files) for a in node.attribute}
    return OnnxNode(node.op_type, tuple(node.input), tuple(node.output), attributes)


def _attribute(attribute: Any, files: "_Files") -> Any:
    """Numbers, text, lists of these, or an array."""
    kind = attribute.type
    if kind == 1:
        # Single precision: as many digits as it has, so that 1e-5 is 1e-5.
        return float(f"{attribute.f:.7g}")
    if kind == 2:
        return int(attribute.i)
    if kind == 3:
        return attribute.s.decode("utf-8", "replace")
    if kind == 4:
        return files.array(attribute.t)
    if kind == 6:
        return [float(f"{value:.7g}") for value in attribute.floats]
    if kind == 7:
        return [int(value) for value in attribute.ints]
    if kind == 8:
        return [value.decode("utf-8", "replace") for value in attribute.strings]
    raise InputError(
        f"{files.path}: attribute {attribute.name[:60]!r} of an unknown kind"
    )


class _Files:
    """Turns tensors into arrays; opens files of weights that lie inside a folder."""

    def __init__(self, path: pathlib.Path, inside: pathlib.Path):
        self.path, self.inside = path, inside.resolve()
        self.used: list[pathlib.Path] = []

    def array(self, tensor: Any) -> np.ndarray:
        import onnx
        from onnx import numpy_helper

        where = f"{self.path}: weight {tensor.name[:80]!r}"
        sizes = list(tensor.dims)
        if len(sizes) > _AXES_CAP or min(sizes, default=0) < 0:
            raise InputError(f"{where} has the shape {sizes[:9]}")
        if math.prod(sizes) > LARGEST:
            raise InputError(f"{where} has {math.prod(sizes)} numbers")
        if tensor.data_type in (0, 8, 14, 15):
            raise InputError(f"{where} is of ONNX type {tensor.data_type}")
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            self._fetch(tensor, where)
        try:
            array = np.asarray(numpy_helper.to_array(tensor))
        except Exception as error:
            why = str(error).splitlines()[0][:120] if str(error) else "?"
            raise InputError(f"{where} is damaged ({why})") from None
        if array.dtype.kind in "iub":
            return array
        try:
            return array.astype(np.float32)  # Halves, doubles, bfloat16, float8.
        except (TypeError, ValueError):
            raise InputError(f"{where} is of type {array.dtype}") from None

    def _fetch(self, tensor: Any, where: str) -> None:
        """Reads the bytes that lie in another file into the tensor."""
        said = {entry.key: entry.value for entry in tensor.external_data}
        file = external_file(self.path, said.get("location", ""), self.inside, where)
        try:
            start, length = int(said.get("offset") or 0), said.get("length")
            size = file.stat().st_size
            count = size - start if length in (None, "") else int(length)
        except ValueError:
            raise InputError(f"{where}: at no known place in {file.name}") from None
        if start < 0 or count < 0 or start + count > size:
            raise InputError(
                f"{where} lies at {start} to {start + count} of {file}, which has only "
                f"{size} bytes"
            )
        if count > 8 * max(math.prod(tensor.dims), 1):
            raise InputError(f"{where} of {list(tensor.dims)} has {count} bytes")
        with file.open("rb") as content:
            content.seek(start)
            raw = content.read(count)
        tensor.raw_data = raw
        tensor.data_location = 0
        if file not in self.used:
            self.used.append(file)


def external_file(
    path: pathlib.Path, location: str, inside: pathlib.Path, where: str
) -> pathlib.Path:
    """The file of weights that a model names, if it may be read.

    Raises:
      InputError: it is missing, or lies outside of `inside`.
    """
    parts = pathlib.PurePosixPath(location.replace("\\", "/"))
    drive = bool(pathlib.PureWindowsPath(location).drive)
    if not location or "\0" in location or len(location) > 1000:
        raise InputError(f"{where} lies in another file that is not named")
    if parts.is_absolute() or drive or ".." in parts.parts:
        raise InputError(f"{where} lies outside of the model's folder, in {location!r}")
    file = path.parent / parts
    try:
        real = file.resolve()
        if not real.is_relative_to(inside.resolve()):
            raise InputError(
                f"{where} lies outside of the model's folder, in {location!r}"
            )
        if not real.is_file():
            raise InputError(f"{where} lies in {file}, which is missing")
    except OSError as error:
        raise InputError(
            f"{where} lies in {location[:80]!r}: {error.strerror}"
        ) from None
    return file


def external_files(path: pathlib.Path, inside: pathlib.Path) -> list[pathlib.Path]:
    """The files of weights that a model names, in order, each once."""
    found: dict[pathlib.Path, None] = {}
    for tensor in read_proto(path).graph.initializer:
        if tensor.data_location == 1:
            where = f"{path}: weight {tensor.name[:80]!r}"
            said = {entry.key: entry.value for entry in tensor.external_data}
            location = said.get("location", "")
            found[external_file(path, location, inside, where)] = None
    return list(found)
