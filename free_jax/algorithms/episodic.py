"""Episodic training of a learner on a fixed bank of images.

On real training images with MAML this is the field's upper bound (and not
data-free); on a bank of recovered images, the "pre-inverted memory" baseline.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Key

from free_jax.algorithm import Algorithm
from free_jax.fewshot.learners import MetaLearner
from free_jax.types import ImageBank, PyTree


class EpisodicState(NamedTuple):
    """Step count, meta-model parameters and optimiser state."""

    step: jax.Array
    params: PyTree
    opt: PyTree


class EpisodicInfo(NamedTuple):
    """Query loss and accuracy (in [0, 1]) of the step's episodes."""

    replay_loss: jax.Array
    replay_accuracy: jax.Array
    is_finite: jax.Array


def episodic(
    learner: MetaLearner, update: Callable, optimizer: optax.GradientTransformation
) -> Algorithm:
    """Repeats one episodic update.

    Args:
      learner: gives the initialisation.
      update: from `replay.episodic_update`, with the same optimiser.
      optimizer: of the meta-model.

    Returns:
      An `Algorithm` whose data is an `ImageBank`.
    """

    def init(key: Key[Array, ""]) -> EpisodicState:
        params = learner.init(key)
        return EpisodicState(jnp.int32(0), params, optimizer.init(params))

    def step(key: Key[Array, ""], state: EpisodicState, data: ImageBank):
        params, opt, info = update(key, state.params, state.opt, data)
        leaves = jax.tree.leaves(params)
        finite = jnp.stack([jnp.isfinite(leaf).all() for leaf in leaves]).all()
        info = EpisodicInfo(info.loss, info.accuracy, finite)
        return EpisodicState(state.step + 1, params, opt), info

    return Algorithm(init=init, step=step, params=lambda state: state.params)
