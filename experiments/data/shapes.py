"""Outlines of the procedural data set, as polygons with signed distances."""

import numpy as np

_FULL = 2 * np.pi


def _arc(radius, start, stop, num, center=(0.0, 0.0)):
    angles = np.linspace(start, stop, num)
    points = radius * np.stack([np.cos(angles), np.sin(angles)], -1)
    return points + np.asarray(center)


def _radial(radius_of_angle, num):
    angles = np.arange(num) * _FULL / num + np.pi / 2
    radius = radius_of_angle(angles - np.pi / 2, np.arange(num))
    return np.stack([radius * np.cos(angles), radius * np.sin(angles)], -1)


def _heart(num=20):
    t = np.arange(num) * _FULL / num
    x = 16 * np.sin(t) ** 3
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([x, y + 2], -1) / 16


# Vertices in the plane, y up, within about the unit disc.
SHAPES = {
    "disc": _arc(0.95, 0, _FULL * 19 / 20, 20),
    "square": np.array([(-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)]),
    "triangle": np.array([(-0.95, -0.7), (0.95, -0.7), (0, 1.0)]),
    "star": _radial(lambda _, i: np.where(i % 2, 0.42, 1.05), 10),
    "cross": np.array(
        [(-0.33, -1), (0.33, -1), (0.33, -0.33), (1, -0.33), (1, 0.33), (0.33, 0.33)]
        + [(0.33, 1), (-0.33, 1), (-0.33, 0.33), (-1, 0.33), (-1, -0.33)]
        + [(-0.33, -0.33)]
    ),
    "crescent": np.concatenate(
        [_arc(1.0, 0.8, _FULL - 0.8, 14), _arc(0.85, 5.2, 1.08, 10, (0.45, 0))]
    ),
    "arrow": np.array(
        [(-0.28, -1), (0.28, -1), (0.28, 0.05), (0.85, 0.05), (0, 1.05)]
        + [(-0.85, 0.05), (-0.28, 0.05)]
    ),
    "ell": np.array(
        [(-0.7, -1), (0.8, -1), (0.8, -0.42), (-0.1, -0.42), (-0.1, 1), (-0.7, 1)]
    ),
    "tee": np.array(
        [(-0.3, -1), (0.3, -1), (0.3, 0.4), (0.9, 0.4), (0.9, 1), (-0.9, 1)]
        + [(-0.9, 0.4), (-0.3, 0.4)]
    ),
    "aitch": np.array(
        [(-0.9, -1), (-0.35, -1), (-0.35, -0.27), (0.35, -0.27), (0.35, -1)]
        + [(0.9, -1), (0.9, 1), (0.35, 1), (0.35, 0.27), (-0.35, 0.27)]
        + [(-0.35, 1), (-0.9, 1)]
    ),
    "heart": _heart(),
    "bow_tie": np.array(
        [(-1, -0.8), (0, -0.2), (1, -0.8), (1, 0.8), (0, 0.2), (-1, 0.8)]
    ),
    "chevron": np.array(
        [(-1, -0.75), (0, 0.1), (1, -0.75), (1, -0.05), (0, 0.85), (-1, -0.05)]
    ),
    "bolt": np.array(
        [(0.15, 1.05), (-0.75, -0.15), (-0.1, -0.15), (-0.35, -1.05), (0.75, 0.25)]
        + [(0.08, 0.25), (0.65, 1.05)]
    ),
    "house": np.array(
        [(-0.7, -0.9), (0.7, -0.9), (0.7, 0.1), (1.0, 0.1), (0, 1.0), (-1.0, 0.1)]
        + [(-0.7, 0.1)]
    ),
    "zed": np.array(
        [(-0.85, -1), (0.85, -1), (0.85, -0.5), (-0.1, -0.5), (0.85, 0.6), (0.85, 1)]
        + [(-0.85, 1), (-0.85, 0.5), (0.1, 0.5), (-0.85, -0.6)]
    ),
    "gear": _radial(lambda _, i: np.where(i % 4 < 2, 1.05, 0.68), 28),
    "half_disc": _arc(1.1, 0, np.pi, 12, (0, -0.45)),
    "clover": _radial(lambda a, _: 0.62 + 0.42 * np.cos(3 * a), 24),
    "you": np.array(
        [(-0.9, -0.55), (-0.5, -1), (0.5, -1), (0.9, -0.55), (0.9, 1), (0.35, 1)]
        + [(0.35, -0.42), (-0.35, -0.42), (-0.35, 1), (-0.9, 1)]
    ),
}


def signed_distance(vertices: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Returns the distance to a polygon's edge, negative inside.

    Args:
      vertices: [V, 2] corners in order, either way round; need not be convex.
      x: float array of any shape.
      y: float array of the shape of `x`.

    Returns:
      Distances, of the shape of `x`.
    """
    squared = np.full_like(x, np.inf)
    inside = np.zeros(x.shape, bool)
    for (ax, ay), (bx, by) in zip(
        vertices.tolist(), np.roll(vertices, 1, axis=0).tolist(), strict=True
    ):
        ex, ey = bx - ax, by - ay
        wx, wy = x - ax, y - ay
        along = np.clip((wx * ex + wy * ey) * (1 / (ex * ex + ey * ey)), 0, 1)
        squared = np.minimum(squared, (wx - ex * along) ** 2 + (wy - ey * along) ** 2)
        # A ray to the right crosses this edge: even-odd rule.
        straddles = (ay > y) != (by > y)
        inside ^= straddles & ((ex * wy > ey * wx) == (ey < 0))
    return np.where(inside, -1, 1).astype(x.dtype) * np.sqrt(squared)
