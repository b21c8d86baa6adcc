"""Cross-task replay: episodic training on the memory, with bounded patience."""

from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from free_jax import augment, parallel
from free_jax.fewshot import episodes
from free_jax.fewshot.learners import MetaLearner
from free_jax.options import AtLeast
from free_jax.types import ImageBank, PyTree


class ReplayInfo(NamedTuple):
    """Means over the updates of one replay phase.

    Attributes:
      loss: query loss, per episode.
      accuracy: query accuracy in [0, 1].
      num_updates: [] int32 optimiser steps made.
    """

    loss: jax.Array
    accuracy: jax.Array
    num_updates: jax.Array


def episodic_gradients(
    learner: MetaLearner,
    *,
    way: int,
    shots: int,
    queries: int,
    episodes_per_update: int,
    augment_images: bool = False,
    split: episodes.Split = "random",
    map_tasks: Callable = parallel.map_tasks,
) -> Callable:
    """Gradient of the summed loss of several episodes.

    Args:
      learner: its loss is differentiated.
      way: classes in an episode.
      shots: support images a class.
      queries: query images a class.
      episodes_per_update: losses summed.
      augment_images: crop and flip every image of an episode; the released codes
        replay images as they are.
      split: see `episodes.sample_episode`.
      map_tasks: see `parallel.map_tasks`.

    Returns:
      ``(key, params, bank) -> (gradient like params, EpisodeInfo means)``.
    """

    def one(shared, key):
        params, bank = shared
        key_episode, key_support, key_query = jax.random.split(key, 3)
        episode = episodes.sample_episode(
            key_episode, bank, way=way, shots=shots, queries=queries, split=split
        )
        if augment_images:
            episode = episode._replace(
                support_images=augment.crop_flip(key_support, episode.support_images),
                query_images=augment.crop_flip(key_query, episode.query_images),
            )
        (_, info), grads = jax.value_and_grad(learner.loss, has_aux=True)(
            params, episode
        )
        return info, grads

    mapped = map_tasks(one, everywhere=True, summed=True)

    def gradients(key: jax.Array, params: PyTree, bank: ImageBank):
        keys = jax.random.split(key, episodes_per_update)
        info, grads = mapped((params, bank), keys)
        return grads, jax.tree.map(lambda x: x.mean(), info)

    return gradients


def episodic_update(
    learner: MetaLearner, optimizer: optax.GradientTransformation, **options: Any
) -> Callable:
    """One optimiser step on the summed loss of several episodes.

    Args:
      learner: its loss is differentiated.
      optimizer: of the meta-model.
      **options: see `episodic_gradients`.

    Returns:
      ``(key, params, opt_state, bank) -> (params, opt_state, EpisodeInfo means)``.
    """
    gradients = episodic_gradients(learner, **options)

    def update(key: jax.Array, params: PyTree, opt_state: PyTree, bank: ImageBank):
        grads, info = gradients(key, params, bank)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, info

    return update


def replay(
    update: Callable, *, patience: int, max_updates: int
) -> Callable[..., tuple[PyTree, PyTree, ReplayInfo]]:
    """Repeats an update until its training accuracy stops improving.

    Args:
      update: from `episodic_update`.
      patience: stop after that many updates in a row without a new best accuracy
        (10 in FREE's released code); the first update always sets the best.
      max_updates: hard bound; without it the run time is random.

    Returns:
      ``(key, params, opt_state, bank) -> (params, opt_state, ReplayInfo)``.

    Raises:
      ValueError: a bound below one.
    """
    if patience < 1 or max_updates < 1:
        raise ValueError(
            f"patience={patience} and max_updates={max_updates} must be at least 1"
        )

    def run(key: jax.Array, params: PyTree, opt_state: PyTree, bank: ImageBank):
        def unfinished(carry):
            _, _, count, _, since_best, _ = carry
            return (count < max_updates) & (since_best < patience)

        def body(carry):
            params, opt_state, count, best, since_best, sums = carry
            params, opt_state, info = update(
                jax.random.fold_in(key, count), params, opt_state, bank
            )
            improved = info.accuracy > best
            sums = jax.tree.map(jnp.add, sums, info)
            return (
                params,
                opt_state,
                count + 1,
                jnp.maximum(best, info.accuracy),
                jnp.where(improved, 0, since_best + 1),
                sums,
            )

        zero = jnp.zeros(())
        info_shape = jax.eval_shape(update, key, params, opt_state, bank)[2]
        sums = jax.tree.map(lambda _: zero, info_shape)
        carry = (params, opt_state, jnp.int32(0), zero - 1.0, jnp.int32(0), sums)
        params, opt_state, count, _, _, sums = jax.lax.while_loop(
            unfinished, body, carry
        )
        return (
            params,
            opt_state,
            ReplayInfo(sums.loss / count, sums.accuracy / count, count),
        )

    return run


class EpisodeOptions(NamedTuple):
    """Episodes that a meta-learner is trained on.

    Attributes:
      shots: support images a class.
      queries: query images a class.
      episodes_per_update: losses summed in one update.
      augment: crop and flip every image (not in the released codes).
      split: which images are support: "random" ones or a "fixed" part, see
        `episodes.sample_episode`.
    """

    shots: Annotated[int, AtLeast(1)] = 1
    queries: Annotated[int, AtLeast(1)] = 15
    episodes_per_update: Annotated[int, AtLeast(1)] = 10
    augment: bool = True
    split: episodes.Split = "random"


class ReplayOptions(NamedTuple):
    """Episodes replayed from a memory in each step, until they teach nothing more.

    Attributes:
      shots: support images a class.
      queries: query images a class.
      episodes_per_update: losses summed in one update.
      augment: crop and flip every image (not in the released codes).
      split: which images are support: "random" ones or a "fixed" part, see
        `episodes.sample_episode`.
      patience: updates in a row without a new best accuracy that end a step's replay.
      max_updates: of a step.
    """

    shots: Annotated[int, AtLeast(1)] = 1
    queries: Annotated[int, AtLeast(1)] = 15
    episodes_per_update: Annotated[int, AtLeast(1)] = 10
    augment: bool = True
    split: episodes.Split = "random"
    patience: Annotated[int, AtLeast(1)] = 10
    max_updates: Annotated[int, AtLeast(1)] = 20
