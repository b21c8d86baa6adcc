"""Few-shot episodes drawn from a bank of images, on the device."""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Key

from free_jax.images import to_float as to_float  # its former place
from free_jax.types import Episode, ImageBank

Split = Literal["random", "fixed"]


def balanced_labels(way: int, images_per_class: int) -> Int[Array, " n"]:
    """Labels 0, 1, ..., way-1 repeated `images_per_class` times.

    >>> balanced_labels(3, 2).tolist()
    [0, 1, 2, 0, 1, 2]
    """
    return jnp.tile(jnp.arange(way, dtype=jnp.int32), images_per_class)


def sample_episode(
    key: Key[Array, ""],
    bank: ImageBank,
    *,
    way: int,
    shots: int,
    queries: int,
    split: Split = "random",
) -> Episode:
    """Draws one episode.

    Classes are drawn uniformly without replacement among those that hold at least
    ``shots + queries`` images, then images uniformly without replacement in each.
    With fewer such classes than `way` the episode is meaningless; callers check that
    beforehand on the host, because nothing raises under jit.

    Args:
      key: consumed once.
      bank: images [C, M, ...]; uint8 is mapped to [0, 1], floats are kept, so that
        a bank of descriptions works as well as one of images.
      way: classes in the episode.
      shots: support images a class.
      queries: query images a class.
      split: "fixed" takes the first rows of each class, always in the same order, so
        that support images never become queries (released code of PURER-Plus).

    Returns:
      An `Episode`, rows grouped by class.

    Raises:
      ValueError: the bank cannot hold that many images a class.
    """
    key_classes, key_images = jax.random.split(key)
    per_class = shots + queries
    # Uniform scores with the impossible ones pushed down, then the largest: sampling
    # without replacement under a mask, without sorting whole permutations.
    scores = jax.random.uniform(key_classes, bank.counts.shape)
    scores = jnp.where(bank.counts >= per_class, scores, -1.0)
    class_ids = jax.lax.top_k(scores, way)[1].astype(jnp.int32)
    capacity = bank.images.shape[1]
    if capacity < per_class:
        raise ValueError(
            f"an episode needs {per_class} images a class (shots + queries), the bank "
            f"holds at most {capacity}"
        )
    if split == "fixed":
        rows = jnp.broadcast_to(jnp.arange(per_class), (way, per_class))
    else:
        scores = jax.random.uniform(key_images, (way, capacity))
        valid = jnp.arange(capacity) < bank.counts[class_ids][:, None]
        rows = jax.lax.top_k(jnp.where(valid, scores, -1.0), per_class)[1]
    images = bank.images[class_ids[:, None], rows]  # [W, S+Q, ...]
    images = to_float(images)
    item_shape = images.shape[2:]
    labels = jnp.arange(way, dtype=jnp.int32)
    return Episode(
        support_images=images[:, :shots].reshape(way * shots, *item_shape),
        support_labels=jnp.repeat(labels, shots),
        query_images=images[:, shots:].reshape(way * queries, *item_shape),
        query_labels=jnp.repeat(labels, queries),
        class_ids=class_ids,
    )
