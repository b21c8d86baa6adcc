"""The operators that a graph may name, as plain functions of arrays.

Values are NCHW as in the files that graphs come from.  Names are those of PyTorch's
ATen ("aten.conv2d.default"), of ONNX ("onnx.Conv") or of Python ("getitem", "floordiv",
for sizes).  In-place variants and other spellings of the same thing do not reach this
table: `interop.programs` writes them all alike.
"""

from collections.abc import Callable, Iterable
from typing import Any

from free_jax.models.operators import (
    activations,
    arithmetic,
    attention,
    convolution,
    normalization,
    onnx,
    pooling,
    reductions,
    resize,
    shapes,
)

__all__ = ["OPERATORS", "unknown"]

OPERATORS: dict[str, Callable[..., Any]] = {
    **arithmetic.TABLE,
    **activations.TABLE,
    **attention.TABLE,
    **convolution.TABLE,
    **normalization.TABLE,
    **onnx.TABLE,
    **pooling.TABLE,
    **reductions.TABLE,
    **resize.TABLE,
    **shapes.TABLE,
}


def unknown(names: Iterable[str]) -> list[str]:
    """Those of the names that are in no table, in order, each once."""
    return sorted(set(names) - OPERATORS.keys())
