"""The teachers of one step, read on the host from a zoo that stays in its files.

Whom a step draws follows from its key and its number.  So they can be drawn before the
step, which is then given them alone: what host and device hold does not grow with the
zoo.  A step takes all teachers as well, and picks its own from them.

Example::

    fed = algorithm.feed(key, step, zoo.teachers)  # a `Drawn`, NumPy arrays
    state, info = step_fn(key, state, fed)         # as of zoo.teachers, to the bit
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Int

from free_jax import rows as rows_lib
from free_jax.types import Teachers

Index = Int[Array, "..."] | Int[np.ndarray, "..."]


class Drawn(NamedTuple):
    """What a step needs of its zoo.

    Attributes:
      stacks: teachers in the order in which the step asks for them, those of one
        program together: leaves [t, ...], t of them.
      everyone: all teachers of each group without their weights, see `known`.
    """

    stacks: tuple[Teachers, ...]
    everyone: tuple[Teachers, ...]


def known(data: Sequence[Teachers] | Drawn) -> tuple[Teachers, ...]:
    """All teachers of each group without their weights: ``class_ids`` alone."""
    if isinstance(data, Drawn):
        return data.everyone
    return tuple(Teachers((), teachers.class_ids) for teachers in data)


def read(
    data: Sequence[Teachers], groups: Sequence[int], rows: Sequence[Index | None]
) -> Drawn:
    """Reads the teachers of a step, and no others.

    Args:
      data: one stack a group, in files or NumPy arrays.
      groups: of each of the step's stacks.
      rows: which teachers of that group, in which order; None: all.
    """
    stacks = []
    for group, some in zip(groups, rows, strict=True):
        teachers = data[group]
        index = np.arange(len(teachers.class_ids)) if some is None else np.asarray(some)
        stacks.append(jax.tree.map(lambda leaf, i=index: _picked(leaf, i), teachers))
    return Drawn(tuple(stacks), known(data))


def _picked(leaf: Any, index: np.ndarray) -> np.ndarray:
    return leaf[index] if rows_lib.in_files(leaf) else np.asarray(leaf)[index]


def teachers_of(
    data: Sequence[Teachers] | Drawn,
    number: int,
    group: int,
    draw: Callable[[], Index | None],
) -> tuple[Teachers, Index | None]:
    """The stack that some of a step's teachers are in, and their rows there.

    Args:
      data: of the step, either way.
      number: of the stack among those of the step.
      group: of the teachers.
      draw: their rows in the group, None: all; called where `data` is the whole zoo,
        so that a step of its own teachers is one program for zoos of any size.

    Returns:
      A stack, and its rows in question; None: all, as they are.
    """
    if isinstance(data, Drawn):
        return data.stacks[number], None
    return data[group], draw()
