"""Plots of curves, bars and dots, in files or within a page."""

import io
import os
import sys
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from etils import epath

from experiments.harness import pictures


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


_MANY = 8  # Entries of a legend.


class Curves(NamedTuple):
    """A plot of curves.

    Attributes:
      series: by name, points ``(x, y)``, or ``(x, y, half_width)`` where `half_width`
        is that of an interval drawn as a band.
      xlabel: label of the x axis.
      ylabel: label of the y axis.
      title: heading.
      logarithmic: which axis is, if one.
    """

    series: Mapping[str, Sequence[tuple[float, ...]]]
    xlabel: str = "step"
    ylabel: str = ""
    title: str = ""
    logarithmic: Literal["", "x", "y"] = ""

    def draw(self, figure: Any) -> None:
        """Draws into a figure of matplotlib."""
        axes = figure.add_subplot()
        for number, (name, points) in enumerate(self.series.items()):
            table = np.asarray(points, np.float64)
            if not table.size:
                continue
            # Colours repeat after ten curves, markers tell these apart.
            marker = "os^v"[number // 10 % 4] if len(table) <= 30 else None
            how = {"label": name, "marker": marker, "markersize": 4, "lw": 1.5}
            (drawn,) = axes.plot(table[:, 0], table[:, 1], **how)
            if table.shape[1] > 2:
                low, high = table[:, 1] - table[:, 2], table[:, 1] + table[:, 2]
                color = drawn.get_color()
                axes.fill_between(table[:, 0], low, high, alpha=0.2, color=color, lw=0)
        axes.set(xlabel=self.xlabel, ylabel=self.ylabel, title=self.title)
        if self.logarithmic:
            axes.set(**{f"{self.logarithmic}scale": "log"})
        axes.grid(alpha=0.3)
        _legend(axes, len(axes.lines))


class Bars(NamedTuple):
    """Horizontal bars, the first one on top.

    Attributes:
      heights: by name.
      xlabel: label of the x axis.
      title: heading.
    """

    heights: Mapping[str, float]
    xlabel: str
    title: str = ""

    def draw(self, figure: Any) -> None:
        """Draws into a figure of matplotlib."""
        axes = figure.add_subplot()
        axes.barh(list(self.heights), list(self.heights.values()))
        axes.invert_yaxis()
        axes.set(xlabel=self.xlabel, title=self.title)
        axes.grid(alpha=0.3, axis="x")


class Dots(NamedTuple):
    """Points in a plane, coloured by what they belong to; axes have no meaning.

    Attributes:
      places: [n, 2].
      groups: [n] what each belongs to.
      title: heading.
    """

    places: np.ndarray
    groups: Sequence[str]
    title: str = ""

    def draw(self, figure: Any) -> None:
        """Draws into a figure of matplotlib."""
        import matplotlib

        axes = figure.add_subplot()
        names, groups = list(dict.fromkeys(self.groups)), np.asarray(self.groups)
        few = len(names) <= 10
        colours = matplotlib.colormaps["tab10" if few else "turbo"]
        for number, name in enumerate(names):
            of_it = self.places[groups == name]
            colour = colours(number if few else number / (len(names) - 1))
            axes.scatter(*of_it.T, s=14, color=colour, label=name, alpha=0.8, lw=0)
        axes.set(xticks=[], yticks=[], title=self.title)
        if len(names) <= 20:
            _legend(axes, len(names), beside=True)


def save_curves(path: epath.PathLike, series: Mapping[str, Any], **labels: Any) -> bool:
    """Plots curves into one PNG.

    Args:
      path: the PNG file; its folder is made if missing.
      series: see `Curves`.
      **labels: see `Curves`.

    Returns:
      Whether the plot was made; without matplotlib it is skipped, with one line.
    """
    return _save(path, Curves(series, **labels))


def save_bars(
    path: epath.PathLike, heights: Mapping[str, float], **labels: Any
) -> bool:
    """Draws horizontal bars, the first one on top; see `Bars` and `save_curves`."""
    return _save(path, Bars(heights, **labels))


def _legend(axes: Any, count: int, beside: bool = False) -> None:
    if beside or count > _MANY:  # Beside the axes, which it would cover.
        where = {"loc": "center left", "bbox_to_anchor": (1, 0.5)}
        axes.legend(frameon=False, fontsize="small", **where)
    elif count:
        axes.legend(frameon=False, fontsize="small" if count > 4 else None)


def _save(path: epath.PathLike, drawing: Curves | Bars) -> bool:
    figure = _figure()
    if figure is None:
        print(
            f"note: {os.fspath(path)} was not drawn; pip install matplotlib",
            file=sys.stderr,
        )
        return False
    drawing.draw(figure)
    # A long legend stands beside the axes.
    many = isinstance(drawing, Curves) and len(drawing.series) > _MANY
    with pictures.writable(path).open("wb") as file:
        figure.savefig(file, format="png", bbox_inches="tight" if many else None)
    return True


def drawing_uri(drawing: Curves | Bars | Dots, size: tuple[float, float]) -> str:
    """A drawing as a data URI that is sharp at any size.

    Args:
      drawing: what to draw.
      size: width and height in inches, of about seven lines of text each.

    Raises:
      ImportError: matplotlib is missing.
    """
    figure = _figure(size)
    if figure is None:
        raise ImportError("matplotlib is missing: pip install matplotlib")
    import matplotlib

    drawing.draw(figure)
    stored = io.BytesIO()
    # The same numbers make the same file.
    with matplotlib.rc_context({"svg.hashsalt": "page"}), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # A letter that the font has not.
        figure.savefig(
            stored, format="svg", metadata={"Date": None}, bbox_inches="tight"
        )
    return pictures.uri("svg+xml", stored.getvalue())


def _figure(size: tuple[float, float] = (6.4, 4.0)) -> Any:
    """An empty figure, or None where matplotlib is missing."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return None
    # The object interface, not pyplot: no global state, no display.
    figure = Figure(figsize=size, dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    return figure
