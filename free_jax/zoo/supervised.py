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
    ghost_batches: int = 1,
    map_tasks: Callable = parallel.map_tasks,
) -> Callable[..., tuple[PyTree, PyTree, jax.Array, Any]]:
    """Builds the step that teachers and distilled students share.

    Args:
      loss_fn: see `batch_gradient`.
      optimizer: of the parameters.
      momentum: share of the running statistics that a step keeps.
      ghost_batches: see `batch_gradient`.
      map_tasks: how ghost batches are spread, see `parallel.map_tasks`.

    Returns:
      See `gradient_step`.
    """
    gradient = batch_gradient(loss_fn, ghost_batches=ghost_batches, map_tasks=map_tasks)
    return gradient_step(gradient, optimizer, momentum)


def batch_gradient(
    loss_fn: Callable[..., tuple[jax.Array, tuple[PyTree, Any]]],
    *,
    ghost_batches: int = 1,
    map_tasks: Callable = parallel.map_tasks,
) -> Callable[..., tuple[tuple[jax.Array, tuple[PyTree, Any]], PyTree]]:
    """The gradient of a batch, of whose equal parts each is normalised by itself.

    Args:
      loss_fn: ``(params, *batch, *shared) -> (loss, (moments, aux))``, moments as
        `Network.apply_with_moments` reports them for the batch.
      ghost_batches: equal parts of a batch, each with batch norm of its own, that are
        mapped.
      map_tasks: how ghost batches are spread, see `parallel.map_tasks`.

    Returns:
      ``(params, batch, *shared) -> ((loss, (moments, aux)), gradient)``, means over the
      ghost batches; batch is a tuple of arrays [n, ...].
    """

    def one(given, part):
        """One part's share of loss, moments, aux and gradient."""
        params, shared = given
        found = jax.value_and_grad(loss_fn, has_aux=True)(params, *part, *shared)
        return (), jax.tree.map(lambda x: x / ghost_batches, found)

    mapped = map_tasks(one, summed=True)

    def gradient(params: PyTree, batch: tuple, *shared):
        parts = jax.tree.map(
            lambda x: x.reshape(ghost_batches, -1, *x.shape[1:]), batch
        )
        _, found = mapped((params, shared), parts)
        return found

    return gradient


def gradient_step(
    gradient: Callable[..., tuple[tuple[jax.Array, tuple[PyTree, Any]], PyTree]],
    optimizer: optax.GradientTransformation,
    momentum: float,
) -> Callable[..., tuple[PyTree, PyTree, jax.Array, Any]]:
    """The step down a gradient, by which running statistics move as well.

    Args:
      gradient: see `batch_gradient`.
      optimizer: of the parameters.
      momentum: share of the running statistics that a step keeps.

    Returns:
      ``(variables, optimiser state, batch, *shared) -> (variables, optimiser state,
      loss, aux)``; variables are ``{"params", "batch_stats"}``.
    """

    def step(variables: PyTree, opt: PyTree, batch: Any, *shared):
        params = variables["params"]
        (loss, (moments, aux)), grads = gradient(params, batch, *shared)
        updates, opt = optimizer.update(grads, opt, params)
        running = jax.tree.map(
            lambda old, new: momentum * old + (1 - momentum) * new,
            variables["batch_stats"],
            moments,
        )
        params = optax.apply_updates(params, updates)
        return {"params": params, "batch_stats": running}, opt, loss, aux

    return step
