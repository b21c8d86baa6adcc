"""Episodic training of a learner on a fixed bank of images.

On real training images with MAML this is the field's upper bound (and not
data-free); on a bank of recovered images, the "pre-inverted memory" baseline.

Example::

    update = replay.episodic_update(
        learner, optimizer, way=5, shots=1, queries=15, episodes_per_update=4
    )
    algorithm = episodic(learner, update, optimizer)
    state = jax.jit(algorithm.init)(key)
    state, info = jax.jit(algorithm.step)(step_key, state, bank)
    variables = algorithm.model(state)  # {"params": ...}
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Key

from free_jax.algorithm import Algorithm, all_finite, bind
from free_jax.fewshot.learners import MetaLearner
from free_jax.types import ImageBank, PyTree


class EpisodicState(NamedTuple):
    """Everything that training carries.

    Attributes:
      step: [] int32 steps made.
      params: parameters of the meta-model.
      opt: state of its optimiser.
    """

    step: jax.Array
    params: PyTree
    opt: PyTree


class EpisodicInfo(NamedTuple):
    """Scalars of one step.

    Attributes:
      replay_loss: query loss, mean over the step's episodes.
      replay_accuracy: query accuracy in [0, 1].
      is_finite: whether the parameters are finite.
    """

    replay_loss: jax.Array
    replay_accuracy: jax.Array
    is_finite: jax.Array


class Parts(NamedTuple):
    """What episodic training is composed of; the arguments of `episodic`.

    Attributes:
      learner: gives the initialisation.
      update: from `replay.episodic_update`, with the same optimiser.
      optimizer: of the meta-model.
    """

    learner: MetaLearner
    update: Callable
    optimizer: optax.GradientTransformation


def init(parts: Parts, key: Key[Array, ""]) -> EpisodicState:
    """The learner's initialisation."""
    params = parts.learner.init(key)
    return EpisodicState(jnp.int32(0), params, parts.optimizer.init(params))


def step(
    parts: Parts, key: Key[Array, ""], state: EpisodicState, data: ImageBank
) -> tuple[EpisodicState, EpisodicInfo]:
    """One episodic update."""
    params, opt, info = parts.update(key, state.params, state.opt, data)
    info = EpisodicInfo(info.loss, info.accuracy, all_finite(params))
    return EpisodicState(state.step + 1, params, opt), info


def episodic(
    learner: MetaLearner, update: Callable, optimizer: optax.GradientTransformation
) -> Algorithm:
    """Repeats one episodic update.

    The arguments are described by `Parts`.  The algorithm's data is an `ImageBank`.
    """
    return bind(init, step, Parts(learner, update, optimizer))
