"""What a front-end read from a file, before anything is canonical.

A raw graph is plain data: names, numbers, text and NumPy arrays.  `interop.export`,
`interop.pt2` and `interop.onnx_graph` make them; `interop.programs` turns them into a
program.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np


class Ref(NamedTuple):
    """A value of the graph, by its name."""

    name: str


class Node(NamedTuple):
    """One operation.

    Attributes:
      op: "aten.conv2d.default", "onnx.Conv", "getitem", ..
      args, kwargs: hold `Ref`, numbers, bools, text, None and lists of these; data
        types are text ("torch.float32").
      out: the name of the result.  A result of several parts is taken apart by nodes
        of op "getitem" (arguments: Ref, int).
    """

    op: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    out: str


class RawGraph(NamedTuple):
    """A classifier as a graph of operations.

    Attributes:
      input: the name of the one image input, NCHW unless the graph itself permutes.
      nodes: in order of execution.
      output: the name of the logits (or probabilities: the tail is cut later).
      weights: parameters, buffers and constants by the name of their value.
      keys: names of values to state_dict keys or names of initialisers, where there
        are such (parameters and persistent buffers).
      fixed_batch: the only number of images that the graph takes; None: any.
    """

    input: str
    nodes: tuple[Node, ...]
    output: str
    weights: dict[str, np.ndarray]
    keys: dict[str, str]
    fixed_batch: int | None = None


def refs(value: Any) -> Iterator[str]:
    """The names that an argument refers to, in order."""
    if isinstance(value, Ref):
        yield value.name
    elif isinstance(value, list | tuple):
        for part in value:
            yield from refs(part)
