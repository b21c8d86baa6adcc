"""Where recovered images come from: a generator and latents, or the pixels."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from free_jax.inversion import dead_leaves
from free_jax.models import Generator
from free_jax.types import PyTree

# What pixels are optimised from.
Init = Literal["noise", "dead_leaves"]


class Source(NamedTuple):
    """Pure functions of one parameterisation of images.

    Attributes:
      init: ``key -> shared``, what all teachers' inversions start from and what is
        meta-learned; an empty tuple where nothing is.
      start: ``(key, shared, labels [N]) -> leaves``, what one inversion adapts.
      render: ``(leaves, labels) -> images [N, h, w, c] in [0, 1]``.
      shared_part: ``tree like leaves -> tree like shared``.
      image_shape: (h, w, c).
    """

    init: Callable[..., PyTree]
    start: Callable[..., PyTree]
    render: Callable[..., jax.Array]
    shared_part: Callable[[PyTree], PyTree]
    image_shape: tuple[int, int, int]


def generator_source(generator: Generator, latent_dim: int = 256) -> Source:
    """Images drawn by a generator from latents; both are adapted.

    The adapted leaves are ``{"generator": params, "latents": [N, latent_dim]}``.

    Raises:
      ValueError: an image size the generator cannot draw.
    """
    if any(size % 4 for size in generator.image_shape[:2]):
        raise ValueError(
            f"image_shape={generator.image_shape}: the generator's sides must be "
            "multiples of 4"
        )

    def init(key: jax.Array) -> PyTree:
        latents = jnp.zeros((2, latent_dim))
        return generator.init(key, latents, jnp.zeros((2,), jnp.int32))["params"]

    def start(key: jax.Array, shared: PyTree, labels: jax.Array) -> PyTree:
        latents = jax.random.normal(key, (labels.shape[0], latent_dim))
        return {"generator": shared, "latents": latents}

    def render(leaves: PyTree, labels: jax.Array) -> jax.Array:
        images: Any = generator.apply(
            {"params": leaves["generator"]}, leaves["latents"], labels
        )
        return images

    return Source(
        init, start, render, lambda grads: grads["generator"], generator.image_shape
    )


def normalized_source(
    image_shape: tuple[int, int, int],
    mean: tuple[float, ...],
    std: tuple[float, ...],
    deviation: float = 1.0,
) -> Source:
    """Pixels after a network's normalisation, unbounded (PURER); nothing is shared.

    Args:
      image_shape: (h, w, c).
      mean: of that normalisation; images are ``mean + std * pixels`` and may leave
        [0, 1].
      std: of that normalisation.
      deviation: of the normal noise that pixels start from.
    """
    bounded = pixel_source(image_shape, deviation)

    def render(leaves: PyTree, labels: jax.Array) -> jax.Array:
        del labels
        return jnp.asarray(mean) + jnp.asarray(std) * leaves

    return bounded._replace(render=render)


def pixel_source(
    image_shape: tuple[int, int, int],
    deviation: float = 1.0,
    init: Init = "noise",
) -> Source:
    """The pixels themselves, kept in [0, 1] by a sigmoid; nothing is shared.

    Args:
      image_shape: (h, w, c).
      deviation: of the normal noise that the sigmoid's inputs start from.
      init: from that noise around grey ("noise"), or around images of "dead_leaves".

    Raises:
      ValueError: an unknown `init`.
    """
    if init not in ("noise", "dead_leaves"):
        raise ValueError(f"init={init!r}: choose noise or dead_leaves")

    def start(key: jax.Array, shared: PyTree, labels: jax.Array) -> jax.Array:
        del shared
        noise = deviation * jax.random.normal(key, (labels.shape[0], *image_shape))
        if init == "noise":
            return noise
        keys = jax.random.split(jax.random.fold_in(key, 1), labels.shape[0])
        drawn = jax.vmap(lambda k: dead_leaves.draw(k, image_shape))(keys)
        # Near black and white the sigmoid is flat: pixels there would never move.
        return noise + jax.scipy.special.logit(jnp.clip(drawn, 0.05, 0.95))

    return Source(
        init=lambda key: (),
        start=start,
        render=lambda leaves, labels: jax.nn.sigmoid(leaves),
        shared_part=lambda grads: (),
        image_shape=image_shape,
    )
