"""How far long work is: a bar on a terminal, elsewhere a line now and then.

All bars of a terminal are one display, so that a stage may run within another; what is
printed meanwhile stands above them.
"""

import atexit
import collections
import math
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, TextIO

import jax

from experiments.harness.metrics import format_duration, format_number


class Progress:
    """Tells ``step 120/1000  ce 0.42  eta 3h12m`` now and then, on process 0.

    On a terminal the same stands beside a bar, with the rate; lines are printed only
    where they are forced.
    """

    def __init__(
        self,
        total: int,
        start: int = 0,
        *,
        label: str = "step",
        every_secs: float = 10.0,
        budget: float = math.inf,
        at_once: bool = True,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        """Begins to count.

        Args:
          total: steps of the stage.
          start: how many are done already.
          label: what is counted.
          every_secs: between two lines.
          budget: seconds from now that end the stage, where its steps do not before.
          at_once: whether the first step is told.
          stream: where to; None is standard output as it is then.
          clock: seconds.
        """
        self._total, self._start, self._label = total, start, label
        self._every, self._stream, self._clock = every_secs, stream, clock
        self._end = clock() + budget
        self._printed: float | None = None if at_once else clock()
        # Pairs (time, step).  The first comes from the end of the first step, so the
        # compilation is not part of the rate.
        self._recent: collections.deque[tuple[float, int]] = collections.deque()
        self._bar = None
        if jax.process_index() == 0 and total > start:
            self._bar = SCREEN.add(stream or sys.stdout, label, total, start)

    def due(self) -> bool:
        """Whether `update` would print a line: fetch scalars only then."""
        if self._bar is not None:
            return True
        if self._printed is None:
            return True
        return self._clock() - self._printed >= self._every

    def update(
        self, step: int, scalars: Mapping[str, Any] = {}, force: bool = False
    ) -> None:
        """Notes that `step` steps are done, and tells it if it is time to."""
        self._recent.append((self._clock(), step))
        while len(self._recent) > 50:
            self._recent.popleft()
        if jax.process_index():
            return
        if self._bar is not None:
            SCREEN.move(self._bar, step, self._rate(), self._left(step), _told(scalars))
        if force or (self._bar is None and self.due()):
            self._printed = self._clock()
            line = self.line(step, scalars)
            print(line, file=self._stream or sys.stdout, flush=True)
        if step >= self._total:
            self.close()

    def close(self) -> None:
        """Takes the bar away; calling it twice is harmless."""
        if self._bar is not None:
            SCREEN.remove(self._bar)
            self._bar = None

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def line(self, step: int, scalars: Mapping[str, Any]) -> str:
        """Formats the status line."""
        parts = [f"{self._label} {step}/{self._total}", _told(scalars)]
        parts.append(f"eta {self._left(step)}")
        return "  ".join(filter(None, parts))

    def seconds_left(self, step: int) -> float | None:
        """The time to the end: an estimate once two steps are done.

        Until then what is left of the budget, and None without one.
        """
        if step >= self._total:
            return 0.0
        rate = self._steps_per_second()
        steps = (self._total - step) / rate if rate else math.inf
        left = min(steps, max(self._end - self._clock(), 0.0))
        return left if left < math.inf else None

    def _steps_per_second(self) -> float | None:
        if len(self._recent) < 2 or self._recent[-1][1] == self._recent[0][1]:
            return None
        (time_0, step_0), (time_1, step_1) = self._recent[0], self._recent[-1]
        return (step_1 - step_0) / max(time_1 - time_0, 1e-9)

    def _left(self, step: int) -> str:
        left = self.seconds_left(step)
        return "?" if left is None else format_duration(left)

    def _rate(self) -> str:
        rate = self._steps_per_second()
        return "" if rate is None else format_rate(rate)


def _told(scalars: Mapping[str, Any]) -> str:
    return "  ".join(f"{name} {format_number(x)}" for name, x in scalars.items())


def format_rate(per_second: float) -> str:
    """Formats as ``12.5/s``, ``3.2/min`` or ``1.5/h``.

    >>> format_rate(0.05)
    '3/min'
    """
    for unit, seconds in (("s", 1), ("min", 60)):
        if per_second * seconds >= 1:
            return f"{format_number(float(per_second * seconds))}/{unit}"
    return f"{format_number(float(per_second * 3600))}/h"


def counter(label: str, stream: TextIO | None = None) -> Callable[[int, int], None]:
    """A function ``(done, total)`` that tells progress; the first call begins it."""
    found: list[Progress] = []

    def tell(done: int, total: int) -> None:
        if not found:
            where = stream or sys.stderr
            found.append(Progress(total, label=label, at_once=False, stream=where))
        found[0].update(done)

    return tell


class Screen:
    """The bars of a terminal, while there are any."""

    def __init__(self) -> None:
        self._display: Any = None
        self._bars: set[Any] = set()

    def add(self, stream: TextIO, label: str, total: int, done: int) -> Any:
        """Shows another bar; returns its name, None where this is no terminal."""
        if not self._display:
            if not stream.isatty():
                return None
            self._display = _display(stream)
            if self._display is None:
                return None
            self._display.start()
            atexit.register(self.stop)
        fields = {"rate": "", "left": "?", "told": ""}
        bar = self._display.add_task(label, total=total, completed=done, **fields)
        self._bars.add(bar)
        return bar

    def move(self, bar: Any, done: int, rate: str, left: str, told: str) -> None:
        """Shows how far a bar is."""
        if self._display:
            fields = {"rate": rate, "left": left, "told": told}
            self._display.update(bar, completed=done, **fields)

    def remove(self, bar: Any) -> None:
        """Takes a bar away, and the display with the last one."""
        if self._display and bar in self._bars:
            self._bars.discard(bar)
            self._display.remove_task(bar)
            if not self._bars:
                self.stop()

    def stop(self) -> None:
        """Gives the terminal back as it was."""
        if self._display:
            self._display.stop()
            self._display = None
            self._bars.clear()
            atexit.unregister(self.stop)


# A process has one terminal.
SCREEN = Screen()


def _display(stream: TextIO) -> Any:
    """Of rich; None on a terminal that cannot go back a line."""
    from rich import progress
    from rich.console import Console
    from rich.table import Column

    console = Console(file=stream)
    if console.is_dumb_terminal:
        return None
    text = progress.TextColumn
    return progress.Progress(
        text("{task.description}"),
        progress.BarColumn(bar_width=24),
        progress.MofNCompleteColumn(),
        text("{task.fields[rate]}"),
        progress.TimeElapsedColumn(),
        text("{task.fields[left]} left"),
        text("[dim]{task.fields[told]}", table_column=Column(ratio=1, no_wrap=True)),
        console=console,
        transient=True,
        refresh_per_second=4,
    )
