"""Pooling over windows and over regions of any number."""

import functools
import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from free_jax.models.cpu.pooling import max_pool_2x2
from free_jax.models.operators.kinds import spread


def window_sides(
    size: int, taps: int, stride: int, padding: int, dilation: int, ceil_mode: bool
) -> tuple[int, int]:
    """Zeros before and after an axis, and so the number of its windows.

    With `ceil_mode` a last window may reach beyond the padding, unless it would start
    there.
    """
    reach = dilation * (taps - 1) + 1
    free = size + 2 * padding - reach
    count = (-(-free // stride) if ceil_mode else free // stride) + 1
    if ceil_mode and (count - 1) * stride >= size + padding:
        count -= 1
    return padding, max(0, (count - 1) * stride + reach - size - padding)


def _windows(x, kernel_size, stride, padding, dilation, ceil_mode, count):
    """Tuples of taps, strides, sides and dilations of the last `count` axes."""
    taps = spread(kernel_size, count)
    strides = spread(stride, count) if stride else taps
    paddings, dilations = spread(padding, count), spread(dilation, count)
    sizes = x.shape[x.ndim - count :]
    sides = [
        window_sides(*each, ceil_mode)
        for each in zip(sizes, taps, strides, paddings, dilations, strict=True)
    ]
    return taps, strides, sides, dilations


def _sum(x, taps, strides, sides):
    lead = (1,) * (x.ndim - len(taps))
    return lax.reduce_window(
        x,
        0.0,
        lax.add,
        lead + tuple(taps),
        lead + tuple(strides),
        [(0, 0)] * len(lead) + list(sides),
    )


def max_pool(count: int):
    """Largest value of each window over the last `count` axes."""

    def pool(self, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False):
        taps, strides, sides, dilations = _windows(
            self, kernel_size, stride, padding, dilation, ceil_mode, count
        )
        halves = taps == strides == (2, 2) and set(dilations) == {1}
        if halves and self.ndim == 4 and not any(map(any, sides)):
            x = max_pool_2x2(self.transpose(0, 2, 3, 1))
            return x.transpose(0, 3, 1, 2)
        low = jnp.asarray(-jnp.inf, self.dtype)
        lead = self.ndim - count
        x = lax.pad(self, low, [(0, 0, 0)] * lead + [(*side, 0) for side in sides])
        for axis in range(count):
            x = _sliding_max(x, lead + axis, taps[axis], strides[axis], dilations[axis])
        return x

    return pool


def _sliding_max(x, axis: int, taps: int, stride: int, dilation: int):
    """Largest of a window along one axis, as a maximum of slices.

    One axis after the other takes a quarter of the time of a window over all of them
    on CPU, gradient included, and windows may be dilated.
    """
    windows = (x.shape[axis] - dilation * (taps - 1) - 1) // stride + 1
    shifted = [
        lax.slice_in_dim(
            x, start, start + (windows - 1) * stride + 1, stride=stride, axis=axis
        )
        for start in range(0, taps * dilation, dilation)
    ]
    return functools.reduce(jnp.maximum, shifted)


def avg_pool(count: int):
    """Mean of each window over the last `count` axes."""

    def pool(
        self,
        kernel_size,
        stride=None,
        padding=0,
        ceil_mode=False,
        count_include_pad=True,
        divisor_override=None,
    ):
        taps, strides, sides, _ = _windows(
            self, kernel_size, stride, padding, 1, ceil_mode, count
        )
        total = _sum(self, taps, strides, sides)
        if divisor_override:
            return total / divisor_override
        paddings = spread(padding, count)
        beyond = any(after > p for (_, after), p in zip(sides, paddings, strict=True))
        if not beyond and (count_include_pad or not any(paddings)):
            return total / math.prod(taps)
        counts = [
            _covered(size, k, s, side, p if count_include_pad else 0)
            for size, k, s, side, p in zip(
                self.shape[self.ndim - count :],
                taps,
                strides,
                sides,
                paddings,
                strict=True,
            )
        ]
        divisor = functools.reduce(np.multiply.outer, counts)
        return total / divisor.astype(total.dtype)

    return pool


def _covered(size, taps, stride, sides, counted) -> np.ndarray:
    """How many entries of an axis each window covers, `counted` zeros included."""
    before, after = sides
    windows = (size + before + after - taps) // stride + 1
    start = np.arange(windows) * stride - before
    first = np.maximum(start, -counted)
    return np.minimum(start + taps, size + counted) - first


def _regions(size: int, count: int) -> list[tuple[int, int]]:
    return [(i * size // count, -(-(i + 1) * size // count)) for i in range(count)]


def adaptive_avg_pool(count: int):
    """Means of as many regions of the last `count` axes as asked for."""

    def pool(self, output_size):
        x = self
        wanted = spread(output_size, count)
        first = x.ndim - count
        if all(size == 1 for size in wanted):
            return x.mean(tuple(range(first, x.ndim)), keepdims=True)
        for axis, out in enumerate(wanted, first):
            size = x.shape[axis]
            if out is None or out == size:
                continue
            if size % out == 0:
                apart = x.shape[:axis] + (out, size // out) + x.shape[axis + 1 :]
                x = x.reshape(apart).mean(axis + 1)
                continue
            weights = np.zeros((size, out))
            for i, (a, b) in enumerate(_regions(size, out)):
                weights[a:b, i] = 1 / (b - a)
            x = jnp.tensordot(x, weights.astype(x.dtype), ((axis,), (0,)))
            x = jnp.moveaxis(x, -1, axis)
        return x

    return pool


def adaptive_max_pool(count: int):
    """Maxima of as many regions of the last `count` axes as asked for."""

    def pool(self, output_size):
        x = self
        for axis, out in enumerate(spread(output_size, count), x.ndim - count):
            if out is None or out == x.shape[axis]:
                continue
            regions = _regions(x.shape[axis], out)
            parts = [lax.slice_in_dim(x, a, b, axis=axis).max(axis) for a, b in regions]
            x = jnp.stack(parts, axis)
        return x

    return pool


def _with_indices(pool):
    """The operators that also say where; nobody asks them in a classifier."""

    @functools.wraps(pool)
    def first(*args, **kwargs):
        return (pool(*args, **kwargs),)

    return first


def _table() -> dict[str, Any]:
    table: dict[str, Any] = {}
    for count in (1, 2, 3):
        largest, region = max_pool(count), adaptive_max_pool(count)
        mean = adaptive_avg_pool(count)
        table |= {
            f"aten.max_pool{count}d.default": largest,
            f"aten.max_pool{count}d_with_indices.default": _with_indices(largest),
            f"aten.avg_pool{count}d.default": avg_pool(count),
            f"aten.adaptive_avg_pool{count}d.default": mean,
            f"aten._adaptive_avg_pool{count}d.default": mean,
            f"aten.adaptive_max_pool{count}d.default": _with_indices(region),
        }
    return table


TABLE = _table()
