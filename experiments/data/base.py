"""The record every data set is loaded into, and checks of it."""

from typing import NamedTuple

import numpy as np

from free_jax.errors import InputError

SPLITS = ("train", "val", "test")


class DataError(InputError):
    """A problem with the user's data: one line saying what, where and what to do."""


class Split(NamedTuple):
    """All images of one split of a data set, in host memory.

    Attributes:
      images: uint8 [C, M, h, w, 3] in 0..255; M is the most images of any class, and
        the rows of class `c` from `counts[c]` on are zeros.
      counts: int32 [C], images per class.
      class_names: sorted, length C; the position is the class id.
    """

    images: np.ndarray
    counts: np.ndarray
    class_names: tuple[str, ...]


def require(split: Split, *, way: int, images_per_class: int, what: str) -> None:
    """Checks that episodes can be drawn from every class of a split.

    Args:
      split: the images.
      way: classes per episode.
      images_per_class: images an episode takes of a class (shots plus queries).
      what: what needs them, for the message, such as "test episodes".

    Raises:
      DataError: `way` is larger than the number of classes, or a class has too few
        images; the message names the smallest class.
    """
    num_classes = len(split.class_names)
    if way > num_classes:
        raise DataError(
            f"{what}: {way} classes per episode, but the split has {num_classes}; "
            "lower the way or add classes"
        )
    smallest = int(np.argmin(split.counts))
    if split.counts[smallest] < images_per_class:
        short = int(np.sum(split.counts < images_per_class))
        raise DataError(
            f"{what}: class {split.class_names[smallest]!r} has "
            f"{split.counts[smallest]} images, an episode needs {images_per_class} "
            f"({short} of {num_classes} classes are too small); lower shots or "
            "queries, add images, or remove the class"
        )
