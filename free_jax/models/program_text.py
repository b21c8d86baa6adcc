"""The text of a program: what a `Graph` computes, without its weights.

A text is JSON, compressed and written in 85 letters; equal texts are equal networks.
It may come from a file, so that reading it trusts nothing: sizes are capped, every
name is looked up, every value must be made before it is used.
"""

import base64
import json
import math
import re
import zlib
from typing import Any, NamedTuple

import numpy as np

from free_jax.errors import InputError
from free_jax.models.operators import unknown

VERSION = 1
# Bytes of a decompressed text, and of all constants of a program together.
_TEXT_CAP, _CONSTANTS_CAP = 1 << 20, 1 << 26
_NODES_CAP, _DEPTH_CAP, _AXES_CAP = 20_000, 6, 8
# Operations that `Graph` runs itself, as they have variables of their own.
OWN = frozenset({"batch_norm", "head"})
_KINDS = {"b1": "?", "i4": "<i4", "i8": "<i8", "f4": "<f4", "u1": "u1"}


class Value(NamedTuple):
    """A value by name.

    "x" is the images, "v3" the result of node 3, "w000" a weight, "c0" a constant,
    "n000" the statistics of a batch norm.
    """

    name: str


class Instructions(NamedTuple):
    """A program, read.

    Attributes:
      nodes: (operator, arguments, keyword arguments); arguments hold `Value`, numbers,
        text, None and lists of these.  Node i makes the value "v<i>".
      output: what the graph gives; "v7".
      features: what enters the head, where there is a linear one.
      head: number of features, or None.
      shapes: of the weights.
      norms: channels of the batch norms.
      constants: tables that belong to the program.
      batch: images at a time where the graph takes no others; None: any.
    """

    nodes: tuple[tuple[str, tuple[Any, ...], dict[str, Any]], ...]
    output: Value
    features: Value | None
    head: int | None
    shapes: dict[str, tuple[int, ...]]
    norms: dict[str, int]
    constants: dict[str, np.ndarray]
    batch: int | None


def write(program: Instructions) -> str:
    """The text of a program; `read` gives the program back.

    Raises:
      InputError: the program is larger than what `read` takes.
    """
    plain = {
        "version": VERSION,
        "nodes": [
            [op, _encode(args), {k: _encode(v) for k, v in kwargs.items()}]
            for op, args, kwargs in program.nodes
        ],
        "output": program.output.name,
        "features": program.features and program.features.name,
        "head": program.head,
        "shapes": {name: list(shape) for name, shape in program.shapes.items()},
        "norms": program.norms,
        "constants": {k: _pack(v) for k, v in program.constants.items()},
        "batch": program.batch,
    }
    text = json.dumps(plain, sort_keys=True, separators=(",", ":")).encode()
    if len(text) > _TEXT_CAP:
        raise InputError(
            f"the graph takes {len(text)} bytes to write down; at most {_TEXT_CAP}"
        )
    return base64.b85encode(zlib.compress(text, 9)).decode()


def read(text: str) -> Instructions:
    """The program of a text.

    Raises:
      InputError: the text is no program, names an unknown operator or a value that is
        not there, or is too large.
    """
    try:
        plain = json.loads(_inflate(base64.b85decode(text), _TEXT_CAP, "its text"))
        return _checked(plain)
    except InputError as error:
        raise InputError(f"not a program that free_jax can run: {error}") from None
    except (
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        IndexError,
        OverflowError,
        RecursionError,
        zlib.error,
    ) as error:
        raise InputError(
            f"not a program of a graph ({type(error).__name__}: {error}); "
            "was the text cut or changed?"
        ) from None


def _inflate(data: bytes, cap: int, what: str) -> bytes:
    machine = zlib.decompressobj()
    out = machine.decompress(data, cap + 1)
    if len(out) > cap:
        raise InputError(f"{what} has more than {cap} bytes")
    if not machine.eof:
        raise InputError(f"{what} is cut")
    return out


def _encode(value: Any) -> Any:
    """JSON in which plain text is a value's name, and other text says so."""
    if isinstance(value, Value):
        return value.name
    if isinstance(value, list | tuple):
        return [_encode(part) for part in value]
    if isinstance(value, str):
        return {"text": value}
    if isinstance(value, float) and not math.isfinite(value):
        return {"number": repr(value)}
    if value is None or isinstance(value, bool | int | float):
        return value
    raise InputError(f"the graph holds an argument of type {type(value).__name__}")


