"""Tensors of the Open Inference Protocol, as JSON and as bytes behind it."""

import base64
import binascii
from collections.abc import Sequence
from typing import Any

import numpy as np

# What images are sent as.
SENT = ("FP16", "BF16", "FP32", "FP64", "UINT8")
# Types that JSON has no numbers for: strict servers send and take them as bytes only.
HALF = ("FP16", "BF16")
_NUMPY = {
    "BOOL": "?",
    "INT8": "i1",
    "INT16": "<i2",
    "INT32": "<i4",
    "INT64": "<i8",
    "UINT8": "u1",
    "UINT16": "<u2",
    "UINT32": "<u4",
    "UINT64": "<u8",
    "FP16": "<f2",
    "FP32": "<f4",
    "FP64": "<f8",
}


def as_sent(images: np.ndarray, datatype: str) -> np.ndarray:
    """Images as numbers of the server's type; UINT8 counts 0 to 255 for [0, 1]."""
    if datatype == "UINT8":
        images = np.clip(np.rint(255 * images), 0, 255)
    if datatype == "BF16":  # NumPy has none: the upper half of a rounded float32.
        bits = np.ascontiguousarray(images, "<f4").view("<u4")
        bits = bits + 0x7FFF + ((bits >> 16) & 1)
        return (bits >> 16).astype("<u2")
    return np.ascontiguousarray(images, _NUMPY[datatype])


def as_listed(images: np.ndarray, datatype: str) -> np.ndarray:
    """The same for JSON, where all numbers are alike."""
    if datatype in HALF:
        return np.ascontiguousarray(images, "<f4")
    return as_sent(images, datatype)


def received(outputs: Any, rest: bytes) -> list[tuple[str, np.ndarray]]:
    """Names and values of an answer's outputs.

    Args:
      outputs: of the answer's JSON.
      rest: the bytes behind the JSON, of the outputs that it holds no data of.

    Returns:
      Values are float64, or strings.

    Raises:
      ValueError: they are not tensors.
    """
    found, start = [], 0
    try:
        for tensor in outputs:
            parameters = tensor.get("parameters") or {}
            size = parameters.get("binary_data_size")
            datatype = str(tensor.get("datatype") or "").upper()
            if size is None:
                base64 = parameters.get("content_type") == "base64"
                values = _listed(tensor["data"], datatype == "BYTES", base64)
            else:
                raw = rest[start : start + size]
                if len(raw) != size:
                    raise ValueError
                start += size
                values = _unpacked(raw, datatype)
            shape = tensor.get("shape")
            if isinstance(shape, Sequence) and not isinstance(shape, str):
                values = values.reshape([int(length) for length in shape])
            found.append((str(tensor.get("name") or ""), values))
    except (
        *(AttributeError, IndexError, KeyError, TypeError, ValueError),
        *(MemoryError, OverflowError, RecursionError),
    ):
        raise ValueError("an answer without a tensor of numbers") from None
    if not found:
        raise ValueError("an answer without a tensor of numbers")
    return found


def _listed(data: Any, is_text: bool, is_base64: bool) -> np.ndarray:
    if not isinstance(data, list):
        data = [data]
    lengths = {len(row) for row in data if isinstance(row, list)}
    if None in data and len(lengths) == 1:  # An image whose whole row is null.
        data = [[None] * min(lengths) if row is None else row for row in data]
    if not is_text:
        try:
            return np.array(data, np.float64)  # Servers write NaN as null, or "NaN".
        except (TypeError, ValueError):
            pass  # Some tell no datatype.
    texts = np.array(data, object).ravel().tolist()
    if not all(text is None or isinstance(text, str) for text in texts):
        raise ValueError
    texts = ["" if text is None else text for text in texts]
    return np.array([_from_base64(x) for x in texts] if is_base64 else texts, str)


def _from_base64(text: str) -> str:
    try:
        return base64.b64decode(text, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return text


def _unpacked(raw: bytes, datatype: str) -> np.ndarray:
    if datatype == "BYTES":  # The length of each string before it, 4 bytes.
        texts, start = [], 0
        while start < len(raw):
            end = start + 4 + int.from_bytes(raw[start : start + 4], "little")
            if end > len(raw):
                raise ValueError
            texts.append(raw[start + 4 : end].decode(errors="replace"))
            start = end
        return np.array(texts, str)
    if datatype == "BF16":
        return (np.frombuffer(raw, "<u2").astype("<u4") << 16).view("<f4").astype(float)
    return np.frombuffer(raw, _NUMPY[datatype]).astype(np.float64)
