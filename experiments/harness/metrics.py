"""What a run tells: metrics file and tables; `progress` tells how far it is."""

import json
import math
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

import jax
import numpy as np
from etils import epath

from experiments.harness import files
from free_jax.errors import InputError

METRICS_FILE = "metrics.jsonl"


class RunError(FloatingPointError):
    """The run itself went wrong, not the program; printed without a traceback."""


class MetricWriter:
    """Appends one JSON line per call to ``<workdir>/metrics.jsonl``.

    Only process 0 writes.  Nothing that depends on the clock is added, so two runs of
    the same config and seed give the same file.
    """

    def __init__(self, workdir: epath.PathLike, *, tensorboard: bool = False):
        self._path = epath.Path(workdir) / METRICS_FILE
        self._remote = "://" in os.fspath(self._path)
        self._active = jax.process_index() == 0
        self._board = _board(workdir) if tensorboard and self._active else None
        if self._active and self._path.exists():
            self._rewrite(self._complete_lines())  # a kill may have cut the last line

    def write(self, step: int, scalars: Mapping[str, Any]) -> None:
        """Writes the scalars of one step and makes sure they are on disk."""
        if not self._active:
            return
        record = {"step": int(step)} | {k: to_scalar(v) for k, v in scalars.items()}
        line = json.dumps(files.to_plain(record)) + "\n"
        if self._remote:  # object stores cannot append
            old = self._path.read_text() if self._path.exists() else ""
            self._path.write_text(old + line)
        else:
            with open(self._path, "a", encoding="utf-8") as file:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
        if self._board is not None:
            for name, value in scalars.items():
                if not isinstance(to_scalar(value), str):
                    self._board.add_scalar(name, to_scalar(value), step)

    def truncate_after(self, step: int) -> None:
        """Drops the lines after `step`: a resumed run writes them again."""
        if self._active and self._path.exists():
            lines = self._complete_lines()
            self._rewrite([x for x in lines if json.loads(x)["step"] <= step])

    def read(self) -> list[dict[str, Any]]:
        """Returns all records, oldest first."""
        return read_rows(self._path)

    def close(self) -> None:
        """Closes the TensorBoard writer, if any."""
        if self._board is not None:
            self._board.close()

    def _complete_lines(self) -> list[str]:
        return _complete_lines(self._path)

    def _rewrite(self, lines: list[str]) -> None:
        files.write_text(self._path, "".join(line + "\n" for line in lines))


def read_rows(file: epath.PathLike) -> list[dict[str, Any]]:
    """The records of a metrics file, oldest first; none where there is no file."""
    path = epath.Path(file)
    found = _complete_lines(path) if path.exists() else ()
    return [json.loads(line) for line in found]


def _complete_lines(path: epath.Path) -> list[str]:
    """Without those that a kill has cut."""
    lines = []
    for line in path.read_text().splitlines():
        try:
            json.loads(line)
        except ValueError:
            continue
        lines.append(line)
    return lines


def format_duration(seconds: float) -> str:
    """Formats as ``42s``, ``3m05s``, ``3h12m`` or ``2d04h``.

    >>> format_duration(11520)
    '3h12m'
    """
    total = round(seconds)
    if total < 60:
        return f"{total}s"
    if total < 3600:
        return f"{total // 60}m{total % 60:02d}s"
    if total < 86400:
        return f"{total // 3600}h{total % 3600 // 60:02d}m"
    return f"{total // 86400}d{total % 86400 // 3600:02d}h"


def to_scalar(value: Any) -> float | int | str:
    """Turns a zero-dimensional array or a number into a Python number."""
    if isinstance(value, (bool, int, float, str)):
        return value
    array = np.asarray(value)
    if array.size != 1:
        raise ValueError(f"expected a scalar, got an array of shape {array.shape}")
    return array.reshape(()).item()


def format_number(value: Any) -> str:
    """Three significant digits, but never fewer than an integer's own."""
    value = to_scalar(value)
    if not isinstance(value, float):
        return str(value)
    if not math.isfinite(value):
        return str(value)
    if abs(value) >= 100:
        return f"{value:.1f}"
    return f"{value:.3g}"


def check_finite(
    step: int, scalars: Mapping[str, Any], since: int | None = None
) -> None:
    """Raises RunError if a scalar is NaN or infinite, naming it and the step.

    Args:
      step: the step the scalars belong to.
      scalars: the metrics.
      since: last step at which they were known to be finite, if not the one before.
    """
    bad = {
        name: value
        for name, value in ((n, to_scalar(v)) for n, v in scalars.items())
        if isinstance(value, float) and not math.isfinite(value)
    }
    if bad:
        where = f"step {step}" if since is None else f"steps {since + 1} to {step}"
        names = ", ".join(f"{name} is {value}" for name, value in bad.items())
        raise RunError(
            f"{names} at {where}; lower the learning rate or the loss weight behind "
            "it; earlier checkpoints and metrics are kept"
        )


def _cells(
    rows: Sequence[Mapping[str, Any]], columns: Sequence[str]
) -> list[list[str]]:
    return [
        ["" if row.get(c) is None else format_number(row[c]) for c in columns]
        for row in rows
    ]


def markdown_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """Formats rows as a Markdown table."""
    lines = [list(columns), ["---"] * len(columns), *_cells(rows, columns)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def print_table(
    rows: Sequence[Mapping[str, Any]],
    columns: Sequence[str],
    *,
    title: str = "",
    stream: TextIO | None = None,
) -> str:
    """Prints a table (rich on a terminal, plain otherwise); returns it as Markdown."""
    out: TextIO = sys.stdout if stream is None else stream
    cells = _cells(rows, columns)
    if jax.process_index() != 0:
        pass
    elif out.isatty():
        from rich.console import Console
        from rich.table import Table

        table = Table(*columns, title=title or None)
        for line in cells:
            table.add_row(*line)
        Console(file=out).print(table)
    else:
        grid = [list(columns), *cells]
        widths = [max(len(line[i]) for line in grid) for i in range(len(columns))]
        grid.insert(1, ["-" * width for width in widths])
        text = "\n".join(
            "  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip()
            for line in grid
        )
        print(f"{title}\n{text}" if title else text, file=out, flush=True)
    return markdown_table(rows, columns)


def check_packages(*, tensorboard: bool) -> None:
    """Refuses metrics for TensorBoard where the package for them is missing.

    Raises:
      InputError: names the package.
    """
    if tensorboard:
        _writer()


def _board(workdir: epath.PathLike) -> Any:
    return _writer()(os.fspath(epath.Path(workdir) / "tensorboard"))


def _writer() -> Any:
    try:
        import tensorboardX
    except ImportError:
        raise InputError(
            "log.tensorboard=True needs tensorboardX: pip install tensorboardX"
        ) from None
    return tensorboardX.SummaryWriter
