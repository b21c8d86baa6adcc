"""Contact sheets of images, and images within a page."""

import base64
import io
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath
from PIL import Image, ImageDraw, ImageFont

SEPARATOR = 2  # pixels between cells
GREY = 96


def save_grid(
    path: epath.PathLike,
    images: np.ndarray,
    *,
    rows: int,
    labels: Sequence[str] | None = None,
    scale: int = 2,
) -> None:
    """Saves images as one PNG sheet, row by row.

    Args:
      path: the PNG file; its folder is made if missing.
      images: [rows * columns, h, w, 3], uint8, or floating in [0, 1].
      rows: number of rows.
      labels: one caption per row, written to its left.
      scale: whole-number magnification, by repetition of pixels.
    """
    images = np.asarray(images)
    if images.ndim != 4 or images.shape[-1] != 3:
        raise ValueError(f"images must be [n, h, w, 3], not {list(images.shape)}")
    if rows < 1 or not len(images) or len(images) % rows:
        raise ValueError(f"{len(images)} images do not fill {rows} rows")
    if labels is not None and len(labels) != rows:
        raise ValueError(f"{len(labels)} labels for {rows} rows")
    if images.dtype != np.uint8:
        images = np.nan_to_num(images.astype(np.float32), nan=0.0)
        images = np.round(images.clip(0, 1) * 255).astype(np.uint8)
    images = images.repeat(scale, axis=1).repeat(scale, axis=2)
    count, height, width, _ = images.shape
    columns = count // rows

    font = ImageFont.load_default(size=min(max(height // 3, 9), 14))
    margin = 0
    if labels is not None:
        margin = max(int(font.getlength(text)) for text in labels) + 2 * 4
    step_y, step_x = height + SEPARATOR, width + SEPARATOR
    sheet = np.full(
        (rows * step_y + SEPARATOR, margin + columns * step_x + SEPARATOR, 3),
        GREY,
        np.uint8,
    )
    sheet[:, :margin] = 255
    for index, image in enumerate(images):
        y = index // columns * step_y + SEPARATOR
        x = index % columns * step_x + SEPARATOR + margin
        sheet[y : y + height, x : x + width] = image
    picture = Image.fromarray(sheet)
    draw = ImageDraw.Draw(picture)
    for row, text in enumerate(labels or ()):
        middle = row * step_y + SEPARATOR + height // 2
        draw.text((4, middle), text, fill=(0, 0, 0), font=font, anchor="lm")
    with writable(path).open("wb") as file:
        picture.save(file, format="PNG")


def image_uri(image: Image.Image, kind: str = "PNG", **options: Any) -> str:
    """An image as a data URI: a page that holds it needs no other file.

    Args:
      image: the image.
      kind: "PNG", or "JPEG" for photographs.
      **options: of its file format, such as ``quality``.
    """
    stored = io.BytesIO()
    image.save(stored, format=kind, **options)
    return uri(kind.lower(), stored.getvalue())


def array_uri(image: np.ndarray) -> str:
    """The same of an array [h, w, c], uint8, of one or three channels."""
    grey = image.shape[-1] == 1
    return image_uri(Image.fromarray(image[..., 0] if grey else image), optimize=True)


def file_uri(path: epath.PathLike) -> str:
    """A PNG file as a data URI."""
    return uri("png", epath.Path(path).read_bytes())


def uri(kind: str, content: bytes) -> str:
    """A file of an image as a data URI."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def save_side_by_side(
    path: epath.PathLike, sheets: Mapping[str, epath.PathLike], across: int = 3
):
    """Pastes PNG files beside each other, each under its caption.

    Args:
      path: the PNG file; its folder is made if missing.
      sheets: caption to file, at least one.
      across: files in a row; more rows follow below.
    """
    gap, top = 8, 20
    loaded = [(name, Image.open(os.fspath(file))) for name, file in sheets.items()]
    rows = [loaded[i : i + across] for i in range(0, len(loaded), across)]
    widths = [sum(sheet.width + gap for _, sheet in row) + gap for row in rows]
    heights = [max(sheet.height for _, sheet in row) + top + gap for row in rows]
    picture = Image.new("RGB", (max(widths), sum(heights)), (255, 255, 255))
    draw, font, y = ImageDraw.Draw(picture), ImageFont.load_default(size=12), 0
    for row, height in zip(rows, heights, strict=True):
        x = gap
        for name, sheet in row:
            draw.text((x, y + 4), name, fill=(0, 0, 0), font=font)
            picture.paste(sheet, (x, y + top))
            x += sheet.width + gap
        y += height
    with writable(path).open("wb") as file:
        picture.save(file, format="PNG")


def writable(path: epath.PathLike) -> epath.Path:
    """The file, whose folder is there."""
    target = epath.Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    return target
