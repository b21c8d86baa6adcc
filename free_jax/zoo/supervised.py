"""One optimiser step of a network that keeps running batch-norm statistics."""

from collections.abc import Callable
from typing import Any

import jax
import optax

from free_jax import parallel
from free_jax.types import PyTree


def supervised_step(
    loss_fn: Callable[..., tuple[jax.Array, tuple[PyTree, Any]]],
    optimizer: optax.GradientTransformation,
    momentum: float,
    *,
    groups: int = 1,
    map_tasks: Callable = parallel.map_tasks,
) -> Callable[..., tuple[PyTree, PyTree, jax.Array, Any]]:
    """Builds the step that teachers and distilled students share.

    Args:
      loss_fn: ``(params, *batch, *shared) -> (loss, (moments, aux))``, moments as
        `Network.apply_with_moments` reports them for the batch.
      optimizer: of the parameters.
      momentum: share of the running statistics that a step keeps.
      groups: equal parts of a batch, each with batch norm of its own, that are mapped.
      map_tasks: how groups are spread, see `parallel.map_tasks`.

    Returns:
      ``(variables, optimiser state, batch, *shared) -> (variables, optimiser state,
      loss, aux)``; variables are ``{"params", "batch_stats"}``, batch a tuple of
      arrays [n, ...].
    """

    def one(given, group):
        """One group's share of loss, moments, aux and gradient."""
        params, shared = given
        found = jax.value_and_grad(loss_fn, has_aux=True)(params, *group, *shared)
        return (), jax.tree.map(lambda x: x / groups, found)

    mapped = map_tasks(one, summed=True)

    def step(variables: PyTree, opt: PyTree, batch: tuple, *shared):
        params = variables["params"]
        parts = jax.tree.map(lambda x: x.reshape(groups, -1, *x.shape[1:]), batch)
        _, ((loss, (moments, aux)), grads) = mapped((params, shared), parts)
        updates, opt = optimizer.update(grads, opt, params)
        running = jax.tree.map(
            lambda old, new: momentum * old + (1 - momentum) * new,
            variables["batch_stats"],
            moments,
        )
        params = optax.apply_updates(params, updates)
        return {"params": params, "batch_stats": running}, opt, loss, aux

    return step
