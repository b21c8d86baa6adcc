"""Pseudo-labels by a vote: what the teachers that know a class take images for."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from free_jax import zoo as zoo_lib
from free_jax.errors import InputError
from free_jax.panel.partial_answers import answers_of, each
from free_jax.panel.ragged import outputs_of
from free_jax.panel.trust import NONE_INFORMATIVE, judge
from free_jax.types import Answers, SyntheticImages


def vote(
    answers: Answers, class_ids: Int[np.ndarray, " c"], num_classes: int
) -> Int[np.ndarray, " n"]:
    """The class that the teachers which know it together find likeliest.

    A teacher spreads its belief over its own classes only, so that one alone may take
    anything for its nearest class; the mean of several logarithms is high only where
    none objects.

    Args:
      answers: of teachers about each image, or of some of them.
      class_ids: [C] absolute classes of the outputs.
      num_classes: of the zoo; one that no teacher knows gets no image.

    Returns:
      [n] int32 absolute class ids; -1 where nobody was asked.

    >>> logits = np.log([[0.9, 0.1, 0.2, 0.8]])
    >>> vote(Answers(logits, np.asarray([0, 2, 4])), np.asarray([0, 1, 0, 2]), 4)
    array([2], dtype=int32)
    """
    known, total = np.zeros((2, len(answers.logits), num_classes))
    classes = np.split(np.asarray(class_ids), answers.columns[1:-1])
    for ids, (rows, said) in zip(classes, each(answers), strict=True):
        said = np.asarray(said, np.float64)
        voted = ~np.isnan(said)
        said = np.where(voted, said, 0.0)
        said = said - np.logaddexp.reduce(said, axis=-1, keepdims=True)
        total[rows[:, None], ids] += np.where(voted, said, 0.0)
        known[rows[:, None], ids] += voted
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
) -> Voted:
    """The class of each image by those teachers of a zoo that can be trusted.

    Args:
      zoo: all teachers.
      images: that they were asked about.
      answers: of all of them about each image, or of some.

    Raises:
      InputError: no teacher is trusted.
    """
    believed = np.flatnonzero(judge(zoo, images, answers).weights)
    if not believed.size:
        raise InputError(NONE_INFORMATIVE)
    ids = zoo.class_ids[outputs_of(zoo.columns, believed)]
    classes = vote(answers_of(answers, believed), ids, zoo.num_classes)
    return Voted(classes, believed.size)
