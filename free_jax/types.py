"""Array aliases and the records that cross module boundaries.

Every record describes ONE task, teacher or class bank; batching adds leading axes.
Axis letters: ``T`` teachers or tasks, ``W`` ways, ``S`` shots, ``Q`` queries per
class, ``N`` images, ``K`` inner steps, ``E`` episodes, ``C`` classes; lower case
``h w c`` are image axes.  Images are NHWC float32 in [0, 1] unless a bank stores
them as uint8; normalisation happens inside a network's apply function only.
"""

from typing import Any, NamedTuple

import jax
import numpy as np

PyTree = Any


class Teachers(NamedTuple):
    """A stack of same-shaped pre-trained classifiers.

    One teacher is the same record without the leading axis (see `zoo.take`).

    Attributes:
      variables: Linen variables; every leaf is [T, ...].
      class_ids: [T, W] int32 absolute class ids; output ``i`` of a teacher scores the
        class ``class_ids[i]``.
    """

    variables: PyTree
    class_ids: jax.Array


class Episode(NamedTuple):
    """One few-shot task.

    Attributes:
      support_images: [W*S, h, w, c] float32 in [0, 1].
      support_labels: [W*S] int32 in [0, W).
      query_images: [W*Q, h, w, c] float32 in [0, 1].
      query_labels: [W*Q] int32 in [0, W).
      class_ids: [W] int32 absolute ids; relative label ``i`` means ``class_ids[i]``.
    """

    support_images: jax.Array
    support_labels: jax.Array
    query_images: jax.Array
    query_labels: jax.Array
    class_ids: jax.Array


class Recovered(NamedTuple):
    """The images an inversion recovered from one teacher.

    Attributes:
      images: [N, h, w, c] float32 in [0, 1].
      labels: [N] int32 relative labels in [0, W).
      class_ids: [W] int32 absolute ids of the teacher's outputs.
    """

    images: jax.Array
    labels: jax.Array
    class_ids: jax.Array


class ImageBank(NamedTuple):
    """Images by class: a split of a data set, or a memory of recovered tasks.

    Attributes:
      images: [C, M, h, w, c] uint8; rows beyond ``counts`` are padding.
      counts: [C] int32 number of valid rows per class.
      cursor: [C] int32 next row that `banks.add` writes (unused for fixed data).
    """

    images: jax.Array
    counts: jax.Array
    cursor: jax.Array


class SyntheticImages(NamedTuple):
    """Images recovered from teachers, or drawn without any, on the host.

    Attributes:
      images: [N, h, w, c] uint8, in memory or `rows.Rows`.
      classes: [N] int32 absolute class ids that they were recovered for; -1: none.
      owners: [N] int32 rows of the zoo AT HAND that they were recovered from; -1:
        no teacher's; T and above: of a teacher that this zoo does not hold.
      natural: [N] bool, like real images: dead leaves, and what was recovered from
        them; inversions from noise are not.
    """

    images: Any
    classes: np.ndarray
    owners: np.ndarray
    natural: np.ndarray


class Answers(NamedTuple):
    """Outputs of T teachers for N images.

    Attributes:
      logits: [N, C] float32, all teachers' outputs side by side; NaN where a teacher
        did not answer.  Where some teachers were asked about each image, [N, m, W]:
        theirs alone, W the largest number of classes; NaN beyond a teacher's own.
      columns: [T + 1] int32; teacher ``t`` owns ``logits[:, columns[t]:columns[t+1]]``.
      teachers: [N, m] int32 who was asked about each image, increasing, nobody (-1)
        last; None: all about all.
    """

    logits: np.ndarray
    columns: np.ndarray
    teachers: np.ndarray | None = None


# Images, and what teachers answer about them.
Known = tuple[SyntheticImages, Answers]
