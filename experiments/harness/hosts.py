"""Several processes that act as one: who writes, and how all come to agree.

Every process runs the same program on its own devices.  Process 0 writes; what only
one of them knows (clocks, files, a signal) is agreed on before it decides anything,
because processes that take different branches wait for each other forever.
"""

import json
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from free_jax.errors import InputError
from free_jax.types import PyTree

T = TypeVar("T")
_BLOCK = 4096  # Bytes; few lengths, so that few programs are compiled.


def is_writer() -> bool:
    """Whether this process writes files: process 0 does."""
    return jax.process_index() == 0


def are_many() -> bool:
    """Whether there are several processes."""
    return jax.process_count() > 1


def agreed(value: Any) -> Any:
    """Process 0's value of something that is plain JSON; every process must call."""
    if not are_many():
        return value
    data = np.frombuffer(json.dumps(value).encode(), np.uint8)
    length = int(multihost_utils.broadcast_one_to_all(np.int32(len(data))))
    buffer = np.zeros(-(-length // _BLOCK) * _BLOCK, np.uint8)
    if is_writer():
        buffer[:length] = data
    buffer = np.asarray(multihost_utils.broadcast_one_to_all(buffer), np.uint8)
    return json.loads(buffer[:length].tobytes())


def first_only(action: Callable[[], T]) -> T | None:
    """What `action` returns on process 0, None elsewhere; every process must call.

    Raises:
      InputError: on every process, if process 0 met one.
    """
    if not are_many():
        return action()
    result, problem = None, None
    if is_writer():
        try:
            result = action()
        except InputError as error:
            problem = str(error)
    problem = agreed(problem)
    if problem is not None:
        raise InputError(problem)
    return result


def in_turn(action: Callable[[], T]) -> T:
    """Process 0 acts first: the others then find what it left on a shared disk."""
    result: Any = first_only(action)
    return result if is_writer() else action()


def to_host(tree: PyTree) -> PyTree:
    """NumPy copies, also of arrays split over processes; every process must call."""

    def fetch(x: Any) -> np.ndarray:
        if getattr(x, "is_fully_addressable", True) or x.is_fully_replicated:
            return np.asarray(x)
        return np.asarray(multihost_utils.process_allgather(x, tiled=True))

    return jax.tree.map(fetch, tree)
