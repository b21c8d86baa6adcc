"""A .safetensors file: eight bytes of length, a JSON header, and raw arrays.

https://huggingface.co/docs/safetensors/index.  Read here rather than by its library
because NumPy has neither bfloat16 nor float8, and because every number of the header is
checked before an array is made.
"""

import json
import math
import pathlib
from typing import Any

import ml_dtypes
import numpy as np

from free_jax.errors import InputError
from free_jax.interop.tensors.opening import unreadable

_LARGEST_HEADER, _MOST_TENSORS = 100 << 20, 100_000

_DTYPES: dict[str, Any] = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U64": np.uint64,
    "U32": np.uint32,
    "U16": np.uint16,
    "U8": np.uint8,
    "BOOL": np.bool_,
}


def read_header(path: pathlib.Path) -> tuple[dict[str, Any], dict[str, str], int]:
    """The checked header of a file.

    Returns:
      ``{key: (dtype, shape, first byte)}``, the metadata, and where the arrays begin.

    Raises:
      InputError: a header that is too large, no JSON, or that contradicts the file.
    """
    name, size = path.name, path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > min(size - 8, _LARGEST_HEADER):
            raise InputError(
                f"{name}: its header says it has {length} bytes, in a file of {size} "
                f"and of the {_LARGEST_HEADER >> 20} MB that are read; copy it again"
            )
        try:
            header = json.loads(file.read(length))
        except (ValueError, RecursionError) as error:
            raise unreadable(name, error) from error
    if not isinstance(header, dict) or len(header) > _MOST_TENSORS:
        raise InputError(f"{name}: its header is no table of tensors")
    metadata = header.pop("__metadata__", None) or {}
    if not isinstance(metadata, dict):
        raise InputError(f"{name}: its __metadata__ is no table of texts")
    start = 8 + length
    tensors = {key: _entry(name, key, e, size - start) for key, e in header.items()}
    return tensors, {str(k): str(v) for k, v in metadata.items()}, start


def _entry(name: str, key: str, entry: Any, available: int) -> Any:
    """(dtype, shape, first byte) of one tensor, in bounds."""
    try:
        dtype, shape = entry["dtype"], tuple(entry["shape"])
        first, last = entry["data_offsets"]
        whole = all(type(n) is int and n >= 0 for n in (*shape, first, last))
    except (KeyError, TypeError, ValueError):
        dtype, shape, first, last, whole = "", (), 0, 0, False
    if not whole or len(shape) > 16:
        raise InputError(f"{name}: the header's entry for {key!r} is damaged")
    if dtype not in _DTYPES:
        raise InputError(
            f"{name}: {key!r} has numbers of type {dtype!r}, which is not read; save "
            "it as float32, float16 or bfloat16"
        )
    wanted = math.prod(shape) * np.dtype(_DTYPES[dtype]).itemsize
    if last > available or last - first != wanted:
        raise InputError(
            f"{name}: {key!r} of shape {list(shape)[:8]} does not fit the file; it is "
            "truncated or damaged - copy it again"
        )
    return dtype, shape, first


def read_safetensors(
    path: pathlib.Path,
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays (floats as float32) and the metadata of a file.

    Raises:
      InputError: as `read_header`.
    """
    tensors, metadata, start = read_header(path)
    state = {}
    with path.open("rb") as file:
        for key, (dtype, shape, first) in tensors.items():
            kind = np.dtype(_DTYPES[dtype])
            file.seek(start + first)
            raw = np.fromfile(file, np.uint8, math.prod(shape) * kind.itemsize)
            array = raw.view(kind).reshape(shape)
            floats = dtype.startswith(("F", "BF"))
            # Beyond float32 is infinite, which is refused when weights are used.
            with np.errstate(over="ignore"):
                state[key] = array.astype(np.float32) if floats else array
    return state, metadata
