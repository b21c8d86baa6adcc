"""From a photograph to what a published classifier expects, step by step as stated.

Resize, crop and conversion to grey are Pillow's, whose rounding to whole grey levels
most published classifiers saw: other resizes move logits by 0.1 to 0.3.
"""

from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

Resample = Literal["nearest", "lanczos", "bilinear", "bicubic", "box", "hamming"]

# By Pillow's numbers, which Hugging Face's files state.
RESAMPLE: tuple[Resample, ...] = (
    "nearest",
    "lanczos",
    "bilinear",
    "bicubic",
    "box",
    "hamming",
)


class Preprocessing(NamedTuple):
    """What is done to an 8-bit photograph before a network sees it.

    Attributes:
      size: (h, w) that the network sees.
      resize_to: shortest side, or (h, w), that images are resized to; None: not.
      crop: whether the centre of `size` is cut out afterwards.
      crop_rounds: where an odd margin is halved: "down" as transformers, "even" as
        torchvision and timm.
      resample: Pillow's filter.
      channels: order that the network reads; "L": one channel of luminance.
      range: largest value of a pixel before normalisation, 1 or 255.
      mean: per channel, in the order RGB and for images in [0, 1].
      std: likewise.
    """

    size: tuple[int, int]
    resize_to: int | tuple[int, int] | None = None
    crop: bool = False
    crop_rounds: Literal["down", "even"] = "down"
    resample: Resample = "bilinear"
    channels: Literal["RGB", "BGR", "L"] = "RGB"
    range: Literal[1, 255] = 1
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(h, w, c) of what the network sees."""
        return (*self.size, 1 if self.channels == "L" else 3)

    @property
    def crop_offset(self) -> int | None:
        """First row that is kept of a square image; None without a crop."""
        if not self.crop:
            return None
        resized = self.size if self.resize_to is None else self.resize_to
        side = resized if isinstance(resized, int) else resized[0]
        return _offset(side, self.size[0], self.crop_rounds)


def prepare(
    images: UInt8[np.ndarray, "n h w 3"], wanted: Preprocessing
) -> Float[np.ndarray, "n i j c"]:
    """Photographs as a network expects them, before its normalisation.

    Args:
      images: RGB.
      wanted: see `Preprocessing`.

    Returns:
      [n, h, w, 3] in RGB, or [n, h, w, 1], in [0, 1]; a `Network` changes the order of
      channels and normalises.
    """
    prepared = np.stack([_prepare_one(image, wanted) for image in images])
    prepared = prepared.astype(np.float32) / 255.0
    return prepared[..., None] if prepared.ndim == 3 else prepared


def _prepare_one(image: np.ndarray, wanted: Preprocessing) -> np.ndarray:
    from PIL import Image

    picture = Image.fromarray(image)
    if wanted.channels == "L":
        picture = picture.convert("L")
    if wanted.resize_to is not None:
        h, w = resized(image.shape[:2], wanted.resize_to)
        if (h, w) != image.shape[:2]:
            kind = Image.Resampling[wanted.resample.upper()]
            picture = picture.resize((w, h), kind)
    pixels = np.asarray(picture)
    if wanted.crop:
        return _centre(pixels, wanted.size, wanted.crop_rounds)
    if pixels.shape[:2] != wanted.size:
        h, w = pixels.shape[:2]
        raise ValueError(
            f"images of {h}x{w} pixels for a network of {wanted.size[0]}x"
            f"{wanted.size[1]}, and nothing says how they are resized"
        )
    return pixels


def resized(
    shape: tuple[int, ...], resize_to: int | tuple[int, int]
) -> tuple[int, int]:
    """(h, w) after a resize to a shortest side or to (h, w).

    >>> resized((100, 150), 30)
    (30, 45)
    """
    if not isinstance(resize_to, int):
        return resize_to
    h, w = shape[:2]
    if h <= w:
        return resize_to, int(resize_to * w / h)
    return int(resize_to * h / w), resize_to


def _centre(
    pixels: np.ndarray, size: tuple[int, int], rounds: Literal["down", "even"]
) -> np.ndarray:
    """The centre of an image, with black around where it is smaller."""
    margins = [
        ((short := max(0, want - have)) // 2, short - short // 2)
        for have, want in zip(pixels.shape[:2], size, strict=True)
    ]
    margins += [(0, 0)] * (pixels.ndim - 2)
    pixels = np.pad(pixels, margins)
    top, left = (
        _offset(have, want, rounds)
        for have, want in zip(pixels.shape[:2], size, strict=True)
    )
    return pixels[top : top + size[0], left : left + size[1]]


def _offset(have: int, want: int, rounds: Literal["down", "even"]) -> int:
    margin = max(0, have - want)
    return margin // 2 if rounds == "down" else round(margin / 2)
