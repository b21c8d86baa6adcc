"""BELL: distil several teachers one after the other, then step towards the result.

The difference between the start and the end of a short sequence of gradient steps on
different teachers contains, to first order in the step size, the inner products of
the teachers' gradients; following it aligns them (FREE, CVPR 2024; the expansion is
Reptile's, Nichol et al. 2018).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import optax
from jaxtyping import Array, Key

from free_jax import objectives
from free_jax.optimizers import Optimizer
from free_jax.options import adam
from free_jax.types import PyTree


def sequential_update(
    loss_fn: Callable[[PyTree, PyTree], jax.Array],
    optimizer: optax.GradientTransformation,
) -> Callable[[PyTree, PyTree], tuple[PyTree, jax.Array]]:
    """One optimiser step per task, in order, from shared parameters.

    Args:
      loss_fn: ``(params, task) -> scalar``.
      optimizer: the inner optimiser; its state starts fresh at each call.

    Returns:
      ``(params, tasks with a leading axis T) -> (params - fast, losses [T])``.  The
      difference is a pseudo-gradient: an optimiser that subtracts it moves towards
      the adapted parameters.
    """

    def update(params: PyTree, tasks: PyTree) -> tuple[PyTree, jax.Array]:
        def step(carry, task):
            fast, opt_state = carry
            loss, grads = jax.value_and_grad(loss_fn)(fast, task)
            updates, opt_state = optimizer.update(grads, opt_state, fast)
            return (optax.apply_updates(fast, updates), opt_state), loss

        (fast, _), losses = jax.lax.scan(step, (params, optimizer.init(params)), tasks)
        return jax.tree.map(lambda p, f: p - f, params, fast), losses

    return update


def shuffled(key: Key[Array, ""], tasks: PyTree) -> PyTree:
    """The tasks in random order, so that no teacher always comes last."""
    num_tasks = jax.tree.leaves(tasks)[0].shape[0]
    order = jax.random.permutation(key, num_tasks)
    return jax.tree.map(lambda x: x[order], tasks)


class AlignOptions(NamedTuple):
    """How the meta-model is aligned with a step's teachers.

    Attributes:
      distill: the loss: "kl", or "prob_dot" (FREE's released code).
      hard_label_weight: of the cross-entropy on the wanted labels beside it.
      scale: factor of the pseudo-gradient; 0 leaves the alignment out.
      optimizer: of the gradient steps on one teacher after the other.
    """

    distill: objectives.Distill = "kl"
    hard_label_weight: float = 0.0
    scale: float = 67.0
    optimizer: Optimizer = adam(1e-3)
