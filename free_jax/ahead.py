"""Making what comes next while what is there is used."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any


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
