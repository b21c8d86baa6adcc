"""Images between 8 bits and floats, and from one size to another.

Everything here is elementwise or a resize, works under `jax.jit`, and is the only place
where images change type or size.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, UInt8

from free_jax.errors import InputError

# Floats may leave [0, 1] by so much, as rounding and resizing do.
_SLACK = 1e-3


def to_float(images: Array) -> Array:
    """Maps integers, 0 to 255, to float32 in [0, 1]; leaves floats as they are."""
    if jnp.issubdtype(images.dtype, jnp.integer):
        return images.astype(jnp.float32) / 255.0
    return images


def checked(images: Array | np.ndarray, where: str) -> Array:
    """`to_float` for images that come from outside.

    Values can be looked at only where they are concrete: under `jax.jit` nothing is
    refused.  Inversion does not ask, because its pixels may leave the range.

    Args:
      images: integers from 0 to 255 or floats in [0, 1].
      where: who takes them, for the message.

    Raises:
      InputError: values are no real numbers, or in another range.

    >>> float(checked(np.asarray([0, 255]), "embed")[1])
    1.0
    """
    if isinstance(images, Tracer) or images.dtype == np.uint8:
        return to_float(jnp.asarray(images))
    # In NumPy: what is closed over by a traced function is concrete, but jnp's answers
    # about it would not be.
    values = np.asarray(images)
    kinds = (jnp.integer, jnp.floating, jnp.bool_)
    if not any(jnp.issubdtype(values.dtype, kind) for kind in kinds):
        raise InputError(
            f"{where}: images are {values.dtype}, expected 8-bit integers or floats "
            "in [0, 1]; convert them, all to one size"
        )
    if not values.size:
        return to_float(jnp.asarray(images))
    whole = np.issubdtype(values.dtype, np.integer)
    low, high = float(values.min()), float(values.max())
    slack, largest = (0, 255) if whole else (_SLACK, 1)
    # Written so that a value that is no number is refused too.
    if not (low >= -slack and high <= largest + slack):
        advice = "divide by 255" if low >= 0 and high > 1 else "undo the normalisation"
        raise InputError(
            f"{where}: images hold values from {low:g} to {high:g}, expected 8-bit "
            f"integers or floats in [0, 1]; {advice}"
        )
    return to_float(jnp.asarray(images))


def to_bytes(images: Float[Array, "..."]) -> UInt8[Array, "..."]:
    """Clips to [0, 1] and rounds down to 8 bits, as the released codes' PNG files.

    >>> to_bytes(jnp.asarray([-0.5, 0.5, 1.5])).tolist()
    [0, 127, 255]
    """
    return jnp.floor(255.0 * jnp.clip(images, 0.0, 1.0)).astype(jnp.uint8)


# Luminance of red, green and blue, ITU-R 601, as Pillow's mode "L".
_LUMINANCE = (0.299, 0.587, 0.114)


def fit_to(
    images: Float[Array, "n h w c"], image_shape: tuple[int, int, int]
) -> Float[Array, "n i j k"]:
    """Resizes and recolours to what a network expects; the identity when they agree.

    Args:
      images: in [0, 1], of one (grey) or three (RGB) channels.
      image_shape: (h, w, c) wanted.  Colours become their luminance (ITU-R 601), grey
        is repeated.

    Raises:
      InputError: numbers of channels other than one and three that differ.

    >>> red = jnp.zeros((1, 2, 2, 3)).at[..., 0].set(1.0)
    >>> fit_to(red, (2, 2, 1))[0, 0, 0].tolist()
    [0.29899999499320984]
    """
    channels = images.shape[3]
    if channels != image_shape[2]:
        if {channels, image_shape[2]} != {1, 3}:
            raise InputError(
                f"images of {channels} channels for a network of {image_shape[2]}: "
                "only grey and RGB are converted, channels are the last axis"
            )
        if channels == 1:
            images = jnp.repeat(images, 3, axis=3)
        else:
            images = (images @ jnp.asarray(_LUMINANCE, images.dtype))[..., None]
    if images.shape[1:3] == tuple(image_shape[:2]):
        return images
    return jax.image.resize(images, (images.shape[0], *image_shape), "bilinear")
