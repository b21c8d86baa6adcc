"""A polite end: signals set a flag that the training loop polls."""

import os
import signal
import socket
import threading
from types import FrameType
from typing import Any

import jax
from jax.experimental import multihost_utils

GRACE_SECS = 25.0


class Stopped(Exception):
    """Raised between two parts of a run that was asked to stop.

    Attributes:
      step: how many steps are done and saved.
    """

    def __init__(self, step: int = 0):
        super().__init__(step)
        self.step = step


class StopRequest:
    """Turns SIGTERM and SIGINT into a flag, so that a run can save before it ends.

    Use it as a context manager around the loop.  Before and after, the signals keep
    their usual meaning; a second signal inside ends the process at once.  Inside of
    another one, a signal sets the flags of both.

    Python runs handlers between bytecodes, so a signal during a long compilation or
    step waits for its end.  Preempted machines do not: if the loop has not ended by
    `grace_secs` after SIGTERM, a thread ends the process, and the last checkpoint
    stands.

    With several processes, all must stop at the same point.  JAX's preemption service
    sees to that and owns SIGTERM there; processes therefore poll equally often.
    """

    def __init__(self, grace_secs: float = GRACE_SECS) -> None:
        self._requested = False
        self._polls = 0
        self._previous: dict[int, Any] = {}
        self._many = jax.process_count() > 1
        self._grace = grace_secs
        self._ended = threading.Event()
        self._sockets: tuple[socket.socket, ...] = ()

    @property
    def requested(self) -> bool:
        """Whether this process, or with several any of them, was asked to stop."""
        if self._many and not self._requested:
            self._polls += 1
            self._requested = multihost_utils.reached_preemption_sync_point(self._polls)
        return self._requested

    def reached(self, step: int) -> bool:
        """Whether all processes should save now, after `step`, and end."""
        del step
        return self.requested

    def __enter__(self) -> "StopRequest":
        if not self._many:
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous[number] = signal.signal(number, self._handle)
            self._sockets = socket.socketpair()
            self._sockets[1].setblocking(False)
            # Written to at once, whatever the main thread is doing.
            self._wakeup = signal.set_wakeup_fd(self._sockets[1].fileno())
            threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._ended.set()
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()
        if self._sockets:
            signal.set_wakeup_fd(self._wakeup)
            self._sockets[1].close()  # The watching thread reads the end and returns.

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._requested = True
        previous = self._previous[number]
        if isinstance(getattr(previous, "__self__", None), StopRequest):
            previous(number, frame)  # a run within a run: both are to end
            return
        signal.signal(number, previous)
        # os.write, because print may be interrupted in the middle of itself.
        os.write(
            2, b"\nstopping after this part; what is done is kept (once more: now)\n"
        )

    def _watch(self) -> None:
        with self._sockets[0] as arrivals:
            while received := arrivals.recv(16):
                if signal.SIGTERM in received and not self._ended.wait(self._grace):
                    os.write(
                        2,
                        b"stopped in the middle of a step, which took too long; what "
                        b"is on disk stands: resume with the same command\n",
                    )
                    os._exit(0)
