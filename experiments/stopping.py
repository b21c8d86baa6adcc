"""A polite end: signals set a flag that the training loop polls."""

import os
import signal
from types import FrameType
from typing import Any

import jax
from jax.experimental import multihost_utils


class StopRequest:
    """Turns SIGTERM and SIGINT into a flag, so that a run can save before it ends.

    Use it as a context manager around the loop.  Before and after, the signals keep
    their usual meaning; a second signal inside ends the process at once.  Inside of
    another one, a signal sets the flags of both.  Python runs handlers between
    bytecodes, so a signal during a long compilation waits for its end.

    With several processes, hosts must agree on the step to stop at.  JAX's preemption
    service does that and owns SIGTERM there; poll `reached`, which covers both cases.
    """

    def __init__(self) -> None:
        self._requested = False
        self._previous: dict[int, Any] = {}
        self._many = jax.process_count() > 1

    @property
    def requested(self) -> bool:
        """Whether this process was asked to stop."""
        return self._requested

    def reached(self, step: int) -> bool:
        """Whether all processes should save now, after `step`, and end."""
        if self._many:
            return multihost_utils.reached_preemption_sync_point(step)
        return self._requested

    def __enter__(self) -> "StopRequest":
        if not self._many:
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: Any) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._requested = True
        previous = self._previous[number]
        if isinstance(getattr(previous, "__self__", None), StopRequest):
            previous(number, frame)  # a run within a run: both are to end
            return
        signal.signal(number, previous)
        # os.write, because print may be interrupted in the middle of itself.
        os.write(2, b"\nstopping: saving after this step (once more to quit now)\n")
