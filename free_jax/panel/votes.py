"""What the teachers of a panel together take images for."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from free_jax import zoo as zoo_lib
from free_jax.errors import InputError
from free_jax.panel import ragged
from free_jax.panel.ragged import answers_of, outputs_of
from free_jax.panel.trust import NOBODY, judge
from free_jax.types import Answers, SyntheticImages


def vote(
    answers: Answers, class_ids: Int[np.ndarray, " c"], num_classes: int
) -> Int[np.ndarray, " n"]:
    """The class that the teachers which know it together find likeliest.

    A teacher spreads its belief over its own classes only, so that one alone may take
    anything for its nearest class; the mean of several logarithms is high only where
    none objects.

    Args:
      answers: of teachers about each image; NaN of those that were not asked.
      class_ids: [C] absolute classes of the outputs.
      num_classes: of the zoo; one that no teacher knows gets no image.

    Returns:
      [n] int32 absolute class ids; -1 where nobody was asked.

    >>> logits = np.log([[0.9, 0.1, 0.2, 0.8]])
    >>> vote(Answers(logits, np.asarray([0, 2, 4])), np.asarray([0, 1, 0, 2]), 4)
    array([2], dtype=int32)
    """
    logits, class_ids = np.asarray(answers.logits, np.float64), np.asarray(class_ids)
    silent = np.isnan(logits)
    logits, log_p = np.where(silent, 0.0, logits), np.empty_like(logits)
    for _, outputs in ragged.by_width(answers.columns):
        said = ragged.side_by_side(logits, outputs)  # [n, t, w]
        said = said - np.logaddexp.reduce(said, axis=-1, keepdims=True)
        log_p[:, outputs] = said
    known, total = np.zeros((2, len(logits), num_classes))
    for start, stop in zip(answers.columns[:-1], answers.columns[1:], strict=True):
        voted = ~silent[:, start:stop]
        total[:, class_ids[start:stop]] += np.where(voted, log_p[:, start:stop], 0.0)
        known[:, class_ids[start:stop]] += voted
    mean = np.where(known, total / np.maximum(known, 1), -np.inf)
    return np.where(known.any(-1), mean.argmax(-1), -1).astype(np.int32)


class Voted(NamedTuple):
    """What all trusted teachers together take images for.

    Attributes:
      classes: [N] int32 absolute class ids; -1 where nobody who is trusted was asked.
      voters: how many teachers voted.
    """

    classes: np.ndarray
    voters: int


def voted_classes(
    zoo: zoo_lib.Zoo,
    images: SyntheticImages,
    answers: Answers,
    voices: np.ndarray | None = None,
) -> Voted:
    """The class of each image by those teachers of a zoo that can be trusted.

    Args:
      zoo: all teachers.
      images: that they were asked about.
      answers: of all of them; NaN where one was not asked.
      voices: [N, T] which of them were asked about which image; None: all about all.

    Raises:
      InputError: no teacher is trusted.
    """
    believed = np.flatnonzero(judge(zoo, images, answers, voices=voices).weights)
    if not believed.size:
        raise InputError(NOBODY)
    ids = zoo.class_ids[outputs_of(zoo.columns, believed)]
    classes = vote(answers_of(answers, believed), ids, zoo.num_classes)
    return Voted(classes, believed.size)