def _decode(value: Any, known: set[str], depth: int = 0) -> Any:
    if depth > _DEPTH_CAP:
        raise InputError("lists within lists within lists")
    if isinstance(value, str):
        if value not in known:
            raise InputError(f"value {value[:20]!r} is used before it is made")
        return Value(value)
    if isinstance(value, list):
        return [_decode(part, known, depth + 1) for part in value]
    if isinstance(value, dict):
        ((kind, inner),) = value.items()
        if kind == "number" and inner in ("inf", "-inf", "nan"):
            return float(inner)
        if kind == "text" and isinstance(inner, str):
            return inner
        raise InputError(f"an argument of kind {str(kind)[:20]!r}")
    return value


def _pack(array: np.ndarray) -> list[Any]:
    for kind, dtype in _KINDS.items():
        if array.dtype == np.dtype(dtype):
            raw = np.ascontiguousarray(array, dtype).tobytes()
            data = base64.b85encode(zlib.compress(raw, 9)).decode()
            return [kind, list(array.shape), data]
    raise InputError(f"the graph holds a table of type {array.dtype}")


def _unpack(packed: list[Any], left: int) -> np.ndarray:
    kind, shape, data = packed
    dtype, shape = np.dtype(_KINDS[kind]), _shape(shape)
    size = math.prod(shape) * dtype.itemsize
    if size > left:
        raise InputError(f"its tables have more than {_CONSTANTS_CAP} bytes")
    raw = _inflate(base64.b85decode(data), size, "a table")
    return np.frombuffer(raw, dtype).reshape(shape)


def _shape(value: Any) -> tuple[int, ...]:
    if not isinstance(value, list) or len(value) > _AXES_CAP:
        raise InputError("a shape that is none")
    if not all(isinstance(n, int) and 0 <= n < 1 << 31 for n in value):
        raise InputError("a shape of sizes that are none")
    return tuple(value)


def _checked(plain: dict[str, Any]) -> Instructions:
    if plain["version"] != VERSION:
        raise InputError(f"version {plain['version']!r} of the text; {VERSION} is read")
    if len(plain["nodes"]) > _NODES_CAP:
        raise InputError(f"more than {_NODES_CAP} operations")
    if missing := unknown({str(node[0]) for node in plain["nodes"]} - OWN):
        raise InputError(f"unknown operators: {', '.join(missing)[:400]}")
    for kind, pattern in (
        ("shapes", r"w\d+"),
        ("norms", r"n\d+"),
        ("constants", r"c\d+"),
    ):
        for name in plain[kind]:
            if not re.fullmatch(pattern, name):
                raise InputError(f"{name[:20]!r} among its {kind}")
    constants, left = {}, _CONSTANTS_CAP
    for name, packed in plain["constants"].items():
        constants[name] = _unpack(packed, left)
        left -= constants[name].nbytes
    head = plain["head"]
    if head is not None and not (isinstance(head, int) and 0 < head < 1 << 24):
        raise InputError("a head of no features")
    norms = {name: int(count) for name, count in plain["norms"].items()}
    known = {"x", *constants, *plain["shapes"]}
    nodes = []
    for i, (op, args, kwargs) in enumerate(plain["nodes"]):
        decoded = _decode(args, known | norms.keys() if op == "batch_norm" else known)
        if op == "batch_norm" and not (
            len(decoded) == 5
            and isinstance(decoded[3], Value)
            and decoded[3].name in norms
        ):
            raise InputError("a batch norm without statistics")
        if op == "head" and (head is None or len(decoded) != 1):
            raise InputError("a head that is none")
        nodes.append(
            (op, tuple(decoded), {k: _decode(v, known) for k, v in kwargs.items()})
        )
        known.add(f"v{i}")
    features = plain["features"]
    batch = plain["batch"]
    if batch not in (None, 1):
        raise InputError(f"batches of {batch!r}")
    return Instructions(
        tuple(nodes),
        _decode(plain["output"], known),
        None if features is None else _decode(features, known),
        head,
        {name: _shape(shape) for name, shape in plain["shapes"].items()},
        norms,
        constants,
        batch,
    )
