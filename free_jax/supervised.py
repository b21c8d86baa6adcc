"""One optimiser step of a network that keeps running batch-norm statistics."""

from collections.abc import Callable
from typing import Any

import jax
import optax

from free_jax.types import PyTree


def supervised_step(
    loss_fn: Callable[..., tuple[jax.Array, tuple[PyTree, Any]]],
    optimizer: optax.GradientTransformation,
    momentum: float,
) -> Callable[..., tuple[PyTree, PyTree, jax.Array, Any]]:
    """Builds the step that teachers and distilled students share.

    Args:
      loss_fn: ``(params, *data) -> (loss, (moments, aux))``, moments as
        `Architecture.apply_with_moments` reports them for the batch.
      optimizer: of the parameters.
      momentum: share of the running statistics that a step keeps.

    Returns:
      ``(variables, optimiser state, *data) -> (variables, optimiser state, loss,
      aux)``; variables are ``{"params", "batch_stats"}``.
    """

    def step(variables: PyTree, opt: PyTree, *data):
        params = variables["params"]
        (loss, (moments, aux)), grads = jax.value_and_grad(loss_fn, has_aux=True)(
            params, *data
        )
        updates, opt = optimizer.update(grads, opt, params)
        running = jax.tree.map(
            lambda old, new: momentum * old + (1 - momentum) * new,
            variables["batch_stats"],
            moments,
        )
        params = optax.apply_updates(params, updates)
        return {"params": params, "batch_stats": running}, opt, loss, aux

    return step
