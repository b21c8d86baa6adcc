"""An image embedded by the outputs of all teachers of a zoo, the panel.

No training, no data, forward queries only: each teacher's softmax at a temperature,
side by side, chance level subtracted, averaged over the image and its mirror image.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from free_jax import images as images_lib
from free_jax import parallel, rows, zoo
from free_jax.split import Split, in_parts
from free_jax.types import ImageBank, PyTree, Teachers
from free_jax.zoo.network import Network

# Teachers that are read from files together.
_AT_ONCE = 64

Output = Literal["probabilities", "logits", "features"]


def embedder(
    networks: tuple[Network, ...],
    *,
    output: Output = "probabilities",
    temperature: float = 4.0,
    mirror: bool = True,
    map_tasks: Callable = parallel.map_tasks,
) -> Callable[[tuple[Teachers, ...], jax.Array], jax.Array]:
    """Builds the embedding of images by all teachers of a zoo.

    A device visits its teachers one after the other, so memory does not grow with the
    zoo; remote ones are asked all at once.

    Args:
      networks: one a group.
      output: tempered softmax minus chance, raw logits, or the features before the
        head scaled to unit length a teacher.
      temperature: of the softmax.
      mirror: average over the image and its mirror image.
      map_tasks: how teachers are spread, see `parallel.map_tasks`.

    Returns:
      ``(teachers, one stack a group; images [n, h, w, c], uint8 or floats in [0, 1])
      -> [n, d]``; d is the sum over teachers of their outputs (or features).  Images
      are resized to each group's size.  Compile it once with `jax.jit`.

    Raises:
      ValueError: an unknown output, or a temperature that is not positive.
      InputError: features of a network that gives none.
    """
    if output not in ("probabilities", "logits", "features"):
        raise ValueError(f"output={output!r}: choose probabilities, logits or features")
    if temperature <= 0:
        raise ValueError(f"temperature={temperature} must be positive")

    if output == "features":
        for network in networks:
            network.check_gives(
                "features", "an embedding by features", "use probabilities or logits"
            )

    def say(network: Network, variables: PyTree, views: jax.Array) -> jax.Array:
        out = network.apply(variables, views, features=output == "features")
        if output == "probabilities":
            return tempered(out, temperature)
        if output == "features":
            return out / (jnp.linalg.norm(out, axis=-1, keepdims=True) + 1e-8)
        return out

    def embed(
        teachers: tuple[Teachers, ...], images: Float[Array, "n h w c"] | jax.Array
    ) -> Float[Array, "n d"]:
        images = images_lib.to_float(jnp.asarray(images))
        parts = []
        for network, stack in zip(networks, teachers, strict=True):
            views = images_lib.fit_to(images, network.image_shape)

            def one(shared, index, network=network):
                stack, views = shared
                variables = zoo.take(stack, index).variables
                said = say(network, variables, views)
                if mirror:
                    said = (said + say(network, variables, views[:, :, ::-1])) / 2
                return said

            how = "map" if network.service is None else "vmap"
            run = map_tasks(one, local=how, everywhere=True)
            teachers_at = jnp.arange(stack.class_ids.shape[0])
            out = run((stack, views), teachers_at)  # [T, n, d]
            parts.append(jnp.moveaxis(out, 0, 1).reshape(images.shape[0], -1))
        return jnp.concatenate(parts, axis=-1)

    return embed


def compiled_embedder(
    networks: tuple[Network, ...],
    *,
    output: Output = "probabilities",
    temperature: float = 4.0,
    mirror: bool = True,
    map_tasks: Callable = parallel.map_tasks,
    split: Split | None = None,
) -> Callable[[tuple[Teachers, ...], jax.Array | np.ndarray], jax.Array | np.ndarray]:
    """`embedder`, compiled: one program for each network, run one after the other.

    One program of all networks would be compiled anew for every zoo, and would hold
    the buffers of all of them.

    Args:
      networks: one a group; equal ones share their program.
      output: see `embedder`, as the rest.
      temperature: of the softmax.
      mirror: average over the image and its mirror image.
      map_tasks: how teachers are spread, see `parallel.map_tasks`.
      split: teachers, which are on the host then, are sent to the devices in parts, and
        what they say comes back to it; None: a device has all of a network's.  Those
        that are remote are nowhere.
    """

    def program(network: Network) -> Callable:
        shared = split if network.service is None else None
        one = embedder(
            (network,),
            output=output,
            temperature=temperature,
            mirror=mirror,
            map_tasks=map_tasks if shared is None else shared.map_tasks,
        )
        return jax.jit(one) if shared is None else _in_parts(one, shared)

    programs = {network: program(network) for network in networks}

    def embed(
        teachers: tuple[Teachers, ...], images: jax.Array | np.ndarray
    ) -> Float[Array, "n d"] | Float[np.ndarray, "n d"]:
        said = [
            programs[network]((part,), images)
            for network, stack in zip(networks, teachers, strict=True)
            for part in _in_memory(stack)
        ]
        if len(said) == 1:
            return said[0]
        return (jnp if split is None else np).concatenate(said, axis=-1)

    return embed


def _in_parts(
    embed: Callable[[tuple[Teachers, ...], jax.Array], jax.Array], split: Split
) -> Callable[[tuple[Teachers, ...], jax.Array | np.ndarray], np.ndarray]:
    """An embedding by teachers of one network, each device's by its own.

    Args:
      embed: `embedder` within a part.
      split: of the teachers.
    """
    program = jax.jit(embed_parts(embed, split))

    def run(
        teachers: tuple[Teachers, ...], images: jax.Array | np.ndarray
    ) -> Float[np.ndarray, "n d"]:
        (stack,) = teachers
        count = stack.class_ids.shape[0]
        stacks = split.put(in_parts(stack, split.parts))
        said = np.moveaxis(split.on_host(program(stacks, images)), 0, 1)
        said = said.reshape(len(said), stacks.class_ids[..., 0].size, -1)
        # The last teacher fills what is missing of the parts.
        return said[:, :count].reshape(len(said), -1)

    return run


def embed_parts(
    embed: Callable[[tuple[Teachers, ...], jax.Array], jax.Array], split: Split
) -> Callable[[Teachers, jax.Array], jax.Array]:
    """``(stacks [p, t, ...], images) -> [p, n, d]`` in parts, nothing of it sent.

    Args:
      embed: `embedder` within a part.
      split: of the teachers.
    """

    def part_of(images: jax.Array, stack: Teachers) -> tuple[jax.Array, tuple]:
        return embed((stack,), images), ()

    def run(stacks: Teachers, images: jax.Array) -> Float[Array, "p n d"]:
        return split.map(part_of)(images, stacks)[0]

    return run


def _in_memory(stack: Teachers) -> Iterator[Teachers]:
    """The teachers as they are; those whose weights are in files, some at a time."""
    if not any(map(rows.in_files, jax.tree.leaves(stack))):
        yield stack
        return
    count = stack.class_ids.shape[0]
    for start in range(0, count, _AT_ONCE):
        index = np.arange(start, min(start + _AT_ONCE, count))
        yield jax.tree.map(functools.partial(_on_host, index), stack)


def _on_host(index: np.ndarray, leaf: Any) -> np.ndarray:
    """Some rows, which go on to a device when it is known to which."""
    return (leaf if rows.in_files(leaf) else np.asarray(leaf))[index]


def tempered(
    logits: Float[Array, "*batch way"], temperature: float | Float[Array, ""]
) -> Float[Array, "*batch way"]:
    """Tempered softmax minus chance: what one teacher adds to an embedding."""
    return jax.nn.softmax(logits / temperature) - 1.0 / logits.shape[-1]


def embed_bank(
    embed: Callable[[jax.Array], jax.Array], bank: ImageBank, *, chunk: int = 500
) -> ImageBank:
    """The same bank with embeddings [C, M, d] in place of images.

    Only images that a class holds are embedded; rows beyond its count are zeros.

    Args:
      embed: ``images [n, h, w, c] uint8 -> [n, d]``, compiled by the caller, as
        ``functools.partial(jax.jit(embedder(...)), teachers)``: banks embedded by
        other teachers of the same shapes then share the program.
      bank: images [C, M, h, w, c] uint8.
      chunk: images described at once.
    """
    classes, most = bank.images.shape[:2]
    flat = bank.images.reshape(classes * most, *bank.images.shape[2:])
    held = np.arange(most) < np.asarray(bank.counts)[:, None]
    rows = np.flatnonzero(held)
    if rows.size < flat.shape[0]:
        flat = flat[rows]
    parts = []
    for start in range(0, flat.shape[0], chunk):
        images = flat[start : start + chunk]
        missing = chunk - images.shape[0]
        # The last chunk is padded: one shape, one compilation.
        images = jnp.pad(images, ((0, missing), (0, 0), (0, 0), (0, 0)))
        parts.append(embed(images)[: chunk - missing])
    embedded = jnp.concatenate(parts)
    if rows.size < classes * most:
        empty = jnp.zeros((classes * most, embedded.shape[1]), embedded.dtype)
        embedded = empty.at[rows].set(embedded)
    return bank._replace(images=embedded.reshape(classes, most, -1))
