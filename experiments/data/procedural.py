"""A generated data set of drawn objects: no download, the same bits for a seed.

A class is an outline, a fill and a part ("star_bands_base"); everything else varies
within the class: position, size, rotation, shear, all colours and the polarity of the
contrast, background gradient and strokes, lighting and noise. Of colour a class has
only a loose preference for a hue. Validation and test classes have outlines that no
training class has, and share fills and parts with them.
"""

from typing import NamedTuple

import numpy as np

from experiments.data import shapes
from experiments.data.base import SPLITS, DataError, Split

_FILLS = ("solid", "stripes", "checker", "outline", "halves", "bands")
_PARTS = ("plain", "eye", "base", "ring", "twin")
_OUTLINES = dict(
    train=("disc", "square", "triangle", "star", "cross", "crescent")
    + ("arrow", "ell", "tee", "aitch", "heart", "bow_tie"),
    val=("chevron", "bolt", "house", "zed"),
    test=("gear", "half_disc", "clover", "you"),
)
_CLASSES_PER_OUTLINE = dict(train=3, val=2, test=2)
_NUM_STROKES = 3


class _Look(NamedTuple):
    outline: str
    fill: str
    part: str

    @property
    def name(self):
        return f"{self.outline}_{self.fill}_{self.part}"


def class_names(split: str) -> tuple[str, ...]:
    """Returns the sorted class names of a split: 36 train, 8 val, 8 test.

    Raises:
      DataError: the split is not known.

    >>> class_names("val")[0]
    'bolt_outline_ring'
    """
    return tuple(look.name for look in _looks(split))


def make_split(
    split: str, *, images_per_class: int = 120, seed: int = 0, image_size: int = 32
) -> Split:
    """Draws one split.

    More images per class extend the same sequence: the first ones do not change.

    Args:
      split: "train", "val" or "test".
      images_per_class: images of every class.
      seed: another seed draws other images of the same classes.
      image_size: height and width.

    Returns:
      The split, images uint8 [C, images_per_class, image_size, image_size, 3].

    Raises:
      DataError: the split is not known, or a number is not positive.
    """
    if images_per_class < 1 or image_size < 1 or seed < 0:
        raise DataError(
            f"images_per_class={images_per_class} and image_size={image_size} must be "
            f"at least 1 and seed={seed} at least 0"
        )
    looks = _looks(split)
    images = [
        _draw(look, (seed, SPLITS.index(split), c), images_per_class, image_size)
        for c, look in enumerate(looks)
    ]
    counts = np.full(len(looks), images_per_class, np.int32)
    return Split(np.stack(images), counts, tuple(look.name for look in looks))


