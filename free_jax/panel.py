"""The panel: an image described by what all teachers say about it.

No training, no data, forward queries only: each teacher's softmax at a temperature,
side by side, chance level subtracted, averaged over the image and its mirror image.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from free_jax import augment
from free_jax.architecture import Architecture
from free_jax.episodes import to_float
from free_jax.types import ImageBank, PyTree, Teachers

Output = Literal["probabilities", "logits", "features"]


def describe(
    architectures: tuple[Architecture, ...],
    teachers: tuple[Teachers, ...],
    images: Float[Array, "n h w c"],
    *,
    output: Output = "probabilities",
    temperature: float = 4.0,
    mirror: bool = True,
) -> Float[Array, "n d"]:
    """Describes images by all teachers of a zoo.

    Teachers are visited one after the other, so memory does not grow with the zoo.

    Args:
      architectures: one a group.
      teachers: one stack a group, leaves [T, ...].
      images: [n, h, w, c] in [0, 1]; resized to each group's image size.
      output: tempered softmax minus chance, raw logits, or the features before the
        head scaled to unit length a teacher.
      temperature: of the softmax.
      mirror: average over the image and its mirror image.

    Returns:
      [n, d]; d is the sum over teachers of their outputs (or features).
    """

    def one(arch: Architecture, variables: PyTree, views: jax.Array) -> jax.Array:
        out = arch.apply(variables, views, features=output == "features")
        if output == "probabilities":
            return jax.nn.softmax(out / temperature) - 1.0 / arch.way
        if output == "features":
            return out / (jnp.linalg.norm(out, axis=-1, keepdims=True) + 1e-8)
        return out

    parts = []
    for arch, stack in zip(architectures, teachers, strict=True):
        views = augment.fit_to(images, arch.image_shape)

        def say(variables, arch=arch, views=views):
            said = one(arch, variables, views)
            if mirror:
                said = (said + one(arch, variables, views[:, :, ::-1])) / 2
            return said

        out = jax.lax.map(say, stack.variables)  # [T, n, d]
        parts.append(jnp.moveaxis(out, 0, 1).reshape(images.shape[0], -1))
    return jnp.concatenate(parts, axis=-1)


def describe_bank(
    architectures: tuple[Architecture, ...],
    teachers: tuple[Teachers, ...],
    bank: ImageBank,
    *,
    chunk: int = 600,
    **kwargs,
) -> ImageBank:
    """The same bank with descriptions [C, M, d] in place of images.

    Args:
      architectures: one a group of the zoo.
      teachers: one stack a group.
      bank: images [C, M, h, w, c] uint8.
      chunk: images described at once.
      **kwargs: options of `describe`.
    """
    classes, most = bank.images.shape[:2]
    flat = bank.images.reshape(classes * most, *bank.images.shape[2:])

    @jax.jit
    def run(teachers, images):
        return describe(architectures, teachers, to_float(images), **kwargs)

    parts = []
    for start in range(0, flat.shape[0], chunk):
        images = flat[start : start + chunk]
        missing = chunk - images.shape[0]
        # The last chunk is padded: one shape, one compilation.
        images = jnp.pad(images, ((0, missing), (0, 0), (0, 0), (0, 0)))
        parts.append(run(teachers, images)[: chunk - missing])
    described = jnp.concatenate(parts).reshape(classes, most, -1)
    return bank._replace(images=described)
