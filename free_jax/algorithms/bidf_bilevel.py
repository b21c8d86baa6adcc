"""Bi-level distillation: adapt to one set of a teacher's images, answer for another.

The inner level distils the teacher into the model by a few gradient steps on support
images; the outer level asks that the adapted model agree with the teacher on query
images, and its gradient passes through the inner steps (BiDf-MKD, ICML 2023).
"""

from collections.abc import Callable
from typing import Annotated, NamedTuple

import jax
from jaxtyping import Array, Float, Int

from free_jax import objectives
from free_jax.fewshot.descend import descend
from free_jax.fewshot.learners import batch_apply
from free_jax.options import AtLeast
from free_jax.types import PyTree
from free_jax.zoo.network import Network


class Taught(NamedTuple):
    """Images and their teacher's answers.

    Attributes:
      images: [N, h, w, c] in [0, 1], as the student sees them.
      logits: [N, W] of the teacher; constants.
      labels: [N] int32 that the images were recovered for.
    """

    images: Float[Array, "n h w c"]
    logits: Float[Array, "n way"]
    labels: Int[Array, " n"]


class Bilevel(NamedTuple):
    """Both levels, as pure functions.

    Attributes:
      adapt: ``(params, support: Taught) -> fast``, differentiable.
      loss: ``(fast, query: Taught) -> (loss, accuracy on the labels)``.
    """

    adapt: Callable[..., PyTree]
    loss: Callable[..., tuple[jax.Array, jax.Array]]


def bilevel(
    student: Network,
    *,
    distill: objectives.Distill = "kl",
    inner_lr: float = 0.01,
    num_steps: int = 10,
) -> Bilevel:
    """Builds both levels for one student.

    Args:
      student: its batch norm has no state.
      distill: "kl" or "prob_dot" (released code), at both levels.
      inner_lr: of plain gradient descent on all parameters.
      num_steps: inner steps.

    Raises:
      ValueError: an unknown loss, a rate that is not positive, or a negative step
        count.
    """
    distill_loss = objectives.distillation(distill)
    if inner_lr <= 0 or num_steps < 0:
        raise ValueError(
            f"inner_lr={inner_lr} must be positive and num_steps={num_steps} at least 0"
        )

    def disagreement(params: PyTree, taught: Taught) -> tuple[jax.Array, jax.Array]:
        logits = batch_apply(student, params, taught.images)
        accuracy = objectives.accuracy(logits, taught.labels)
        return distill_loss(logits, taught.logits), accuracy

    def adapt(params: PyTree, support: Taught) -> PyTree:
        gradient = jax.grad(lambda p: disagreement(p, support)[0])
        return descend(gradient, params, num_steps=num_steps, learning_rate=inner_lr)

    return Bilevel(adapt, disagreement)


class BilevelOptions(NamedTuple):
    """Distillation whose gradient passes through an adaptation.

    Attributes:
      loss: "kl", or "prob_dot" (the released code).
      inner_lr: rate of the adaptation to the support images.
      num_steps: of that adaptation.
    """

    loss: objectives.Distill = "kl"
    inner_lr: float = 0.01
    num_steps: Annotated[int, AtLeast(1)] = 10
