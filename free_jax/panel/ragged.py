"""Outputs of teachers with different numbers of classes, side by side.

Teacher ``t`` owns the outputs ``columns[t]:columns[t + 1]`` of [N, C].
"""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


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


def columns_of(
    columns: Int[np.ndarray, " t_plus_1"], teachers: Int[np.ndarray, " n"]
) -> Int[np.ndarray, " n_plus_1"]:
    """The columns of some teachers alone.

    >>> columns_of(np.asarray([0, 2, 5, 7]), np.asarray([0, 2])).tolist()
    [0, 2, 4]
    """
    return np.cumsum([0, *np.diff(columns)[teachers]]).astype(np.int32)


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


def side_by_side(logits: np.ndarray, outputs: Int[np.ndarray, "..."]) -> np.ndarray:
    """Some outputs of [N, C]: [N, t, w] of teachers of equal numbers of classes."""
    # Rows in memory order: sums are then those of an array that was made so.
    return np.ascontiguousarray(logits[:, outputs])


def widths_are_equal(columns: Int[np.ndarray, " t_plus_1"]) -> bool:
    """Whether all teachers have one number of classes."""
    return len(np.unique(np.diff(columns))) == 1


def padded(
    rows: Float[Array, "n c"], columns: Int[np.ndarray, " t_plus_1"], fill: float
) -> Float[Array, "n t w"]:
    """Outputs by teacher, padded to the largest number of classes, for `jax.jit`.

    Args:
      rows: [n, C] outputs side by side.
      columns: [T + 1], known when the program is compiled.
      fill: stands where a teacher has no output.
    """
    count = len(columns) - 1
    if widths_are_equal(columns):
        return rows.reshape(rows.shape[0], count, -1)
    mask = padding_mask(columns)
    index = np.where(mask, columns[:-1, None] + np.arange(mask.shape[1]), 0)
    return jnp.where(mask, rows[:, index], fill)


def padding_mask(columns: Int[np.ndarray, " t_plus_1"]) -> np.ndarray:
    """[T, W] where a teacher has an output, W the largest number of classes."""
    widths = np.diff(columns)
    return np.arange(widths.max()) < widths[:, None]


def owners_of(
    columns: Int[np.ndarray, " t_plus_1"] | Int[Array, " t_plus_1"], num_outputs: int
) -> Int[Array, " c"]:
    """The teacher of each output; `columns` may be traced.

    >>> owners_of(np.asarray([0, 2, 5]), 5).tolist()
    [0, 0, 1, 1, 1]
    """
    outputs = jnp.arange(num_outputs)
    return jnp.searchsorted(jnp.asarray(columns), outputs, side="right") - 1


def tempered(
    logits: Float[Array, "n c"],
    columns: Int[np.ndarray, " t_plus_1"] | Int[Array, " t_plus_1"],
    temperature: float | Float[Array, ""],
) -> Float[Array, "n c"]:
    """Each teacher's tempered softmax minus chance; `columns` may be traced."""
    count = len(columns) - 1
    owners = owners_of(columns, logits.shape[-1])
    rows = logits.T / temperature  # [C, n]
    most = jax.ops.segment_max(jax.lax.stop_gradient(rows), owners, count)
    raised = jnp.exp(rows - most[owners])
    p = raised / jax.ops.segment_sum(raised, owners, count)[owners]
    return (p - 1.0 / jnp.diff(jnp.asarray(columns))[owners, None]).T
