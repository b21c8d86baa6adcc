"""Depthwise convolution as a sum over taps, and its gradient in the same form.

On CPU the backend's grouped convolution, which other platforms get, takes 5 to 90 times
as long.  Left to itself,
the gradient for the images becomes a sum of padded arrays, each of which is compared
with its borders at every pixel; here it is a sum over taps too, of the gradient that
was padded once.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from free_jax import platforms

Sides = tuple[tuple[int, int], ...]
Steps = tuple[int, ...]


def depthwise(
    x: jax.Array,
    kernel: jax.Array,
    stride: Sequence[int],
    sides: Sequence[tuple[int, int]],
    dilation: Sequence[int],
) -> jax.Array:
    """Cross-correlates each channel by itself.

    Args:
      x: [n, *sizes, c].
      kernel: [*taps, 1, c * times].
      stride: one an axis.
      sides: zeros (before, after) each axis.
      dilation: distance of taps, one an axis.

    Returns:
      [n, *sizes, c * times].  Not under forward-mode differentiation.
    """
    if not platforms.is_cpu():
        return _grouped(x, kernel, stride, sides, dilation)
    outputs = kernel.shape[-1]
    if outputs != x.shape[-1]:
        x = jnp.repeat(x, outputs // x.shape[-1], axis=-1)
    taps, sides = _useful(x, kernel[..., 0, :], stride, sides, dilation)
    where = tuple(stride), sides, tuple(dilation)
    if set(stride) != {1} != set(dilation):  # No network at hand has both.
        return _sum_over_taps(x, taps, *where)
    return _depthwise(x, taps, *where)


def _grouped(x, kernel, stride, sides, dilation) -> jax.Array:
    """The backend's own convolution, a group a channel."""
    letters = "DHW"[-(x.ndim - 2) :]
    return lax.conv_general_dilated(
        x,
        kernel,
        tuple(stride),
        tuple(map(tuple, sides)),
        rhs_dilation=tuple(dilation),
        dimension_numbers=(f"N{letters}C", f"{letters}IO", f"N{letters}C"),
        feature_group_count=x.shape[-1],
    )


def _useful(x, kernel, stride, sides, dilation) -> tuple[jax.Array, Sides]:
    """Without taps that see nothing but zeros, as most do on maps of a few pixels."""
    left = []
    for axis, (step, (before, after), d) in enumerate(
        zip(stride, sides, dilation, strict=True)
    ):
        size, k = x.shape[1 + axis], kernel.shape[axis]
        rows = (size + before + after - d * (k - 1) - 1) // step
        useful = [t for t in range(k) if t * d < before + size]
        useful = [t for t in useful if t * d + rows * step >= before] or [0]
        first, last = useful[0], useful[-1]
        kernel = lax.slice_in_dim(kernel, first, last + 1, 1, axis)
        left.append((before - first * d, after - (k - 1 - last) * d))
    return kernel, tuple(left)


def _padded(x: jax.Array, sides: Sides) -> jax.Array:
    zero = jnp.zeros((), x.dtype)
    return lax.pad(x, zero, [(0, 0, 0), *((*s, 0) for s in sides), (0, 0, 0)])


def _sum_over_taps(
    x: jax.Array, kernel: jax.Array, stride: Steps, sides: Sides, dilation: Steps
) -> jax.Array:
    """[n, *sizes, c] by [*taps, c]; sides below zero crop."""
    taps = kernel.shape[:-1]
    x = _padded(x, sides)
    counts = [
        (size - d * (k - 1) - 1) // step + 1
        for size, d, k, step in zip(x.shape[1:-1], dilation, taps, stride, strict=True)
    ]
    out = jnp.zeros((), x.dtype)
    for tap in np.ndindex(*taps):
        starts = [t * d for t, d in zip(tap, dilation, strict=True)]
        seen = tuple(
            slice(start, start + (n - 1) * step + 1, step)
            for start, n, step in zip(starts, counts, stride, strict=True)
        )
        out = out + x[(slice(None), *seen)] * kernel[tap]
    return out


_depthwise = jax.custom_vjp(_sum_over_taps, nondiff_argnums=(2, 3, 4))


def _forward(x, kernel, stride, sides, dilation):
    return _depthwise(x, kernel, stride, sides, dilation), (x, kernel)


def _backward(stride, sides, dilation, saved, gradient):
    x, kernel = saved
    _, for_kernel = jax.vjp(
        lambda k: _sum_over_taps(x, k, stride, sides, dilation), kernel
    )
    sizes = x.shape[1:-1]
    for_x = _image_gradient(gradient, kernel, sizes, stride, sides, dilation)
    return for_x, *for_kernel(gradient)


_depthwise.defvjp(_forward, _backward)


def _image_gradient(
    gradient: jax.Array,
    kernel: jax.Array,
    sizes: Steps,
    stride: Steps,
    sides: Sides,
    dilation: Steps,
) -> jax.Array:
    """What reaches [n, *sizes, c]; of stride and dilation one is 1.

    Pixels that are a stride apart see the same taps, every stride-th of the kernel,
    the last first: one sum for each of the phases, which are then interleaved.
    """
    count = len(sizes)
    counts = [-(-size // step) for size, step in zip(sizes, stride, strict=True)]
    phases = []
    for phase in np.ndindex(*stride):
        part, around = kernel, []
        for axis, step in enumerate(stride):
            ahead, first = divmod(sides[axis][0] + phase[axis], step)
            part = lax.slice_in_dim(
                part, min(first, part.shape[axis]), None, step, axis
            )
            reach = dilation[axis] * (part.shape[axis] - 1)
            rest = ahead + counts[axis] - gradient.shape[1 + axis]
            around.append((reach - ahead, rest))
        if part.size:
            part = jnp.flip(part, tuple(range(count)))
            # The barrier: else it is padded anew at every tap.
            wide = lax.optimization_barrier(_padded(gradient, tuple(around)))
            none, ones = ((0, 0),) * count, (1,) * count
            phases.append(_depthwise(wide, part, ones, none, dilation))
        else:  # A kernel shorter than its stride.
            shape = (gradient.shape[0], *counts, gradient.shape[-1])
            phases.append(jnp.zeros(shape, gradient.dtype))
    if math.prod(stride) == 1:
        return phases[0]
    n, c = gradient.shape[0], gradient.shape[-1]
    apart = jnp.stack(phases, 1).reshape(n, *stride, *counts, c)
    order = [a for i in range(count) for a in (1 + count + i, 1 + i)]
    apart = apart.transpose(0, *order, 1 + 2 * count)
    whole = apart.reshape(n, *(a * b for a, b in zip(counts, stride, strict=True)), c)
    return whole[(slice(None), *(slice(size) for size in sizes))]
