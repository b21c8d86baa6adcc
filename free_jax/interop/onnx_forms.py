"""ONNX nodes in one form: the newest opset's, with inputs where attributes stood."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from free_jax.errors import InputError

# What passes a value on.
IDENTITIES = frozenset({"Identity", "Dropout"})
# Inputs that are parts of the program whatever their type: factors of Resize, bounds.
STATIC_INPUTS: dict[str, frozenset[int]] = {
    "Clip": frozenset({1, 2}),
    "OneHot": frozenset({1, 2}),
    "Pad": frozenset({1, 2, 3}),
    "Range": frozenset({0, 1, 2}),
    "Resize": frozenset({1, 2, 3}),
    "Upsample": frozenset({1}),
}
_MEANINGLESS = {
    "BatchNormalization": ("momentum", "spatial", "training_mode", "is_test"),
    "Cast": ("saturate", "round_mode"),
    "CastLike": ("saturate", "round_mode"),
    "Conv": ("kernel_shape",),
    "ConvTranspose": ("kernel_shape",),
    "GroupNormalization": ("stash_type",),
    "LayerNormalization": ("stash_type",),
    "MaxPool": ("storage_order",),
    "RMSNormalization": ("stash_type",),
    "TopK": ("sorted",),
}


def newest(
    op: str,
    inputs: list[Any],
    attributes: Mapping[str, Any],
    opset: int,
    outputs: int,
) -> tuple[list[Any], dict[str, Any]]:
    """Inputs and attributes as `models.operators.onnx` takes them.

    Args:
      op: the operator's name.
      inputs: values, or None where one is left out.
      attributes: as the file holds them.
      opset: of the file.
      outputs: how many results the node names.

    Raises:
      InputError: the node was exported for training.
    """
    said = {k: v for k, v in attributes.items() if k not in _MEANINGLESS.get(op, ())}
    if op == "BatchNormalization" and attributes.get("training_mode"):
        raise InputError(
            "a batch norm in training mode; export the model after model.eval()"
        )
    if op == "Dropout":
        training = inputs[2] if len(inputs) > 2 else None
        if isinstance(training, np.ndarray) and training.any():
            raise InputError("dropout in training mode; export after model.eval()")
    inputs = list(inputs)
    if op in ("Softmax", "LogSoftmax"):
        said.setdefault("axis", 1 if opset < 13 else -1)
        if opset < 13:
            said["flattened"] = 1
    elif op in ("Squeeze", "Unsqueeze") or op.startswith("Reduce"):
        _to_input(inputs, said, 1, "axes")
    elif op == "Clip" and opset < 11:
        for place, name in ((1, "min"), (2, "max")):
            _to_input(inputs, said, place, name)
    elif op == "Pad":
        _to_input(inputs, said, 1, "pads")
        _to_input(inputs, said, 2, "value")
    elif op == "Slice":
        for place, name in ((1, "starts"), (2, "ends"), (3, "axes")):
            _to_input(inputs, said, place, name)
    elif op == "Split":
        _to_input(inputs, said, 1, "split")
        if len(inputs) < 2 or inputs[1] is None:
            said["num_outputs"] = outputs
        else:
            said.pop("num_outputs", None)
    elif op == "TopK":
        _to_input(inputs, said, 1, "k")
    elif op == "Upsample":
        _to_input(inputs, said, 1, "scales")
    elif op == "Resize" and opset < 11:
        inputs = [inputs[0], None, inputs[1]]
        said |= {
            "coordinate_transformation_mode": "asymmetric",
            "nearest_mode": "floor",
        }
    elif op == "ConstantOfShape" and "value" in said:
        said["value"] = np.asarray(said["value"]).reshape(-1)[0].item()
    return inputs, said


def constant(attributes: Mapping[str, Any]) -> np.ndarray:
    """The array of a Constant node.

    Raises:
      InputError: it holds no numbers.
    """
    kinds = {
        "value": None,
        "value_float": np.float32,
        "value_floats": np.float32,
        "value_int": np.int64,
        "value_ints": np.int64,
    }
    for name, kind in kinds.items():
        if name in attributes:
            return np.asarray(attributes[name], kind)
    raise InputError("a constant that is text or sparse")


def _to_input(inputs: list[Any], said: dict[str, Any], place: int, name: str) -> None:
    if name in said:
        inputs += [None] * (place + 1 - len(inputs))
        inputs[place] = np.asarray(said.pop(name))