def _looks(split):
    if split not in SPLITS:
        raise DataError(f"unknown split {split!r}; known: {', '.join(SPLITS)}")
    looks = []
    for i, outline in enumerate(_OUTLINES[split]):
        for j in range(_CLASSES_PER_OUTLINE[split]):
            fill = _FILLS[(i + 2 * j) % len(_FILLS)]
            part = _PARTS[(2 * i + j + i // len(_PARTS)) % len(_PARTS)]
            looks.append(_Look(outline, fill, part))
    return sorted(looks, key=lambda look: look.name)


def _draw(look, seed, num, size):
    """Draws `num` images of one class: uint8 [num, size, size, 3]."""
    seed_scene, seed_noise = np.random.SeedSequence(seed).spawn(2)
    # One row of numbers per image, so that more images leave the first ones alone.
    rows = np.random.default_rng(seed_scene).random((num, 80), np.float32)
    columns = iter(rows.T)

    def uniform(low, high):
        return (low + (high - low) * next(columns))[:, None, None]  # [num, 1, 1]

    axis = (np.arange(size, dtype=np.float32) + 0.5) * (2 / size) - 1
    right, up = axis[None, None, :], -axis[None, :, None]
    # The golden angle keeps the preferred hues of neighbouring classes apart.
    background, front, second = _palette(uniform, hue=2.4 * seed[-1])

    slope, direction = uniform(0, 0.25), uniform(0, 2 * np.pi)
    ramp = slope * (np.cos(direction) * right + np.sin(direction) * up)
    canvas = background[:, None, None] + ramp[..., None]
    for _ in range(_NUM_STROKES):
        mask = _stroke(uniform, right, up, size)
        colour = background + np.stack(
            [uniform(-0.35, 0.35)[:, 0, 0] for _ in range(3)], -1
        )
        canvas = _blend(canvas, colour, mask)

    x, y, pixel = _pose(uniform, right, up, size)
    mask, mix = _object(look, x, y, pixel)
    ink = _blend(front[:, None, None], second, mix)
    canvas = canvas + (ink - canvas) * mask[..., None]

    light, direction = uniform(0, 0.3), uniform(0, 2 * np.pi)
    shade = 1 + light * (np.cos(direction) * right + np.sin(direction) * up)
    canvas = canvas * (shade * uniform(0.75, 1.1))[..., None]
    noise = np.random.default_rng(seed_noise).standard_normal(
        canvas.shape, dtype=np.float32
    )
    canvas = canvas + noise * uniform(0.01, 0.06)[..., None]
    return np.round(np.clip(canvas, 0, 1) * 255).astype(np.uint8)


def _palette(uniform, hue):
    """Returns background, front and second colour, each [num, 3], well apart.

    Most backgrounds are darker than the object; the object's hue spreads over half
    the circle around the class's own.
    """
    dark = uniform(0, 1) < 0.9
    base = np.where(dark, uniform(0.05, 0.45), uniform(0.55, 0.95))
    gap = uniform(0.35, 0.6)
    level = np.where(dark, base + gap, base - gap)
    between = base + (level - base) * uniform(-0.2, 0.3)
    return (
        _tinted(uniform, base, uniform(0, 2 * np.pi)),
        _tinted(uniform, level, uniform(hue - 1.6, hue + 1.6)),
        _tinted(uniform, between, uniform(0, 2 * np.pi)),
    )


def _tinted(uniform, level, hue):
    """Returns a grey level shifted along a hue direction: [num, 3]."""
    thirds = np.array([0, 2 * np.pi / 3, -2 * np.pi / 3], np.float32)
    tint = np.cos(hue - thirds) * uniform(0.05, 0.3)  # [num, 1, 3]
    return np.clip(level + tint, 0, 1)[:, 0]


def _blend(canvas, colour, mask):
    return canvas + (colour[:, None, None] - canvas) * mask[..., None]


def _stroke(uniform, right, up, size):
    """Returns the coverage of a random line segment, [num, size, size]."""
    ax, ay, bx, by = (uniform(-1.2, 1.2) for _ in range(4))
    ex, ey, wx, wy = bx - ax, by - ay, right - ax, up - ay
    along = np.clip((wx * ex + wy * ey) / (ex * ex + ey * ey + 1e-6), 0, 1)
    distance = np.hypot(wx - ex * along, wy - ey * along) - uniform(0.03, 0.09)
    return _coverage(distance, 2 / size)


def _pose(uniform, right, up, size):
    """Returns coordinates in the object's frame and the size of a pixel there."""
    scale, angle, shear = uniform(0.52, 0.74), uniform(-0.5, 0.5), uniform(-0.2, 0.2)
    stretch = uniform(0.85, 1.15)
    reach = 0.8 - scale
    x, y = right - uniform(-1, 1) * reach, up - uniform(-1, 1) * reach
    cos, sin = np.cos(angle) / scale, np.sin(angle) / scale
    x, y = cos * x + sin * y, cos * y - sin * x
    return (x + shear * y) * stretch, y / stretch, (2 / size) / scale


def _object(look, x, y, pixel):
    """Returns the object's coverage and the share of its second colour."""
    vertices = shapes.SHAPES[look.outline]
    if look.part == "twin":
        x, y, pixel = (np.abs(x) - 0.62) / 0.58, y / 0.58, pixel / 0.58
    distance = shapes.signed_distance(vertices, x, y)
    mix = _fill(look.fill, distance, x, y, pixel)
    if look.fill == "outline":
        distance = np.abs(distance + 0.13) - 0.13
    mask = _coverage(distance, pixel)
    if look.part == "eye":
        eye = np.hypot(x, y)
        mask = np.maximum(mask, _coverage(eye - 0.42, pixel))
        mix = mix * (1 - _coverage(eye - 0.42, pixel)) + _coverage(eye - 0.26, pixel)
    elif look.part == "base":
        bar = np.maximum(np.abs(x) - 1.0, np.abs(y + 1.25) - 0.13)
        mask = np.maximum(mask, _coverage(bar, pixel))
    elif look.part == "ring":
        ring = np.abs(np.hypot(x, y) - 1.3) - 0.1
        mask = np.maximum(mask, _coverage(ring, pixel))
    return mask, mix


def _fill(fill, distance, x, y, pixel):
    def lines(value, period):
        edge = np.abs(value / period % 1 - 0.5) * period - period / 4
        return _coverage(edge, pixel)

    if fill == "stripes":
        return lines(y, 0.55)
    if fill == "checker":
        across, down = lines(x, 0.9), lines(y, 0.9)
        return across + down - 2 * across * down
    if fill == "halves":
        return _coverage(x, pixel)
    if fill == "bands":
        return lines(distance + 0.09, 0.5)
    return np.zeros_like(x)


def _coverage(distance, pixel):
    return np.clip(0.5 - distance / pixel, 0, 1)
