"""Which teachers of a panel are believed, and what they believe together."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int


def vote(
    logits: Float[np.ndarray, "n t w"],
    class_ids: Int[np.ndarray, "t w"],
    num_classes: int,
) -> Int[np.ndarray, " n"]:
    """The class that the teachers which know it together find likeliest.

    A teacher spreads its belief over its own classes only, so that one alone may take
    anything for its nearest class; the mean of several logarithms is high only where
    none objects.

    Args:
      logits: what each teacher says about each image.
      class_ids: absolute classes of each teacher's outputs.
      num_classes: of the zoo; one that no teacher knows gets no image.

    Returns:
      [n] int32 absolute class ids.

    >>> vote(np.log([[[0.9, 0.1], [0.2, 0.8]]]), np.asarray([[0, 1], [0, 2]]), 4)
    array([2], dtype=int32)
    """
    logits = np.asarray(logits, np.float64)
    log_p = logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)
    known = np.bincount(np.ravel(class_ids), minlength=num_classes)
    total = np.zeros((len(logits), num_classes))
    for said, ids in zip(np.moveaxis(log_p, 1, 0), class_ids, strict=True):
        total[:, ids] += said
    mean = np.where(known, total / np.maximum(known, 1), -np.inf)
    return mean.argmax(-1).astype(np.int32)


class Trust(NamedTuple):
    """How far each teacher of a panel is believed, judged without data.

    Attributes:
      weights: [T] one, or zero for a teacher that is left out.
      information: [T] nats, entropy of the mean prediction minus mean entropy: what
        an answer tells about the image; zero for constant teachers.
      agreement: [T] share of images of the teacher's classes, recovered from OTHER
        teachers, that it labels alike, in [0, 1]; nan where there are none.
    """

    weights: np.ndarray
    information: np.ndarray
    agreement: np.ndarray


def trust(
    logits: Float[np.ndarray, "n t w"],
    class_ids: Int[np.ndarray, "t w"],
    classes: Int[np.ndarray, " n"],
    owners: Int[np.ndarray, " n"],
) -> Trust:
    """Finds constant, broken, mislabelled and random teachers by recovered images.

    A teacher is left out if an answer is not finite, if its answers tell less than a
    quarter of the panel's median information, or if its agreement with the others is
    not above chance (by two standard errors).  A
    teacher counts fully or not at all: weights by information and agreement scored
    the same and left out honest teachers of hard tasks.

    Args:
      logits: what each teacher says about each image.
      class_ids: absolute classes of each teacher's outputs.
      classes: [n] class each image was recovered for; negative: none.
      owners: [n] the row of `class_ids` that it was recovered from, or T or more for
        a teacher that has none (see `rows_of`); negative: no teacher.

    Returns:
      A `Trust`, on the host.
    """
    logits, class_ids = np.asarray(logits), np.asarray(class_ids)
    finite = np.asarray(np.isfinite(logits).all((0, 2)))
    shifted = np.where(np.isfinite(logits), logits, 0.0)
    shifted = shifted - shifted.max(-1, keepdims=True)
    p = np.exp(shifted) / np.exp(shifted).sum(-1, keepdims=True)

    def entropy(p: np.ndarray) -> np.ndarray:
        return -(p * np.log(p + 1e-12)).sum(-1)

    information = np.where(finite, entropy(p.mean(0)) - entropy(p).mean(0), 0.0)
    answers = np.take_along_axis(class_ids, shifted.argmax(-1).T, 1)  # [T, n]
    agreement = np.full(len(class_ids), np.nan)
    chance = 1.0 / class_ids.shape[1]
    # Where nobody else knows a teacher's classes its information alone decides.
    agrees = np.ones(len(class_ids), bool)
    for t, known in enumerate(class_ids):
        judged = np.isin(classes, known) & (owners != t) & (owners >= 0)
        if judged.any() and finite[t]:
            agreement[t] = (answers[t, judged] == classes[judged]).mean()
            error = np.sqrt(chance * (1 - chance) / judged.sum())
            agrees[t] = agreement[t] > chance + 2 * error
    usual = np.median(information[finite]) if finite.any() else 0.0
    tells = information > max(usual / 4, 1e-6)
    weights = (finite & tells & agrees).astype(np.float32)
    return Trust(weights, information, agreement)


def rows_of(
    owners: Int[np.ndarray, " n"], asked: Int[np.ndarray, " t"]
) -> Int[np.ndarray, " n"]:
    """Owners of images as rows of the teachers that were asked.

    Images of teachers that were not asked still tell whether those that were can be
    believed, so that their owners must not become "nobody".

    Args:
      owners: the teacher each image was recovered from, of all; negative: none.
      asked: which teachers the rows stand for.

    Returns:
      [n] the owner's row in `asked`; T where it was not asked; -1 for no teacher.

    >>> rows_of(np.asarray([0, 2, 5, -1]), np.asarray([2, 5])).tolist()
    [2, 0, 1, -1]
    """
    owners = np.asarray(owners)
    same = owners[:, None] == np.asarray(asked)
    rows = np.where(same.any(1), same.argmax(1), same.shape[1])
    return np.where(owners < 0, -1, rows)
