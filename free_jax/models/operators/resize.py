"""Resizing of maps [n, c, *sizes], and sampling at given places.

Linear and cubic resizing are separable: one small constant matrix an axis.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from free_jax.models.operators.kinds import bounded, spread


def _cubic(t: float, a: float) -> float:
    t = abs(t)
    if t <= 1:
        return (a + 2) * t**3 - (a + 3) * t**2 + 1
    return a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a if t < 2 else 0.0


def _step(size: int, out: int, align: bool, scale: float | None) -> float:
    """Input pixels an output pixel."""
    if align:
        return (size - 1) / (out - 1) if out > 1 else 0.0
    return 1 / scale if scale else size / out


def resize_matrix(
    size: int, out: int, mode: str, align: bool, scale: float | None, antialias: bool
) -> np.ndarray:
    """Weights [out, size] of the input pixels in each output pixel.

    Args:
      size: pixels before.
      out: pixels after.
      mode: "linear" or "cubic".
      align: whether the centres of the outermost pixels stay; else the borders do.
      scale: the factor that was asked for, which need not be out / size.
      antialias: widen the kernel when shrinking, as Pillow does.
    """
    bounded(out * size)
    matrix = np.zeros((out, size))
    step = _step(size, out, align, scale)
    for i in range(out):
        if antialias:
            wide = max(step, 1.0)
            support, center = (1 if mode == "linear" else 2) * wide, step * (i + 0.5)
            first = max(int(center - support + 0.5), 0)
            for j in range(first, min(int(center + support + 0.5), size)):
                t = (j - center + 0.5) / wide
                linear = max(0.0, 1 - abs(t))
                matrix[i, j] = linear if mode == "linear" else _cubic(t, -0.5)
            matrix[i] /= matrix[i].sum()
            continue
        place = i * step if align else step * (i + 0.5) - 0.5
        if mode == "linear":
            place = max(place, 0.0)
            j = min(int(place), size - 1)
            matrix[i, j] += 1 - (place - j)
            matrix[i, min(j + 1, size - 1)] += place - j
        else:
            j = math.floor(place)
            for k in (-1, 0, 1, 2):
                weight = _cubic(place - j - k, -0.75)
                matrix[i, min(max(j + k, 0), size - 1)] += weight
    return matrix


def _sizes(x, output_size, scales) -> tuple[list[int], list[float | None]]:
    count = x.ndim - 2
    scales = list(spread(scales, count)) if scales else [None] * count
    if output_size is None:
        output_size = [
            math.floor(size * scale)
            for size, scale in zip(x.shape[2:], scales, strict=True)
        ]
    return [int(size) for size in output_size], scales


def resize(x, output_size, scales, mode: str, align: bool, antialias: bool = False):
    """Linear or cubic resizing of all axes after the second."""
    sizes, scales = _sizes(x, output_size, scales)
    for axis, (out, scale) in enumerate(zip(sizes, scales, strict=True), 2):
        matrix = resize_matrix(x.shape[axis], out, mode, bool(align), scale, antialias)
        x = jnp.tensordot(x, matrix.astype(x.dtype), ((axis,), (1,)))
        x = jnp.moveaxis(x, -1, axis)
    return x


def resize_nearest(x, output_size, scales, exact: bool):
    """Nearest pixel: by its corner, or (`exact`) by its centre as Pillow does."""
    sizes, scales = _sizes(x, output_size, scales)
    for axis, (out, scale) in enumerate(zip(sizes, scales, strict=True), 2):
        size = x.shape[axis]
        # In single precision, as the original does.
        step = np.float32(_step(size, out, False, scale))
        place = np.floor((np.arange(out, dtype=np.float32) + 0.5 * exact) * step)
        x = jnp.take(x, np.minimum(place.astype(int), size - 1), axis)
    return x


def _interpolation(mode: str, antialias: bool = False):
    def vector(input, output_size, align_corners, scale_factors=None):
        return resize(input, output_size, scale_factors, mode, align_corners, antialias)

    def plain(self, output_size, align_corners, scales_h=None, scales_w=None):
        scales = [scales_h, scales_w] if scales_h else None
        return resize(self, output_size, scales, mode, align_corners, antialias)

    return vector, plain


def _nearest(exact: bool):
    def vector(input, output_size, scale_factors=None):
        return resize_nearest(input, output_size, scale_factors, exact)

    def plain(self, output_size, scales_h=None, scales_w=None):
        scales = [scales_h, scales_w] if scales_h else None
        return resize_nearest(self, output_size, scales, exact)

    return vector, plain


def affine_grid(theta, size, align_corners=False):
    """Places [n, h, w, 2] in [-1, 1] that affine maps [n, 2, 3] give."""
    _, _, h, w = size

    def line(count: int) -> np.ndarray:
        ends = np.linspace(-1, 1, count) if count > 1 else np.zeros(1)
        return ends if align_corners else ends * (count - 1) / count

    y, x = np.meshgrid(line(h), line(w), indexing="ij")
    base = np.stack([x, y, np.ones_like(x)], -1).astype(theta.dtype)
    return jnp.einsum("hwk,nik->nhwi", base, theta)


def grid_sample(input, grid, interpolation_mode=0, padding_mode=0, align_corners=False):
    """Values of [n, c, h, w] at places [n, i, j, 2] (x, y) in [-1, 1].

    Args:
      input: [n, c, h, w].
      grid: [n, i, j, 2].
      interpolation_mode: 0 linear, 1 nearest.
      padding_mode: 0 zeros outside, 1 the border's values.
      align_corners: whether -1 and 1 are the outermost pixels' centres.

    Returns:
      [n, c, i, j].
    """
    if interpolation_mode not in (0, 1) or padding_mode not in (0, 1):
        raise NotImplementedError("aten.grid_sampler of this mode")
    h, w = input.shape[2:]

    def pixels(place, size: int):
        if align_corners:
            place = (place + 1) / 2 * (size - 1)
        else:
            place = ((place + 1) * size - 1) / 2
        return jnp.clip(place, 0, size - 1) if padding_mode == 1 else place

    x, y = pixels(grid[..., 0], w), pixels(grid[..., 1], h)

    def at(image, row, column):
        inside = (row >= 0) & (row < h) & (column >= 0) & (column < w)
        rows = jnp.clip(row, 0, h - 1).astype(int)
        columns = jnp.clip(column, 0, w - 1).astype(int)
        return jnp.where(inside, image[:, rows, columns], 0)

    take = jax.vmap(at)
    if interpolation_mode == 1:
        return take(input, jnp.round(y), jnp.round(x))
    top, left = jnp.floor(y), jnp.floor(x)
    down, right = (y - top)[:, None], (x - left)[:, None]
    return (
        take(input, top, left) * (1 - down) * (1 - right)
        + take(input, top, left + 1) * (1 - down) * right
        + take(input, top + 1, left) * down * (1 - right)
        + take(input, top + 1, left + 1) * down * right
    )


def _table() -> dict[str, Any]:
    table: dict[str, Any] = {
        "aten.affine_grid_generator.default": affine_grid,
        "aten.grid_sampler.default": grid_sample,
        "aten.grid_sampler_2d.default": grid_sample,
    }
    for name, functions in {
        "upsample_bilinear2d": _interpolation("linear"),
        "upsample_linear1d": _interpolation("linear"),
        "upsample_trilinear3d": _interpolation("linear"),
        "upsample_bicubic2d": _interpolation("cubic"),
        "_upsample_bilinear2d_aa": _interpolation("linear", True),
        "_upsample_bicubic2d_aa": _interpolation("cubic", True),
        "upsample_nearest1d": _nearest(False),
        "upsample_nearest2d": _nearest(False),
        "upsample_nearest3d": _nearest(False),
        "_upsample_nearest_exact1d": _nearest(True),
        "_upsample_nearest_exact2d": _nearest(True),
        "_upsample_nearest_exact3d": _nearest(True),
    }.items():
        table[f"aten.{name}.vec"], table[f"aten.{name}.default"] = functions
    return table


TABLE = _table()
