"""Contact sheets of images and plots of curves."""

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
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
    with _writable(path).open("wb") as file:
        picture.save(file, format="PNG")


def points(
    rows: Iterable[Mapping[str, float]], x: str, metric: str
) -> list[tuple[float, float, float]]:
    """Points with an interval for `save_curves`, of the rows that hold a metric.

    >>> points([{"step": 1}, {"step": 2, "a": 0.5, "a_ci95": 0.1}], "step", "a")
    [(2, 0.5, 0.1)]
    """
    return [
        (row[x], row[metric], row[f"{metric}_ci95"]) for row in rows if metric in row
    ]


def save_curves(
    path: epath.PathLike,
    series: Mapping[str, Sequence[tuple[float, ...]]],
    *,
    xlabel: str = "step",
    ylabel: str = "",
    title: str = "",
) -> bool:
    """Plots curves into one PNG.

    Args:
      path: the PNG file; its folder is made if missing.
      series: by name, points ``(x, y)``, or ``(x, y, half_width)`` where `half_width`
        is that of an interval drawn as a band.
      xlabel: label of the x axis.
      ylabel: label of the y axis.
      title: heading.

    Returns:
      Whether the plot was made; without matplotlib it is skipped, with one line.
    """
    figure = _figure(path)
    if figure is None:
        return False
    axes = figure.add_subplot()
    for name, points in series.items():
        table = np.asarray(points, np.float64)
        if not table.size:
            continue
        marker = "o" if len(table) <= 30 else None
        (drawn,) = axes.plot(
            table[:, 0], table[:, 1], label=name, marker=marker, markersize=3, lw=1.5
        )
        if table.shape[1] > 2:
            low, high = table[:, 1] - table[:, 2], table[:, 1] + table[:, 2]
            color = drawn.get_color()
            axes.fill_between(table[:, 0], low, high, alpha=0.2, color=color, lw=0)
    axes.set(xlabel=xlabel, ylabel=ylabel, title=title)
    axes.grid(alpha=0.3)
    box = None
    if len(axes.lines) > 8:  # Beside the axes, which it would cover.
        box = "tight"
        where = {"loc": "center left", "bbox_to_anchor": (1, 0.5)}
        axes.legend(frameon=False, fontsize="small", **where)
    elif axes.lines:
        axes.legend(frameon=False, fontsize="small" if len(axes.lines) > 4 else None)
    with _writable(path).open("wb") as file:
        figure.savefig(file, format="png", bbox_inches=box)
    return True


def save_bars(
    path: epath.PathLike, heights: Mapping[str, float], *, xlabel: str, title: str = ""
) -> bool:
    """Draws horizontal bars, the first one on top; see `save_curves`."""
    figure = _figure(path)
    if figure is None:
        return False
    axes = figure.add_subplot()
    axes.barh(list(heights), list(heights.values()))
    axes.invert_yaxis()
    axes.set(xlabel=xlabel, title=title)
    axes.grid(alpha=0.3, axis="x")
    with _writable(path).open("wb") as file:
        figure.savefig(file, format="png")
    return True


def save_side_by_side(path: epath.PathLike, sheets: Mapping[str, epath.PathLike]):
    """Pastes PNG files beside each other, each under its caption.

    Args:
      path: the PNG file; its folder is made if missing.
      sheets: caption to file, at least one.
    """
    gap, top = 8, 20
    loaded = {name: Image.open(os.fspath(file)) for name, file in sheets.items()}
    width = sum(sheet.width + gap for sheet in loaded.values()) + gap
    height = max(sheet.height for sheet in loaded.values()) + top + gap
    picture = Image.new("RGB", (width, height), (255, 255, 255))
    draw, x = ImageDraw.Draw(picture), gap
    for name, sheet in loaded.items():
        draw.text((x, 4), name, fill=(0, 0, 0), font=ImageFont.load_default(size=12))
        picture.paste(sheet, (x, top))
        x += sheet.width + gap
    with _writable(path).open("wb") as file:
        picture.save(file, format="PNG")


def _figure(path: epath.PathLike) -> Any:
    """An empty figure, or None, with one line, where matplotlib is missing."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        print(
            f"note: {os.fspath(path)} was not drawn; pip install matplotlib",
            file=sys.stderr,
        )
        return None
    # The object interface, not pyplot: no global state, no display.
    figure = Figure(figsize=(6.4, 4.0), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _writable(path: epath.PathLike) -> epath.Path:
    target = epath.Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    return target
