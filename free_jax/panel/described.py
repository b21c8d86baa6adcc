"""Images and what teachers said of them: all of them, and the batch of a step."""

from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Int


class Described(NamedTuple):
    """Recovered images and each teacher's outputs.

    Attributes:
      images: [N, h, w, c] uint8.
      logits: [N, C] float32, raw outputs of all teachers side by side; [N, m, W] of
        `teachers`, where those alone were asked.
      columns: [T + 1] int32; teacher ``t`` owns ``logits[:, columns[t]:columns[t+1]]``.
      weights: [T] float32, how far each teacher is trusted; 0 leaves it out.
      recovered: [N] bool, recovered from a teacher; False for dead leaves.
      natural: [N] bool, like real images: dead leaves, and what was recovered from
        them; False for what was recovered from noise.
      class_ids: [C] int32, the absolute class of each output; None where unknown.
      teachers: [N, m] int32 who was asked about each image, -1: nobody; None: all.
    """

    images: Any
    logits: np.ndarray | jax.Array
    columns: np.ndarray | jax.Array
    weights: jax.Array
    recovered: np.ndarray | jax.Array
    natural: np.ndarray | jax.Array
    class_ids: np.ndarray | jax.Array | None = None
    teachers: np.ndarray | jax.Array | None = None


class Batch(NamedTuple):
    """What a step learns from.

    Attributes:
      images: [n, h, w, c] uint8.
      logits: [n, C], or [n, m, W] of `teachers`; see `Described`.
      teachers: [n, m] who was asked about each image; None: all.
      weights: [T] trust in each teacher.
    """

    images: jax.Array
    logits: jax.Array
    teachers: jax.Array | None
    weights: jax.Array


def batch_of(data: Described, rows: Int[Array, " n"] | np.ndarray) -> Batch:
    """Some images and what was answered about them."""
    asked = None if data.teachers is None else data.teachers[rows]
    return Batch(data.images[rows], data.logits[rows], asked, data.weights)
