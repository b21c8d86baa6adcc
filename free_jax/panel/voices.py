"""Sparse annotation: the few teachers that are asked about an image, not all.

A few voices an image cost a few queries: with many teachers more images are worth more
than more voices.
"""

import jax
import numpy as np
from jaxtyping import Int

from free_jax import keys
from free_jax.errors import InputError
from free_jax.panel.membership import PanelChoice
from free_jax.panel.options import PanelOptions
from free_jax.panel.partial_answers import some_of
from free_jax.panel.trust import rows_of
from free_jax.types import Answers, Known, SyntheticImages


def drawn_voices(
    rng: np.random.Generator,
    owners: Int[np.ndarray, " n"],
    num_teachers: int,
    asked_per_image: int,
) -> Int[np.ndarray, "n m"]:
    """Balanced at random: of all images, each teacher hears about equally many.

    An image's own teacher is always among those that are asked: whether it recognises
    its image tells whether the image shows anything.

    >>> rng, nobodys = np.random.default_rng(0), np.full(6, -1)
    >>> np.bincount(drawn_voices(rng, nobodys, 3, 2).ravel()).tolist()
    [4, 4, 4]

    Args:
      rng: draws them.
      owners: the teacher that each image was recovered from, of those that may be
        asked; negative, or their number, for none of them.
      num_teachers: that may be asked.
      asked_per_image: of them, at least 1; all where it is as many or more.

    Returns:
      Rows of the teachers, increasing; m is `asked_per_image`, or their number.

    Raises:
      ValueError: nobody would be asked.
    """
    if asked_per_image < 1:
        raise ValueError(f"asked_per_image={asked_per_image} must be at least 1")
    count, number = len(owners), num_teachers
    if asked_per_image >= number:
        return np.broadcast_to(np.arange(number, dtype=np.int32), (count, number))
    voices = np.empty((count, asked_per_image), np.int32)
    images = rng.permutation(count)
    offsets = np.arange(asked_per_image)
    # In a block of as many images as there are teachers each is asked equally often.
    for first in range(0, count, number):
        block = images[first : first + number]
        order = rng.permutation(number)
        places = (np.arange(len(block))[:, None] + offsets) % number
        voices[block] = order[places]
    voices.sort(axis=1)
    owned = np.flatnonzero((owners >= 0) & (owners < number))
    unasked = owned[(voices[owned] != owners[owned, None]).all(1)]
    for image in unasked:
        voices[image, rng.choice(asked_per_image)] = owners[image]
        voices[image].sort()
    return voices


def asks_some(
    options: PanelOptions, choice: PanelChoice, known: Known | None = None
) -> bool:
    """Whether some teachers are asked about each image, not all.

    Args:
      options: how many an image is wanted.
      choice: who may be asked.
      known: images and answers of earlier runs, which may have asked some only.
    """
    few = 0 < options.asked_per_image < len(choice.asked)
    return few or (known is not None and known[1].teachers is not None)


def chosen_voices(
    key: jax.Array,
    images: SyntheticImages,
    choice: PanelChoice,
    options: PanelOptions,
    purpose: str,
) -> np.ndarray | None:
    """Whom to ask about which image, as the options say; None: all about all.

    Args:
      key: of the whole recovery.
      images: to ask about.
      choice: the teachers that are asked, and the judges.
      options: how many an image is asked of.
      purpose: names what is drawn.

    Returns:
      [N, m] rows of ``choice.everyone``, increasing.
    """
    if not 0 < options.asked_per_image < len(choice.asked):
        return None
    owners = rows_of(images.owners, choice.asked)
    drawn = drawn_voices(
        keys.rng(key, purpose), owners, len(choice.asked), options.asked_per_image
    )
    # Judges hear everything: they make tasks of what they are surest of.
    asked, judges = (
        np.searchsorted(choice.everyone, rows) for rows in (choice.asked, choice.judges)
    )
    always = np.broadcast_to(judges, (len(owners), len(judges)))
    return np.sort(np.concatenate([asked[drawn], always], 1), 1).astype(np.int32)


def as_if_asked(
    known: Known, key: jax.Array, choice: PanelChoice, options: PanelOptions
) -> Known:
    """Answers that are there, as if some teachers only had been asked.

    Raises:
      InputError: another number of teachers was asked about each image.
    """
    images, answers = known
    voices = chosen_voices(key, images, choice, options, "voices of known images")
    if voices is None:
        return known
    if answers.teachers is not None:
        usual = int(np.median((answers.teachers >= 0).sum(1))) - len(choice.judges)
        if usual == options.asked_per_image:
            return known
        raise InputError(
            f"panel.asked_per_image={options.asked_per_image}: of the earlier run "
            f"about {usual} teachers were asked about an image; set it to {usual}, or "
            "to 0 for what is there"
        )
    return images, some_of(answers, voices)


def heard_of(logits: np.ndarray, columns: np.ndarray) -> Int[np.ndarray, "n m"]:
    """Who was asked, of answers [N, C] that are NaN of the others.

    >>> rows = np.asarray([[np.nan, np.nan, 1.0], [0.0, np.nan, 2.0]])
    >>> heard_of(rows, np.asarray([0, 2, 3])).tolist()
    [[1, -1], [0, 1]]
    """
    said = np.logical_or.reduceat(~np.isnan(logits), columns[:-1], axis=1)
    order = np.argsort(~said, axis=1, kind="stable")[:, : max(said.sum(1).max(), 1)]
    return np.where(np.take_along_axis(said, order, 1), order, -1).astype(np.int32)


def from_silence(answers: Answers) -> Answers:
    """Answers of some teachers, of answers [N, C] that are NaN of the others."""
    return some_of(answers, heard_of(answers.logits, answers.columns))
