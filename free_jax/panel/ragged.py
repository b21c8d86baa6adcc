"""Outputs of teachers with different numbers of classes, side by side.

Teacher ``t`` owns the outputs ``columns[t]:columns[t + 1]`` of [N, C].
"""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Int

from free_jax.types import Answers


def equal_columns(num_teachers: int, way: int) -> Int[np.ndarray, " t_plus_1"]:
    """The columns of teachers with equal numbers of classes.

    >>> equal_columns(3, 5).tolist()
    [0, 5, 10, 15]
    """
    return (way * np.arange(num_teachers + 1)).astype(np.int32)


def outputs_of(
    columns: Int[np.ndarray, " t_plus_1"], teachers: Int[np.ndarray, " n"]
) -> Int[np.ndarray, " c"]:
    """Which of the C outputs are those of some teachers, in their order.

    >>> outputs_of(np.asarray([0, 2, 5, 7]), np.asarray([0, 2])).tolist()
    [0, 1, 5, 6]
    """
    ends = np.asarray(columns).tolist()
    ranges = [np.arange(ends[t], ends[t + 1]) for t in teachers]
    return np.concatenate([np.zeros(0, np.int32), *ranges]).astype(np.int32)


def answers_of(answers: Answers, teachers: Int[np.ndarray, " n"]) -> Answers:
    """The answers of some teachers, renumbered in their order.

    Args:
      answers: of all.
      teachers: their rows.
    """
    widths = np.diff(answers.columns)[teachers]
    columns = np.cumsum([0, *widths]).astype(np.int32)
    return Answers(answers.logits[:, outputs_of(answers.columns, teachers)], columns)


def by_width(
    columns: Int[np.ndarray, " t_plus_1"],
) -> Iterator[tuple[Int[np.ndarray, " n"], Int[np.ndarray, "n w"]]]:
    """Teachers of equal numbers of classes together.

    Yields:
      Their rows [n], and which outputs [n, W] are theirs.

    >>> [tuple(map(np.ndarray.tolist, x)) for x in by_width(np.asarray([0, 2, 5, 7]))]
    [([0, 2], [[0, 1], [5, 6]]), ([1], [[2, 3, 4]])]
    """
    columns = np.asarray(columns)
    widths = np.diff(columns)
    for width in np.unique(widths):
        rows = np.flatnonzero(widths == width)
        yield rows, columns[rows, None] + np.arange(width)


def side_by_side(logits: np.ndarray, outputs: Int[np.ndarray, "t w"]) -> np.ndarray:
    """The answers [N, t, w] of teachers of equal numbers of classes."""
    # Rows in memory order: sums are then those of an array that was made so.
    return np.ascontiguousarray(logits[:, outputs])
