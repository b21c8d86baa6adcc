"""Whatever takes minutes is a list of named jobs; who runs it decides what is kept."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np


class Job(NamedTuple):
    """A part of some work that is done, and may be kept, by itself.

    Attributes:
      name: unique in its list; fit for a file name.
      run: makes the arrays.  What it needs is loaded only then.  An entry
        ``"complete"`` that is False says that some of it may come another time, so that
        this result must not be kept.
      here: it uses what only this process has, such as connections to a service or
        the result of the job before; others can be sent to another machine (with
        cloudpickle).
      by_rows: names of arrays of the result that whoever asked for it takes some rows
        of at a time; where results are kept in files these may stay there, as
        `rows.FileRows`.  All others are read.
    """

    name: str
    run: Callable[[], dict[str, np.ndarray]]
    here: bool = False
    by_rows: tuple[str, ...] = ()


# ``(stage, jobs) -> results in order``; a stage is a name such as "recovered".
Run = Callable[[str, Sequence[Job]], Iterator[dict[str, Any]]]


def in_memory(stage: str, jobs: Sequence[Job]) -> Iterator[dict[str, Any]]:
    """Does one job after the other and keeps nothing.

    >>> [out["x"] for out in in_memory("s", [Job("a", lambda: {"x": np.arange(2)})])]
    [array([0, 1])]
    """
    del stage
    for job in jobs:
        yield job.run()
