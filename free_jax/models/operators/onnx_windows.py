"""ONNX's convolutions, pooling and resizing, where padding may differ by side.

Values are [n, c, *sizes].  What is computed is `convolution` and `pooling` as for every
other graph; here sides and coordinates are read the way ONNX writes them.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from free_jax.errors import InputError
from free_jax.models.operators.convolution import channels_last, convolution
from free_jax.models.operators.onnx_static import array, integers, sized, static
from free_jax.models.operators.pooling import avg_pool, max_pool

Sides = list[tuple[int, int]]


def window_sides(
    sizes: Sequence[int],
    taps: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    pads: Sequence[int] | None,
    auto_pad: str,
    ceil_mode: int = 0,
) -> Sides:
    """Padding before and after each axis, also that which rounding up reads."""
    sides = []
    for i, size in enumerate(sizes):
        reach = dilations[i] * (taps[i] - 1) + 1
        if auto_pad in ("SAME_UPPER", "SAME_LOWER"):
            count = -(-size // strides[i])
            total = max((count - 1) * strides[i] + reach - size, 0)
            small, large = total // 2, total - total // 2
            upper = auto_pad == "SAME_UPPER"
            sides.append((small, large) if upper else (large, small))
            continue
        before, after = (pads[i], pads[i + len(sizes)]) if pads else (0, 0)
        if auto_pad == "VALID":
            before = after = 0
        if ceil_mode:
            count = -(-(size + before + after - reach) // strides[i]) + 1
            if (count - 1) * strides[i] >= size + before:
                count -= 1  # A window that would start in the padding after.
            after = max(after, (count - 1) * strides[i] + reach - size - before)
        sides.append((before, after))
    return sides


def conv(
    x,
    w,
    b=None,
    auto_pad="NOTSET",
    dilations=None,
    group=1,
    kernel_shape=None,
    pads=None,
    strides=None,
):
    """Cross-correlation; `w` is [o, c / group, *taps]."""
    w = jnp.asarray(w)
    count = w.ndim - 2
    strides, dilations = strides or [1] * count, dilations or [1] * count
    sides = window_sides(x.shape[2:], w.shape[2:], strides, dilations, pads, auto_pad)
    inner = tuple(range(2, x.ndim))
    out = channels_last(
        x.transpose(0, *inner, 1),
        w.transpose(*inner, 1, 0),
        strides,
        sides,
        dilations,
        group,
    )
    if b is not None:
        out = out + jnp.asarray(array(b))
    return out.transpose(0, count + 1, *range(1, count + 1))


def conv_transpose(
    x,
    w,
    b=None,
    auto_pad="NOTSET",
    dilations=None,
    group=1,
    kernel_shape=None,
    output_padding=None,
    output_shape=None,
    pads=None,
    strides=None,
):
    """Transposed convolution: all of it, cropped by the padding."""
    w = jnp.asarray(w)
    count = w.ndim - 2
    strides, dilations = strides or [1] * count, dilations or [1] * count
    more = output_padding or [0] * count
    b = None if b is None else jnp.asarray(array(b))
    full = convolution(x, w, b, strides, [0], dilations, True, more, group)
    cut = [slice(None), slice(None)]
    for i, size in enumerate(full.shape[2:]):
        before, after = (pads[i], pads[i + count]) if pads else (0, 0)
        if output_shape or auto_pad.startswith("SAME"):
            if output_shape:
                wanted = output_shape[i - count]
            else:
                wanted = x.shape[2 + i] * strides[i]
            total = max(size - wanted, 0)
            small, large = total // 2, total - total // 2
            upper = auto_pad == "SAME_UPPER"
            before, after = (small, large) if upper else (large, small)
        cut.append(slice(before, size - after))
    return full[tuple(cut)]


def max_pooling(
    x,
    kernel_shape,
    strides=None,
    pads=None,
    dilations=None,
    ceil_mode=0,
    auto_pad="NOTSET",
    storage_order=0,
):
    """Largest value of each window."""
    count = len(kernel_shape)
    strides, dilations = strides or [1] * count, dilations or [1] * count
    sides = window_sides(
        x.shape[2:], kernel_shape, strides, dilations, pads, auto_pad, ceil_mode
    )
    if any(map(any, sides)):
        low = jnp.asarray(-jnp.inf, x.dtype)
        x = lax.pad(x, low, [(0, 0, 0)] * 2 + [(*side, 0) for side in sides])
    pool: Any = max_pool(count)
    return pool(x, tuple(kernel_shape), strides, 0, dilations)


def average_pooling(
    x,
    kernel_shape,
    strides=None,
    pads=None,
    dilations=None,
    ceil_mode=0,
    count_include_pad=0,
    auto_pad="NOTSET",
):
    """Mean of each window, over what lies inside (or over the padding too)."""
    count = len(kernel_shape)
    strides = strides or [1] * count
    if dilations and set(dilations) != {1}:
        raise InputError("AveragePool with dilations is not supported")
    args = (x.shape[2:], kernel_shape, strides, [1] * count, pads, auto_pad)
    sides, plain = window_sides(*args, ceil_mode), window_sides(*args)
    sizes = x.shape[2:]
    x = lax.pad(
        x, jnp.zeros((), x.dtype), [(0, 0, 0)] * 2 + [(*side, 0) for side in sides]
    )
    mean = avg_pool(count)(x, tuple(kernel_shape), strides, 0)
    covered = []
    for size, taps, stride, (before, after), (_, own), windows in zip(
        sizes, kernel_shape, strides, sides, plain, mean.shape[2:], strict=True
    ):
        counted = np.zeros(before + size + after)
        counted[before : before + size] = 1
        if count_include_pad:
            counted[: before + size + own] = 1
        covered.append(
            [counted[i * stride : i * stride + taps].sum() for i in range(windows)]
        )
    share = functools.reduce(np.multiply.outer, map(np.asarray, covered))
    full = math.prod(kernel_shape)
    if (share == full).all():
        return mean
    return mean * (full / np.maximum(share, 1)).astype(mean.dtype)


def lp_pooling(x, kernel_shape, p=2, **kwargs):
    """Norm of each window."""
    mean = average_pooling(jnp.abs(x) ** p, kernel_shape, count_include_pad=1, **kwargs)
    return (mean * math.prod(kernel_shape)) ** (1 / p)


def _places(size: int, out: int, scale: float, transform: str) -> np.ndarray:
    """Where each output pixel lies among the input's."""
    i = np.arange(out, dtype=np.float64)
    if transform == "align_corners":
        return i * ((size - 1) / (out - 1)) if out > 1 else np.zeros(out)
    if transform == "asymmetric":
        return i / scale
    if transform == "pytorch_half_pixel" and out == 1:
        return np.zeros(1)
    if transform == "half_pixel_symmetric":
        shift = size / 2 * (1 - out / (size * scale))
        return shift + (i + 0.5) / scale - 0.5
    if transform in ("half_pixel", "pytorch_half_pixel"):
        return (i + 0.5) / scale - 0.5
    raise InputError(f"Resize with {transform} is not supported")


