"""Fewer real images of each class than there are."""

from typing import Protocol

import numpy as np

from free_jax.fewshot import banks
from free_jax.types import ImageBank


class Held(Protocol):
    """Images of some classes, as a split or a bank holds them.

    Attributes:
      images: [n, m, ...] of class n; what is behind its count is padding.
      counts: [n] images of each class.
    """

    @property
    def images(self): ...
    @property
    def counts(self): ...


def drawn_of(held: Held, count: int, seed: int = 0) -> ImageBank:
    """So many images of each class, drawn without replacement.

    Files of a class are sorted by subject (CIFAR-FS: by synonym), so that the first
    ones are alike and their episodes 2 to 3 points easier.

    Args:
      held: what to draw from.
      count: images of a class; a class of fewer gives all it has.
      seed: of the draw.

    Returns:
      A bank [n, min(count, most)] of the drawn images.
    """
    rng, images = np.random.default_rng(seed), np.asarray(held.images)
    counts = np.minimum(np.asarray(held.counts), count)
    made = np.zeros((len(images), counts.max(), *images.shape[2:]), images.dtype)
    for row, (mine, total) in enumerate(zip(images, held.counts, strict=True)):
        made[row, : counts[row]] = mine[rng.permutation(int(total))[:count]]
    return banks.from_arrays(made, counts)
