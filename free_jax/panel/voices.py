"""Which teachers are asked about which image, where not all are asked about all.

A few voices an image cost a few queries: with many teachers more images are worth more
than more voices.
"""

import jax
import numpy as np
from jaxtyping import Bool, Int

from free_jax import keys
from free_jax.errors import InputError
from free_jax.panel.membership import PanelChoice
from free_jax.panel.options import PanelOptions
from free_jax.panel.trust import rows_of
from free_jax.types import Answers, Known, SyntheticImages


def drawn_voices(
    rng: np.random.Generator,
    owners: Int[np.ndarray, " n"],
    num_teachers: int,
    asked_per_image: int,
) -> Bool[np.ndarray, "n t"]:
    """Balanced at random: of all images, each teacher hears about equally many.

    An image's own teacher is always among those that are asked: whether it recognises
    its image tells whether the image shows anything.

    >>> rng, nobodys = np.random.default_rng(0), np.full(6, -1)
    >>> drawn_voices(rng, nobodys, 3, 2).sum(0).tolist()
    [4, 4, 4]

    Args:
      rng: draws them.
      owners: the teacher that each image was recovered from, of those that may be
        asked; negative, or their number, for none of them.
      num_teachers: that may be asked.
      asked_per_image: of them, at least 1; all where it is as many or more.

    Raises:
      ValueError: nobody would be asked.
    """
    if asked_per_image < 1:
        raise ValueError(f"asked_per_image={asked_per_image} must be at least 1")
    count, number = len(owners), num_teachers
    voices = np.ones((count, number), bool)
    if asked_per_image >= number:
        return voices
    voices[:] = False
    images = rng.permutation(count)
    offsets = np.arange(asked_per_image)
    # In a block of as many images as there are teachers each is asked equally often.
    for first in range(0, count, number):
        block = images[first : first + number]
        order = rng.permutation(number)
        places = (np.arange(len(block))[:, None] + offsets) % number
        voices[block[:, None], order[places]] = True
    owned = np.flatnonzero((owners >= 0) & (owners < number))
    unheard = owned[~voices[owned, owners[owned]]]
    for image in unheard:
        voices[image, rng.choice(np.flatnonzero(voices[image]))] = False
        voices[image, owners[image]] = True
    return voices


def heard(answers: Answers) -> Bool[np.ndarray, "n t"]:
    """Who was asked about which image: those whose answers are not all NaN.

    >>> rows = np.asarray([[np.nan, np.nan, 1.0], [0.0, np.nan, np.nan]])
    >>> heard(Answers(rows, np.asarray([0, 2, 3]))).tolist()
    [[False, True], [True, False]]
    """
    said = ~np.isnan(answers.logits)
    return np.logical_or.reduceat(said, answers.columns[:-1], axis=1)


def silenced(
    logits: np.ndarray, columns: Int[np.ndarray, " t_plus_1"], voices: np.ndarray
) -> np.ndarray:
    """Answers [n, C] of those that were asked; NaN of the others.

    >>> voices = np.asarray([[True, False], [False, True]])
    >>> silenced(np.ones((2, 3)), np.asarray([0, 2, 3]), voices).tolist()
    [[1.0, 1.0, nan], [nan, nan, 1.0]]
    """
    return np.where(np.repeat(voices, np.diff(columns), axis=1), logits, np.nan)


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
    return few or (known is not None and bool(np.isnan(known[1].logits).any()))


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
      choice: the T' teachers that are asked, judges among them.
      options: how many an image is asked of.
      purpose: names what is drawn.

    Returns:
      [N, T'].
    """
    if not 0 < options.asked_per_image < len(choice.asked):
        return None
    owners = rows_of(images.owners, choice.asked)
    drawn = drawn_voices(
        keys.rng(key, purpose), owners, len(choice.asked), options.asked_per_image
    )
    # Judges hear everything: they make tasks of what they are surest of.
    voices = np.ones((len(owners), len(choice.everyone)), bool)
    voices[:, np.searchsorted(choice.everyone, choice.asked)] = drawn
    return voices


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
    if np.isnan(answers.logits).any():
        asked = heard(answers)[:, np.searchsorted(choice.everyone, choice.asked)]
        usual = int(np.median(asked.sum(1)))
        if usual == options.asked_per_image:
            return known
        raise InputError(
            f"panel.asked_per_image={options.asked_per_image}: of the earlier run "
            f"about {usual} teachers were asked about an image; set it to {usual}, or "
            "to 0 for what is there"
        )
    logits = silenced(answers.logits, answers.columns, voices)
    return images, answers._replace(logits=logits)