def _kernel(distance: np.ndarray, mode: str, a: float) -> np.ndarray:
    t = np.abs(distance)
    if mode == "linear":
        return np.maximum(0, 1 - t)
    near = (a + 2) * t**3 - (a + 3) * t**2 + 1
    far = a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a
    return np.where(t <= 1, near, np.where(t < 2, far, 0))


@functools.lru_cache(64)
def resize_weights(
    size: int,
    out: int,
    scale: float,
    mode: str,
    transform: str,
    a: float,
    antialias: bool,
    exclude_outside: bool,
) -> np.ndarray:
    """Weights [out, size] of the input pixels in each output pixel."""
    place = _places(size, out, scale, transform)
    # When shrinking with antialias, the kernel is as wide as an output pixel.
    narrow = min(scale, 1.0) if antialias else 1.0
    reach = math.ceil((1 if mode == "linear" else 2) / narrow)
    near = np.floor(place).astype(int)[:, None] + np.arange(1 - reach, reach + 1)
    weights = _kernel((near - place[:, None]) * narrow, mode, a)
    outside = (near < 0) | (near >= size)
    if exclude_outside:
        weights = np.where(outside, 0, weights)
    weights = weights / weights.sum(1, keepdims=True)
    matrix = np.zeros((out, size))
    rows = np.broadcast_to(np.arange(out)[:, None], near.shape)
    np.add.at(matrix, (rows, np.clip(near, 0, size - 1)), weights)
    return matrix


