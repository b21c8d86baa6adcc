"""Plain gradient descent for a fixed number of steps, the one inner loop."""

from collections.abc import Callable
from typing import Any

import jax

from free_jax.types import PyTree


def descend(
    gradient: Callable[[Any], PyTree],
    start: Any,
    *,
    num_steps: int,
    learning_rate: float,
    only: str | None = None,
    remat: bool = False,
) -> Any:
    """``x - learning_rate * gradient(x)``, again and again; differentiable.

    Args:
      gradient: ``x -> tree like x``, usually ``jax.grad(loss)``.
      start: x to start from, any pytree.
      num_steps: how often; no momentum, no decay.
      learning_rate: of every step.
      only: of a mapping, the one entry that moves; None moves everything.
      remat: recompute a step's intermediate values in the backward pass.

    Returns:
      The last x.
    """

    def move(x: PyTree, grads: PyTree) -> PyTree:
        return jax.tree.map(lambda p, g: p - learning_rate * g, x, grads)

    def step(x: Any, _: None) -> tuple[Any, None]:
        grads = gradient(x)
        if only is not None:
            return {**x, only: move(x[only], grads[only])}, None
        return move(x, grads), None

    step = jax.checkpoint(step) if remat else step
    return jax.lax.scan(step, start, length=num_steps)[0]
