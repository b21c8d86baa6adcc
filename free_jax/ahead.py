"""Making what comes next while what is there is used."""

import contextlib
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax


class Feed:
    """``make(number)`` of numbers in a row, each while the one before is used.

    Two results are alive at a time.  An error is raised where its number is asked for.

    >>> feed = Feed(lambda number: 2 * number)
    >>> [feed(5), feed(6), feed(3)]
    [10, 12, 6]
    >>> feed.close()
    """

    def __init__(self, make: Callable[[int], Any]):
        """Starts with the first number that is asked for.

        Args:
          make: called in one other thread.
        """
        self._make, self._pool = make, ThreadPoolExecutor(1)
        self._next: tuple[int, Future] | None = None

    def __call__(self, number: int) -> Any:
        """The result of a number; that of the next one is begun."""
        if self._next is None or self._next[0] != number:
            self._next = (number, self._pool.submit(self._make, number))
        found = self._next[1].result()
        self._next = (number + 1, self._pool.submit(self._make, number + 1))
        return found

    def forget(self) -> None:
        """What was begun is not wanted: the next number is made anew."""
        self._next = None

    def close(self) -> None:
        """Begins nothing more, and waits for what was begun."""
        self._pool.shutdown(cancel_futures=True)


def on_host():
    """A context in which what has no place of its own is computed by the CPU.

    Small draws need not queue behind the program that keeps an accelerator busy.
    Nothing changes where JAX was told to use no CPU.
    """
    try:
        cpu = jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        return contextlib.nullcontext()
    return jax.default_device(cpu)
