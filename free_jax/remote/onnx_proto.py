"""What the runtime does not say of an .onnx file: its other files, and its end."""

import pathlib
from typing import Any

# What passes an answer on.
_PASSES = ("Identity", "Cast", "Reshape", "Flatten", "Squeeze", "Dropout")


def parse(content: bytes) -> Any:
    """The file's protobuf.

    Raises:
      ValueError: it is none.
    """
    import onnx
    from google.protobuf.message import DecodeError

    try:
        return onnx.load_model_from_string(content)
    except (DecodeError, RecursionError) as error:
        raise ValueError(str(error).splitlines()[0][:200]) from None


def weight_files(model: Any, file: pathlib.Path) -> list[pathlib.Path]:
    """The files beside the model that hold its weights, each once.

    Raises:
      ValueError: one is missing, or lies outside of the model's folder.
    """
    folder, found = file.parent.resolve(), {}
    for tensor in model.graph.initializer:
        if tensor.data_location != 1:
            continue
        said = {entry.key: entry.value for entry in tensor.external_data}
        location = str(said.get("location", ""))
        try:
            path = (folder / location).resolve()
        except (OSError, ValueError):
            raise ValueError(f"weights in {location[:80]!r}") from None
        if not location or not path.is_relative_to(folder):
            raise ValueError(f"weights outside of its folder, in {location[:80]!r}")
        if not path.is_file():
            raise ValueError(f"its weights in {location[:80]!r} are missing")
        found[path] = None
    return list(found)


def ends_in_softmax(model: Any, output: str) -> bool:
    """Whether an output is a softmax, up to its shape and type."""
    made = {name: node for node in model.graph.node for name in node.output}
    for _ in range(16):
        node = made.get(output)
        if node is None or not node.input:
            return False
        if node.op_type == "Softmax":
            return True
        if node.op_type not in _PASSES:
            return False
        output = node.input[0]
    return False
