"""A memory of tasks, and tasks between two of its tasks (TEAPOT).

Example::

    memory = init(64, (32, 32, 3), shots=1, queries=15, per_class=320)
    memory = add(memory, support, query)
    episode = draw(key, memory, way=5, shots=1, queries=15)

Reference:
  The released code of Trustworthy-DFML (R3, R5, docs/reference/released_codes.md).
"""

from typing import Annotated, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from free_jax import objectives
from free_jax.algorithms.recovered_tasks import Task, remember
from free_jax.fewshot import banks
from free_jax.fewshot.episodes import sample_episode
from free_jax.images import to_float
from free_jax.options import Between, Positive
from free_jax.types import Episode, ImageBank, PyTree
from free_jax.zoo.network import Network

Share = Annotated[float, Between(0, 1, inclusive=True)]


class InterpolationOptions(NamedTuple):
    """Tasks between two tasks of the memory.

    Attributes:
      probability: that a task of the memory is such a one.
      concentration: both parameters of the beta distribution that the share of the
        second task is drawn from.
    """

    probability: Share = 0.5
    concentration: Annotated[float, Positive()] = 0.5


def init(
    num_classes: int,
    image_shape: tuple[int, int, int],
    *,
    shots: int,
    queries: int,
    per_class: int,
    kind: Literal["together", "apart"] = "together",
) -> tuple[ImageBank, ...]:
    """An empty memory: one bank, or one of support and one of query images.

    Args:
      num_classes: absolute class ids.
      image_shape: (h, w, c).
      shots: support images that a task brings to a class.
      queries: query images, likewise.
      per_class: images that a class has room for.
      kind: "apart", both share the places: half are of support, half of query images.
    """
    places = per_class // (shots + queries)
    if kind == "together":
        sizes = (places * (shots + queries),)
    else:
        half = max(places // 2, 1)
        sizes = (half * shots, half * queries)
    return tuple(banks.init(num_classes, size, image_shape) for size in sizes)


def add(
    memory: tuple[ImageBank, ...], support: Task, query: Task
) -> tuple[ImageBank, ...]:
    """Stores tasks, leaves [T, ...], in order."""
    parts = (support, query)
    if len(memory) == 1:
        images = jnp.concatenate([support.images, query.images], 2)
        logits = jnp.concatenate([support.logits, query.logits], 2)
        parts = (Task(images, logits, support.class_ids),)
    return tuple(
        jax.lax.scan(lambda bank, task: (remember(bank, task), None), bank, tasks)[0]
        for bank, tasks in zip(memory, parts, strict=True)
    )


def draw(
    key: Key[Array, ""],
    memory: tuple[ImageBank, ...],
    *,
    way: int,
    shots: int,
    queries: int,
) -> Episode:
    """An episode of the memory; of one kept apart, each part from its own bank."""
    if len(memory) == 1:
        return sample_episode(key, memory[0], way=way, shots=shots, queries=queries)
    key_classes, key_support, key_query = jax.random.split(key, 3)
    # Both hold the same classes: what is stored is stored in both.
    scores = jax.random.uniform(key_classes, memory[0].counts.shape)
    scores = jnp.where(memory[0].counts > 0, scores, -1.0)
    ids = jax.lax.top_k(scores, way)[1].astype(jnp.int32)
    labels = jnp.arange(way, dtype=jnp.int32)

    def part(key: jax.Array, bank: ImageBank, count: int) -> tuple[jax.Array, ...]:
        marks = jax.random.uniform(key, (way, bank.images.shape[1]))
        held = jnp.arange(bank.images.shape[1]) < bank.counts[ids][:, None]
        rows = jax.lax.top_k(jnp.where(held, marks, -1.0), count)[1]
        images = to_float(bank.images[ids[:, None], rows])
        return images.reshape(-1, *images.shape[2:]), jnp.repeat(labels, count)

    support = part(key_support, memory[0], shots)
    query = part(key_query, memory[1], queries)
    return Episode(support[0], support[1], query[0], query[1], ids)


def interpolated_loss(
    student: Network,
    params: PyTree,
    first: Episode,
    second: Episode,
    share: float | Float[Array, ""],
) -> Float[Array, ""]:
    """ProtoNet's loss on features between two episodes'; class j is both j-th classes.

    Args:
      student: its features are mixed, each batch normalised by its own moments.
      params: of the student.
      first: an episode, images class by class.
      second: another, with as many images.
      share: of the second.
    """

    def features(images: jax.Array) -> jax.Array:
        return student.apply({"params": params}, images, norm="batch", features=True)

    def mixed(a: jax.Array, b: jax.Array) -> jax.Array:
        return (1 - share) * features(a) + share * features(b)

    support = mixed(first.support_images, second.support_images)
    query = mixed(first.query_images, second.query_images)
    members = jax.nn.one_hot(first.support_labels, student.num_classes)
    prototypes = members.T @ support / members.sum(0)[:, None]
    gaps = query[:, None, :] - prototypes[None]
    return objectives.cross_entropy(-jnp.square(gaps).sum(-1), first.query_labels)
