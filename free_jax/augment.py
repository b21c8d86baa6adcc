"""Random crops and flips on the device, differentiable in the images."""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from free_jax.images import fit_to as fit_to  # its former place

Edges = Literal["black", "wrap"]


def crop_flip(
    key: Key[Array, ""],
    images: Float[Array, "n h w c"],
    *,
    padding: int = 4,
    per_image: bool = True,
    edges: Edges = "black",
    flip: bool = True,
) -> Float[Array, "n h w c"]:
    """Shifts each image by some pixels and mirrors it half of the time.

    Written as two products with selection matrices, because the gradient of a
    gather is a scatter, which is slow on every backend; a row index outside the
    image selects nothing, which is the black border.

    Args:
      key: consumed once.
      images: [n, h, w, c] in [0, 1].
      padding: largest shift in pixels.
      per_image: draw one crop and one coin an image; False draws one for the whole
        batch, as torchvision's tensor transforms did in the released codes.
      edges: a shift brings in "black" (padding and cropping, as everywhere in the
        field) or the opposite edge ("wrap", a roll).
      flip: False never mirrors.

    Returns:
      Images of the same shape.
    """
    n, h, w, _ = images.shape
    key_rows, key_columns, key_flip = jax.random.split(key, 3)
    draws = n if per_image else 1

    def offsets(key):
        return jax.random.randint(key, (draws, 1), -padding, padding + 1)

    rows = jnp.arange(h) + offsets(key_rows)  # [draws, h]
    columns = jnp.arange(w) + offsets(key_columns)
    if edges == "wrap":
        rows, columns = rows % h, columns % w
    if flip:
        mirrored = jax.random.bernoulli(key_flip, shape=(draws, 1))
        columns = jnp.where(mirrored, columns[:, ::-1], columns)
    select_rows = jnp.broadcast_to(jax.nn.one_hot(rows, h), (n, h, h))
    select_columns = jnp.broadcast_to(jax.nn.one_hot(columns, w), (n, w, w))
    out = jnp.einsum("nih,nhwc->niwc", select_rows, images, precision="highest")
    return jnp.einsum("njw,niwc->nijc", select_columns, out, precision="highest")


def mix_pairs(
    key: Key[Array, ""],
    images: Float[Array, "n h w c"],
    targets: Float[Array, " n *rest"],
    form: Literal["mixup", "cutmix"],
) -> tuple[Float[Array, "n h w c"], Float[Array, " n *rest"]]:
    """Blends each image with another of the batch, and their targets.

    Args:
      key: consumed once.
      images: [n, h, w, c].
      targets: [n, ...], blended in the same proportion.
      form: "mixup" averages pixels, "cutmix" pastes a rectangle.

    Returns:
      Images and targets of the same shapes.

    Reference:
      Zhang et al., "mixup", ICLR 2018; Yun et al., "CutMix", ICCV 2019; both with
      proportions drawn uniformly from [0, 1].
    """
    n, h, w, _ = images.shape
    key_share, key_row, key_column, key_pair = jax.random.split(key, 4)
    share = jax.random.uniform(key_share, (n,))  # of the image itself
    pair = jax.random.permutation(key_pair, n)
    if form == "mixup":
        keep = jnp.broadcast_to(share[:, None, None, None], (n, h, w, 1))
    else:
        side = jnp.sqrt(1 - share)

        def inside(key: jax.Array, size: int) -> jax.Array:
            middle = jax.random.uniform(key, (n, 1)) * size
            half = side[:, None] * size / 2
            return jnp.abs(jnp.arange(size) + 0.5 - middle) < half  # [n, size]

        pasted = (
            inside(key_row, h)[:, :, None, None]
            & inside(key_column, w)[:, None, :, None]
        )
        keep = 1.0 - pasted.astype(images.dtype)
        share = keep.mean((1, 2, 3))
    blended = keep * images + (1 - keep) * images[pair]
    share = share.reshape(n, *(1,) * (targets.ndim - 1))
    return blended, share * targets + (1 - share) * targets[pair]
