"""Labels of few-shot tasks: which are taken, and how others become so."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array

from free_jax.errors import InputError


class Relative(NamedTuple):
    """Labels of a task, and what they stand for.

    Attributes:
      labels: [n] int32 in [0, way).
      classes: [way] sorted; ``classes[label]`` is the original.
    """

    labels: np.ndarray
    classes: np.ndarray


def relative(labels: np.ndarray) -> Relative:
    """Maps any labels (class ids, 1 to 5, strings) to 0, 1, ..., way - 1.

    >>> relative(np.asarray([7, 3, 7])).labels.tolist()
    [1, 0, 1]
    """
    classes, places = np.unique(np.asarray(labels), return_inverse=True)
    return Relative(places.astype(np.int32).reshape(-1), classes)


def checked(labels: Array | np.ndarray, way: int, where: str) -> Array:
    """Labels as they are, if they are in [0, way).

    A label out of range would count for no class, and the answers would be finite
    nonsense.  Values can be looked at only where they are concrete: under `jax.jit`
    nothing is refused.

    Args:
      labels: [n] whole numbers.
      way: number of classes.
      where: who takes them, for the message.

    Raises:
      InputError: a label is out of range or no integer.
    """
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise InputError(f"{where}: labels are {labels.dtype}, expected integers")
    if isinstance(labels, Tracer) or not labels.size:
        return jnp.asarray(labels)
    # In NumPy: what is closed over by a traced function is concrete, but jnp's answers
    # about it would not be.
    low, high = int(np.asarray(labels).min()), int(np.asarray(labels).max())
    if low < 0 or high >= way:
        raise InputError(
            f"{where}: labels from {low} to {high} for {way} classes, expected 0 to "
            f"{way - 1}; free_jax.fewshot.labels.relative(labels) maps them"
        )
    return jnp.asarray(labels)
