"""Whatever takes minutes is a list of named jobs; who runs it decides what is kept."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

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
    """

    name: str
    run: Callable[[], dict[str, np.ndarray]]
    here: bool = False


# ``(stage, jobs) -> results in order``; a stage is a name such as "recovered".
Run = Callable[[str, Sequence[Job]], Iterator[dict[str, np.ndarray]]]


def in_memory(stage: str, jobs: Sequence[Job]) -> Iterator[dict[str, np.ndarray]]:
    """Does one job after the other and keeps nothing.

    >>> [out["x"] for out in in_memory("s", [Job("a", lambda: {"x": np.arange(2)})])]
    [array([0, 1])]
    """
    del stage
    for job in jobs:
        yield job.run()
