"""Images between 8 bits and floats, and from one size to another.

Everything here is elementwise or a resize, works under `jax.jit`, and is the only place
where images change type or size.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8


def to_float(images: Array) -> Array:
    """Maps uint8 images to float32 in [0, 1]; leaves floats as they are."""
    if images.dtype == jnp.uint8:
        return images.astype(jnp.float32) / 255.0
    return images


def to_bytes(images: Float[Array, "..."]) -> UInt8[Array, "..."]:
    """Clips to [0, 1] and rounds down to 8 bits, as the released codes' PNG files.

    >>> to_bytes(jnp.asarray([-0.5, 0.5, 1.5])).tolist()
    [0, 127, 255]
    """
    return jnp.floor(255.0 * jnp.clip(images, 0.0, 1.0)).astype(jnp.uint8)


def fit_to(
    images: Float[Array, "n h w c"], image_shape: tuple[int, int, int]
) -> Float[Array, "n i j c"]:
    """Resizes to the (h, w) a network expects; the identity when they agree."""
    if images.shape[1:3] == tuple(image_shape[:2]):
        return images
    shape = (images.shape[0], *image_shape[:2], images.shape[3])
    return jax.image.resize(images, shape, "bilinear")
