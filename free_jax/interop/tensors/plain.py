"""Values of strangers as plain Python: numbers, text, lists and dicts, bounded."""

import argparse
import pathlib
from collections.abc import Mapping, Sequence, Set
from typing import Any

import numpy as np

_DEEPEST, _MOST = 6, 25_000


def plain(value: Any, depth: int = 0) -> Any:
    """A copy of plain values; what is none (tensors of many numbers, objects) is None.

    >>> plain({"a": (1, np.float32(0.5)), 3: argparse.Namespace(lr=0.1)})
    {'a': [1, 0.5], '3': {'lr': 0.1}}
    """
    if value is None or isinstance(value, bool | int | float | str):
        # Subclasses (an enum, a numpy.str_) become what they look like.
        kinds = (bool, int, float, str)
        return next((kind(value) for kind in kinds if isinstance(value, kind)), None)
    if depth > _DEEPEST:
        return None
    if isinstance(value, argparse.Namespace):
        value = vars(value)
    if isinstance(value, pathlib.PurePath):
        return str(value)
    if isinstance(value, Mapping):
        pairs = list(value.items())[:_MOST]
        return {str(key): plain(item, depth + 1) for key, item in pairs}
    if isinstance(value, Sequence | Set) and not isinstance(value, bytes | bytearray):
        return [plain(item, depth + 1) for item in list(value)[:_MOST]]
    if isinstance(value, np.generic):
        return plain(value.item(), depth + 1)
    return _small_array(value, depth)


def _small_array(value: Any, depth: int) -> Any:
    """A tensor or array of few numbers."""
    if type(value).__module__.partition(".")[0] == "torch" and hasattr(value, "numel"):
        strided = str(value.layout) == "torch.strided" and value.device.type == "cpu"
        if not strided or value.numel() > _MOST:
            return None
        return value.detach().tolist()
    if isinstance(value, np.ndarray) and value.size <= _MOST:
        return plain(value.tolist(), depth + 1)
    return None
