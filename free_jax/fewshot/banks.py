"""Memory of recovered tasks: a ring buffer of 8-bit images per class."""

from typing import Annotated, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from free_jax import images as images_lib
from free_jax.images import to_bytes as to_bytes  # its former place
from free_jax.options import AtLeast
from free_jax.types import ImageBank, Recovered


def init(
    num_classes: int, capacity: int, image_shape: tuple[int, int, int]
) -> ImageBank:
    """An empty memory.

    Args:
      num_classes: number of absolute class ids.
      capacity: images kept per class; the oldest are overwritten.
      image_shape: (h, w, c).
    """
    return ImageBank(
        images=jnp.zeros((num_classes, capacity, *image_shape), jnp.uint8),
        counts=jnp.zeros((num_classes,), jnp.int32),
        cursor=jnp.zeros((num_classes,), jnp.int32),
    )


def add(bank: ImageBank, recovered: Recovered) -> ImageBank:
    """Stores one teacher's images under their absolute class ids.

    Images are clipped to [0, 1] and rounded down to 8 bits, as the released codes'
    PNG files are.

    Args:
      bank: the memory.
      recovered: one task; labels must hold every relative class equally often.
        Wrapped capacity: a batch larger than the capacity is refused.

    Returns:
      The memory with N / W images more in each of the task's classes.

    Raises:
      ValueError: the batch does not divide over the classes or exceeds the capacity.
    """
    way, total = recovered.class_ids.shape[0], recovered.labels.shape[0]
    capacity = bank.images.shape[1]
    if total % way:
        raise ValueError(f"{total} images do not divide equally over {way} classes")
    per_class = total // way
    if per_class > capacity:
        raise ValueError(
            f"{per_class} images a class do not fit a memory of {capacity} a class"
        )
    order = jnp.argsort(recovered.labels, stable=True)
    pixels = to_bytes(recovered.images[order])
    pixels = pixels.reshape(way, per_class, *bank.images.shape[2:])
    ids = recovered.class_ids
    rows = (bank.cursor[ids][:, None] + jnp.arange(per_class)) % capacity  # [W, n]
    return ImageBank(
        images=bank.images.at[ids[:, None], rows].set(pixels),
        counts=bank.counts.at[ids].set(
            jnp.minimum(bank.counts[ids] + per_class, capacity)
        ),
        cursor=bank.cursor.at[ids].set((bank.cursor[ids] + per_class) % capacity),
    )


def add_many(bank: ImageBank, recovered: Recovered) -> ImageBank:
    """Stores several teachers' images, in order.

    Sequential, because two teachers of one step may share a class.

    Args:
      bank: the memory.
      recovered: leaves [T, ...].
    """
    bank, _ = jax.lax.scan(lambda b, r: (add(b, r), None), bank, recovered)
    return bank


def from_arrays(images: np.ndarray, counts: np.ndarray) -> ImageBank:
    """A fixed data set as a bank: images [C, M, h, w, c], counts [C].

    Images are integers from 0 to 255 or floats in [0, 1]; descriptions [C, M, d] are
    taken as they are.

    Raises:
      InputError: images in another range.
    """
    if np.ndim(images) == 5 and images.dtype != np.uint8:
        images = np.asarray(images_lib.checked(images, "a bank of images"))
    held = jnp.asarray(counts, jnp.int32)
    return ImageBank(jnp.asarray(images), held, jnp.zeros_like(held))


class MemoryOptions(NamedTuple):
    """The memory of recovered images.

    Attributes:
      per_class: images that a class has room for; the oldest make way.
      store: the images of "all" teachers of a step, or of the "last" one (FREE's
        released code).
    """

    per_class: Annotated[int, AtLeast(1)] = 400
    store: Literal["all", "last"] = "all"


class CapacityOptions(NamedTuple):
    """The memory of recovered images, where everything recovered is stored.

    Attributes:
      per_class: images that a class has room for; the oldest make way.
    """

    per_class: Annotated[int, AtLeast(1)] = 600
