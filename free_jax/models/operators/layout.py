"""Element-wise work where channels stand last, as convolutions leave them.

A graph's values are NCHW by name.  What a convolution gives is computed as NHWC and
transposed; an activation of it, taken as written, may be compiled as a loop over the
transposed array, which reads with strides.  Done between two transposes of its own,
those of the convolutions around it cancel.  On one core, image gradients of an
EfficientNet take 0.6 times as long.
"""

from collections.abc import Sequence, Set
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from free_jax.models.operators import activations, arithmetic, convolution, onnx

_ARRAYS = (jax.Array, np.ndarray)
# They look along an axis, or at a weight for each channel.
_NOT_ELEMENTWISE = {
    "aten._prelu_kernel.default",
    "aten.glu.default",
    "aten.log_softmax.int",
    "aten.prelu.default",
    "aten.softmax.int",
}
_ELEMENTWISE = (
    frozenset(
        name
        for name in (*arithmetic.TABLE, *activations.TABLE)
        if name.startswith("aten.")
    )
    - _NOT_ELEMENTWISE
) | onnx.ELEMENTWISE
_CONVOLUTIONS = frozenset(convolution.TABLE) - {"aten.im2col.default"} | {"onnx.Conv"}


def leaves_channels_last(op: str, args: Sequence[Any]) -> bool:
    """Whether a result stands channels last in memory whatever its operands do."""
    if op == "aten.permute.default" and isinstance(args[1], list):
        n = len(args[1])
        return n > 2 and [d % n for d in args[1]] == [0, n - 1, *range(1, n - 1)]
    return op in _CONVOLUTIONS


def keeps_channels_last(op: str, names: Set[str], standing: Set[str]) -> bool:
    """Whether an element-wise operation has an operand that stands channels last.

    Args:
      op: its name.
      names: of its operands.
      standing: of the values that stand so.
    """
    return op in _ELEMENTWISE and bool(names & standing)


def channels_last(x: Any) -> Any:
    """[n, c, ..] as [n, .., c]; what has no channels, as it is."""
    return jnp.moveaxis(x, 1, -1) if getattr(x, "ndim", 0) > 2 else x


def channels_first(x: jax.Array) -> jax.Array:
    """The inverse of `channels_last`."""
    return jnp.moveaxis(x, -1, 1) if x.ndim > 2 else x


def elementwise(function: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """An element-wise operation of NCHW values, computed on NHWC ones.

    Operands that are broadcast from fewer axes are not moved rightly, so that they are
    given all axes first.
    """
    arrays = [a for a in (*args, *kwargs.values()) if isinstance(a, _ARRAYS)]
    ndim = max(a.ndim for a in arrays)

    def moved(a: Any) -> Any:
        if not isinstance(a, _ARRAYS) or not a.ndim:
            return a
        return channels_last(a.reshape((1,) * (ndim - a.ndim) + a.shape))

    out = function(*map(moved, args), **{k: moved(a) for k, a in kwargs.items()})
    return channels_first(out)