def _nearest(place: np.ndarray, nearest_mode: str) -> np.ndarray:
    if nearest_mode == "floor":
        return np.floor(place)
    if nearest_mode == "ceil":
        return np.ceil(place)
    if nearest_mode == "round_prefer_ceil":
        return np.floor(place + 0.5)
    return np.ceil(place - 0.5)


def _targets(x, scales, sizes, axes, policy):
    """(axis, size, scale) of each axis that changes."""
    which = [axis % x.ndim for axis in axes] if axes else list(range(x.ndim))
    if sizes is not None and len(integers(sizes)):
        wanted = integers(sizes)
        factors = [w / x.shape[axis] for w, axis in zip(wanted, which, strict=True)]
        if policy != "stretch":
            same = min(factors) if policy == "not_larger" else max(factors)
            factors = [same] * len(which)
            wanted = [math.floor(same * x.shape[axis] + 0.5) for axis in which]
    else:
        if scales is None or not static(scales):
            raise InputError("Resize has neither sizes nor scales that are known")
        factors = [float(s) for s in np.asarray(scales).reshape(-1)]
        wanted = [
            math.floor(x.shape[axis] * factor)
            for axis, factor in zip(which, factors, strict=True)
        ]
    changes = zip(which, wanted, factors, strict=True)
    return [each for each in changes if each[1:] != (x.shape[each[0]], 1.0)]


def resize(
    x,
    roi=None,
    scales=None,
    sizes=None,
    antialias=0,
    axes=None,
    coordinate_transformation_mode="half_pixel",
    cubic_coeff_a=-0.75,
    exclude_outside=0,
    extrapolation_value=0.0,
    keep_aspect_ratio_policy="stretch",
    mode="nearest",
    nearest_mode="round_prefer_floor",
):
    """Resizes any axes by nearest, linear or cubic interpolation."""
    if mode not in ("nearest", "linear", "cubic"):
        raise InputError(f"Resize with mode {mode!r} is not supported")
    transform = coordinate_transformation_mode
    changes = _targets(x, scales, sizes, axes, keep_aspect_ratio_policy)
    for axis, out, scale in changes:
        size = x.shape[axis]
        sized([*x.shape[:axis], out, *x.shape[axis + 1 :]])
        if mode == "nearest":
            # In single precision, as runtimes do: halves are to be halves.
            place = _places(size, out, scale, transform).astype(np.float32)
            where = np.clip(_nearest(place, nearest_mode), 0, size - 1).astype(int)
            x = jnp.take(x, where, axis)
            continue
        weights = resize_weights(
            size,
            out,
            scale,
            mode,
            transform,
            cubic_coeff_a,
            bool(antialias),
            bool(exclude_outside),
        )
        x = jnp.tensordot(x, weights.astype(x.dtype), ((axis,), (1,)))
        x = jnp.moveaxis(x, -1, axis)
    return x


def upsample(x, scales, mode="nearest"):
    """What `resize` was before opset 10."""
    return resize(
        x,
        scales=scales,
        mode=mode,
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    )


def _global(reduction):
    return lambda x: reduction(x, tuple(range(2, x.ndim)))


TABLE: dict[str, Any] = {
    "onnx.AveragePool": average_pooling,
    "onnx.Conv": conv,
    "onnx.ConvTranspose": conv_transpose,
    "onnx.GlobalAveragePool": _global(lambda x, axes: jnp.mean(x, axes, keepdims=True)),
    "onnx.GlobalLpPool": lambda x, p=2: (
        jnp.sum(jnp.abs(x) ** p, tuple(range(2, x.ndim)), keepdims=True) ** (1 / p)
    ),
    "onnx.GlobalMaxPool": _global(lambda x, axes: jnp.max(x, axes, keepdims=True)),
    "onnx.LpPool": lp_pooling,
    "onnx.MaxPool": max_pooling,
    "onnx.Resize": resize,
    "onnx.Upsample": upsample,
}
