"""Convolutions of NCHW values, all of them computed as NHWC.

The backend's convolution with NCHW dimension numbers is up to eleven times slower
inside a loop on CPU; the transposes to and fro cost nothing.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from free_jax.models.cpu.convolution import conv2d as plain_conv2d
from free_jax.models.cpu.depthwise import depthwise as depthwise_conv
from free_jax.models.operators.kinds import spread

# More taps of a depthwise convolution than these are no sum of slices.
_MANY_TAPS = 169
_MANY_STRIDED_TAPS = 64
_LETTERS = {1: "W", 2: "HW", 3: "DHW"}


def convolution(
    input: jax.Array,
    weight: jax.Array,
    bias: jax.Array | None,
    stride: int | Sequence[int],
    padding: int | Sequence[int],
    dilation: int | Sequence[int],
    transposed: bool,
    output_padding: int | Sequence[int],
    groups: int,
) -> jax.Array:
    """Cross-correlation over one to three axes, or its transpose.

    Args:
      input: [n, c, *sizes].
      weight: [o, c / groups, *taps]; transposed: [c, o / groups, *taps].
      bias: [o] or None.
      stride: one an axis, or one for all.
      padding: zeros on both sides of each axis, likewise.
      dilation: distance of taps, likewise.
      transposed: whether this is the gradient of a convolution.
      output_padding: rows added at the end of a transposed one.
      groups: of channels that do not see each other.

    Returns:
      [n, o, *sizes].
    """
    count = weight.ndim - 2
    stride, padding, dilation = (
        spread(value, count) for value in (stride, padding, dilation)
    )
    sides = [(pad, pad) for pad in padding]
    inner = tuple(range(2, input.ndim))
    x = input.transpose(0, *inner, 1)
    if transposed:
        out = _transposed(x, weight, stride, padding, dilation, output_padding, groups)
    else:
        out = channels_last(
            x, weight.transpose(*inner, 1, 0), stride, sides, dilation, groups
        )
    if bias is not None:
        out = out + bias
    return out.transpose(0, count + 1, *range(1, count + 1))


def channels_last(
    x: jax.Array,
    kernel: jax.Array,
    stride: Sequence[int],
    sides: Sequence[tuple[int, int]],
    dilation: Sequence[int],
    groups: int,
) -> jax.Array:
    """Cross-correlates [n, *sizes, c] with [*taps, c / groups, o]."""
    count = x.ndim - 2
    taps = kernel.shape[:-2]
    dense = groups == 1 and set(dilation) == {1}
    if dense and tuple(stride) == taps and not any(map(any, sides)):
        return _patches(x, kernel)
    square = count == 2 and stride[0] == stride[1]
    # Strided convolutions are a sum over taps there: too many to compile.
    few = set(stride) == {1} or math.prod(taps) <= _MANY_STRIDED_TAPS
    if dense and square and few:
        return plain_conv2d(x, kernel, stride=stride[0], padding=(sides[0], sides[1]))
    depthwise = groups == x.shape[-1] > 1 and math.prod(taps) <= _MANY_TAPS
    if depthwise:
        return depthwise_conv(x, kernel, stride, sides, dilation)
    letters = _LETTERS[count]
    return lax.conv_general_dilated(
        x,
        kernel,
        tuple(stride),
        sides,
        rhs_dilation=tuple(dilation),
        dimension_numbers=(f"N{letters}C", f"{letters}IO", f"N{letters}C"),
        feature_group_count=groups,
    )


def _patches(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Windows that touch but do not overlap: a matrix product of patches."""
    *taps, c, o = kernel.shape
    counts = [size // k for size, k in zip(x.shape[1:-1], taps, strict=True)]
    cut = tuple(slice(n * k) for n, k in zip(counts, taps, strict=True))
    apart = [part for pair in zip(counts, taps, strict=True) for part in pair]
    x = x[(slice(None), *cut)].reshape(x.shape[0], *apart, c)
    order = (*range(1, 2 * len(taps), 2), *range(2, 2 * len(taps) + 1, 2))
    x = x.transpose(0, *order, 2 * len(taps) + 1)
    return x.reshape(x.shape[0], *counts, -1) @ kernel.reshape(-1, o)


def _transposed(x, weight, stride, padding, dilation, output_padding, groups):
    """[n, *sizes, c] through [c, o / groups, *taps], as a dilated convolution."""
    count = weight.ndim - 2
    c, o, *taps = weight.shape
    extra = spread(output_padding, count)
    # Groups stand one after another among the outputs of a grouped convolution.
    kernel = weight.reshape(groups, c // groups, o, *taps)
    kernel = jnp.moveaxis(kernel, (1, 0, 2), (-3, -2, -1))
    kernel = kernel.reshape(*taps, c // groups, groups * o)
    kernel = jnp.flip(kernel, tuple(range(count)))
    reach = [d * (k - 1) for d, k in zip(dilation, taps, strict=True)]
    sides = [
        (r - pad, r - pad + more)
        for r, pad, more in zip(reach, padding, extra, strict=True)
    ]
    letters = _LETTERS[count]
    return lax.conv_general_dilated(
        x,
        kernel,
        (1,) * count,
        sides,
        lhs_dilation=tuple(stride),
        rhs_dilation=tuple(dilation),
        dimension_numbers=(f"N{letters}C", f"{letters}IO", f"N{letters}C"),
        feature_group_count=groups,
    )


def conv(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    """Convolution over as many axes as the weight has taps for."""
    if isinstance(padding, str):
        return conv_padding(input, weight, bias, stride, padding, dilation, groups)
    if input.ndim < weight.ndim:  # one image without a batch axis
        out = conv(input[None], weight, bias, stride, padding, dilation, groups)
        return out[0]
    return convolution(
        input, weight, bias, stride, padding, dilation, False, [0], groups
    )


def conv_padding(
    input, weight, bias=None, stride=1, padding="valid", dilation=1, groups=1
):
    """Convolution padded by name: "valid", or "same" (more at the end if uneven)."""
    if padding == "same":
        taps = weight.shape[2:]
        total = [
            d * (k - 1) for d, k in zip(spread(dilation, len(taps)), taps, strict=True)
        ]
        sides = [(0, 0), (0, 0), *((t // 2, t - t // 2) for t in total)]
        input = jnp.pad(input, sides)
    return convolution(input, weight, bias, stride, [0], dilation, False, [0], groups)


def conv_transpose(
    input,
    weight,
    bias=None,
    stride=1,
    padding=0,
    output_padding=0,
    groups=1,
    dilation=1,
):
    """Transposed convolution."""
    return convolution(
        input, weight, bias, stride, padding, dilation, True, output_padding, groups
    )


def im2col(self, kernel_size, dilation=1, padding=0, stride=1):
    """Windows as columns: [n, c, h, w] to [n, c * taps, windows]."""
    kernel, dilation, padding, stride = (
        spread(value, 2) for value in (kernel_size, dilation, padding, stride)
    )
    n, c = self.shape[:2]
    x = jnp.pad(self, [(0, 0), (0, 0), *((pad, pad) for pad in padding)])
    rows, columns = (
        (x.shape[2 + i] - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1
        for i in (0, 1)
    )
    windows = [
        x[
            :,
            :,
            i * dilation[0] : i * dilation[0] + (rows - 1) * stride[0] + 1 : stride[0],
            j * dilation[1] : j * dilation[1] + (columns - 1) * stride[1] + 1 : stride[
                1
            ],
        ]
        for i in range(kernel[0])
        for j in range(kernel[1])
    ]
    return jnp.stack(windows, 2).reshape(n, c * math.prod(kernel), rows * columns)


TABLE: dict[str, Any] = {
    "aten.convolution.default": convolution,
    "aten.conv1d.default": conv,
    "aten.conv2d.default": conv,
    "aten.conv3d.default": conv,
    "aten.conv1d.padding": conv_padding,
    "aten.conv2d.padding": conv_padding,
    "aten.conv3d.padding": conv_padding,
    "aten.conv_transpose1d.default": conv_transpose,
    "aten.conv_transpose2d.input": conv_transpose,
    "aten.conv_transpose3d.input": conv_transpose,
    "aten.im2col.default": im2col,
}
