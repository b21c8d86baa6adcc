"""What every algorithm is: a pair of pure functions."""

from collections.abc import Callable
from typing import Any, NamedTuple


class Algorithm(NamedTuple):
    """A meta-training algorithm.

    Attributes:
      init: ``key -> state``, a NamedTuple of arrays with a field ``step``.
      step: ``(key, state, data) -> (state, info)``, one jittable program; `data` is
        the zoo's tuple of teacher stacks, or a bank of images for methods that need
        real data; `info` is a NamedTuple of scalars.
      params: ``state -> params`` of the meta-model to evaluate.
      recover: ``(key, state, data) -> images``: the part of a step that recovers
        images, alone, so that it can be timed; None where steps recover nothing.
    """

    init: Callable[..., Any]
    step: Callable[..., tuple[Any, Any]]
    params: Callable[[Any], Any]
    recover: Callable[..., Any] | None = None
