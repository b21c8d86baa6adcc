"""One PyTorch or safetensors teacher file, read without running code from it.

Layouts: the released codes' ``.pth`` files (a bare state_dict; ``{teacher, specific}``;
``{teacher, specific, acc}`` with acc in per cent) and ``.safetensors`` with the same
tensor names and the optional metadata ``class_ids`` (a JSON list) and ``accuracy`` (a
fraction in [0, 1]).
"""

import io
import json
import pickle
from collections.abc import Mapping
from typing import Any

import numpy as np

from free_jax.errors import InputError


def read_checkpoint(
    path: Any,
) -> tuple[dict[str, np.ndarray], list[int] | None, float | None]:
    """Reads one teacher file; never runs code that the file may hold.

    Args:
      path: a ``.pth``, ``.pt`` or ``.safetensors`` file, local or e.g. ``gs://``.

    Returns:
      The state_dict; the absolute class ids of its outputs and its held-out accuracy
      in [0, 1], each None where the file does not say.

    Raises:
      InputError: missing, truncated, not a teacher, or holding pickled code; or torch
        is needed and not installed.
    """
    from etils import epath

    path = epath.Path(path).expanduser()
    if not path.exists() or path.is_dir():
        raise InputError(f"{path}: no such file")
    data = path.read_bytes()
    read = _read_safetensors if path.suffix == ".safetensors" else _read_torch
    state, ids, accuracy = read(data, str(path))
    if accuracy is not None and not 0 <= accuracy <= 1:
        raise InputError(
            f"{path}: accuracy {accuracy} is not in [0, 1]; `acc` of a .pth is in per "
            "cent, `accuracy` of a .safetensors a fraction"
        )
    return state, ids, accuracy


def _read_torch(data: bytes, source: str):
    try:
        import torch
    except ImportError as error:
        raise InputError(
            f'{source}: reading .pth files needs PyTorch: pip install "free_jax[torch]"'
        ) from error
    try:
        content = torch.load(io.BytesIO(data), weights_only=True, map_location="cpu")
    except pickle.UnpicklingError as error:
        if "GLOBAL" in str(error) or "Unsupported" in str(error):
            raise InputError(
                f"{source}: holds pickled code, which is never run; save a plain "
                "state_dict of tensors, with class ids as a list of ints"
            ) from error
        raise _unreadable(source, error) from error
    except (RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
        raise _unreadable(source, error) from error
    if not isinstance(content, Mapping):
        raise InputError(
            f"{source}: holds a {type(content).__name__}, not a teacher; expected a "
            "state_dict, or a dict with the keys teacher and specific"
        )
    state = content.get("teacher", content)
    if not isinstance(state, Mapping) or not state:
        raise InputError(f"{source}: holds no teacher weights; save its state_dict")
    other = [key for key, value in state.items() if not torch.is_tensor(value)]
    if other:
        raise InputError(
            f"{source}: not a teacher, {other[0]!r} is no tensor; expected a "
            "state_dict, or a dict with the keys teacher and specific"
        )
    ids, accuracy = None, None
    if "teacher" in content:
        if content.get("specific") is not None:
            ids = parse_class_ids(content["specific"], source)
        if content.get("acc") is not None:
            accuracy = float(content["acc"]) / 100
    state = {
        str(key): (value.float() if value.is_floating_point() else value).numpy()
        for key, value in state.items()
    }
    return state, ids, accuracy


def _read_safetensors(data: bytes, source: str):
    import safetensors
    import safetensors.numpy

    try:
        state = safetensors.numpy.load(data)
        # `safetensors.numpy.load` drops the metadata; the header is length and JSON.
        length = int.from_bytes(data[:8], "little")
        metadata = json.loads(data[8 : 8 + length]).get("__metadata__", {})
        ids = json.loads(metadata["class_ids"]) if "class_ids" in metadata else None
        accuracy = float(metadata["accuracy"]) if "accuracy" in metadata else None
    except (safetensors.SafetensorError, ValueError, TypeError, KeyError) as error:
        raise _unreadable(source, error) from error
    return state, None if ids is None else parse_class_ids(ids, source), accuracy


def _unreadable(source: str, error: Exception) -> InputError:
    reason = (str(error).splitlines() or [""])[0][:120] or type(error).__name__
    return InputError(
        f"{source}: cannot be read ({reason}); it is truncated, damaged or no weight "
        "file - copy it again or remove it"
    )


def parse_class_ids(values: Any, source: str) -> list[int]:
    """A list of ints, or `InputError` naming the source."""
    try:
        ids = [int(value) for value in values]
        if any(i != float(value) for i, value in zip(ids, values, strict=True)):
            raise ValueError("not whole numbers")
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{source}: class ids {values!r} are not a list of ints; save one class "
            "index for each output"
        ) from error
    return ids
