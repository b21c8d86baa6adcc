"""What every algorithm is: three pure functions.

The contract in words, which ``tests/test_contract.py`` checks for every algorithm:

- `Algorithm.init` is ``key -> state`` (``(key, data) -> state`` where the state's
  shapes depend on the data).  `state` is a NamedTuple of arrays with a field ``step``,
  the int32 count of steps made.
- `Algorithm.step` is ``(key, state, data) -> (state, info)``: one program for all
  steps, that keeps the structure, shapes and types of the state.  `info` is a
  NamedTuple of scalars with a field ``is_finite``.
- `Algorithm.model` is ``state -> variables``, ALWAYS Linen variables
  ``{"params": ..., ...}``.  A method without running statistics returns ``{"params":
  params}`` and nothing else.  Evaluation, selection and `save_model` take variables;
  what adapts parameters alone (`evaluation.learner_classifier`) takes
  ``variables["params"]`` itself.
- The same key, state and data give the same bits.  Nothing is drawn that the key does
  not decide, and no key is used twice.

An algorithm's module holds ``init`` and ``step`` as plain functions of a record of
their parts, and a short factory that binds it::

    def init(parts: Parts, key): ...
    def step(parts: Parts, key, state, data): ...

    def method(...) -> Algorithm:
        return bind(init, step, Parts(...))
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from free_jax.types import PyTree


class Algorithm(NamedTuple):
    """A meta-training algorithm; see the module's docstring.

    Attributes:
      init: ``key -> state``, a NamedTuple of arrays with a field ``step``.
      step: ``(key, state, data) -> (state, info)``, one jittable program; `data` is
        the zoo's tuple of teacher stacks, or a bank of images for methods that need
        real data; `info` is a NamedTuple of scalars.
      model: ``state -> variables`` of the meta-model to evaluate, ``{"params", ...}``.
    """

    init: Callable[..., Any]
    step: Callable[..., tuple[Any, Any]]
    model: Callable[[Any], dict[str, Any]]


def params_only(state: Any) -> dict[str, Any]:
    """``model`` of an algorithm whose state has ``params`` and no statistics."""
    return {"params": state.params}


def bind(init: Callable, step: Callable, parts: Any) -> Algorithm:
    """The algorithm of two functions whose first argument is `parts`."""

    def bound_init(key: Key[Array, ""]) -> Any:
        return init(parts, key)

    def bound_step(key: Key[Array, ""], state: Any, data: Any) -> tuple[Any, Any]:
        return step(parts, key, state, data)

    return Algorithm(bound_init, bound_step, params_only)


def all_finite(*trees: PyTree) -> jax.Array:
    """[] bool: no leaf of the trees holds a NaN or an infinity."""
    leaves = jax.tree.leaves(trees)
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in leaves]).all()
