"""What every algorithm is: three pure functions.

The contract in words, which ``tests/test_contract.py`` checks for every algorithm:

- `Algorithm.init` is ``key -> state`` (``(key, data) -> state`` where the state's
  shapes depend on the data).  `state` is a NamedTuple of arrays with a field ``step``,
  the int32 count of steps made.
- `Algorithm.step` is ``(key, state, data) -> (state, info)``, and keeps the structure,
  shapes and types of the state.  `info` is a NamedTuple of scalars with a field
  ``is_finite``.  It is called as `Algorithm.compiled` gives it: as one program for all
  steps; or, where teachers of several networks take part (``num_programs`` above 1),
  as a function on the host that calls one program a network and one for what follows.
  The latter decides by the key and the step's number whose turn it is, so it cannot be
  traced (`jax.jit`, `jax.lax.scan`) itself.
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

The step of a method with programs of its own takes `Programs` as its last argument,
and calls what it would otherwise call itself through them::

    def step(parts: Parts, key, state, data, programs): ...
        found = programs(recover, group)(key, state.generator, data[group])
        return programs(finish, donate=0)(state, found)

    def method(...) -> Algorithm:
        return bind(init, step, Parts(...), num_programs=len(networks))
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Key

from free_jax.types import PyTree, Teachers


class Algorithm(NamedTuple):
    """A meta-training algorithm; see the module's docstring.

    Attributes:
      init: ``key -> state``, a NamedTuple of arrays with a field ``step``.
      step: ``(key, state, data) -> (state, info)``; `data` is the zoo's tuple of
        teacher stacks, or a bank of images for methods that need real data; `info` is
        a NamedTuple of scalars.
      model: ``state -> variables`` of the meta-model to evaluate, ``{"params", ...}``.
      draws: ``(key, step, data) -> counts``, how often a step draws each teacher: an
        int32 array [T] for each group; traceable.  None where nothing is drawn.
      dispatch: ``(donate, jit) -> step``, for a step of several programs, see
        `compiled`; None: `step` is one.
      feed: ``(key, step, data) -> data of that step``, `step` the number of steps made
        before it; picked on the host from data that need not fit a device, e.g. `numpy`
        arrays or `rows.Rows`; `step` takes either.  None where a step needs all of it.
    """

    init: Callable[..., Any]
    step: Callable[..., tuple[Any, Any]]
    model: Callable[[Any], dict[str, Any]]
    draws: Callable[..., tuple[jax.Array, ...]] | None = None
    dispatch: Callable[..., Callable[..., tuple[Any, Any]]] | None = None
    feed: Callable[[jax.Array, int, Any], Any] | None = None

    def compiled(
        self, donate: bool = False, jit: Callable[..., Callable] = jax.jit
    ) -> Callable[..., tuple[Any, Any]]:
        """The step, to be called as it is: compiled once, whatever it is made of.

        Args:
          donate: the state given is not used again; its memory may be.
          jit: ``(fn, donate_argnums=) -> program``, makes every program of the step,
            such as to look at each before it runs.
        """
        if self.dispatch is not None:
            return self.dispatch(donate, jit)
        return jit(self.step, donate_argnums=1 if donate else ())


class Programs:
    """Compiles each function of a step once, for each set of its fixed arguments."""

    def __init__(self, parts: Any, donate: bool, jit: Callable[..., Callable]):
        self._parts, self._donate, self._jit = parts, donate, jit
        self._compiled: dict[Any, Callable] = {}

    def __call__(
        self, fn: Callable, *fixed: Any, donate: int | tuple[int, ...] = ()
    ) -> Callable:
        """The program of ``fn(parts, *fixed, ...)``.

        Args:
          fn: a function of the algorithm's module.
          *fixed: its arguments after the parts that a program is made for.
          donate: which of the others hold what the step does not need again, where the
            caller of the step gives its state away.
        """
        name = (fn, *fixed)
        if name not in self._compiled:
            bound = functools.partial(fn, self._parts, *fixed)
            argnums = donate if self._donate else ()
            self._compiled[name] = self._jit(bound, donate_argnums=argnums)
        return self._compiled[name]


class Inline:
    """In place of `Programs` where the whole step is one: everything as it is."""

    def __init__(self, parts: Any):
        self._parts = parts

    def __call__(self, fn: Callable, *fixed: Any, donate: Any = ()) -> Callable:
        """See `Programs`."""
        return functools.partial(fn, self._parts, *fixed)


def total_draws(
    algorithm: Algorithm,
    key_of: Callable[[jax.Array], jax.Array],
    numbers: Int[np.ndarray, " steps"],
    data: Any,
) -> Int[np.ndarray, " t"] | None:
    """How often each teacher was drawn in all steps; None where nothing is drawn.

    Nothing has to be kept for it: draws follow from the keys.

    Args:
      algorithm: that made the steps.
      key_of: what a step's key is made of; traceable in the number.
      numbers: of the keys of the steps that count, one step after the other.
      data: of the steps.
    """
    count = algorithm.draws
    if count is None:
        return None
    if all(isinstance(stack, Teachers) for stack in data):
        # Only how many there are, and of what, decides.
        data = tuple(Teachers((), jnp.asarray(stack.class_ids)) for stack in data)

    @jax.jit
    def total(data: Any) -> Any:
        def body(step: jax.Array, total: Any) -> Any:
            drawn = count(key_of(jnp.asarray(numbers)[step]), step, data)
            return jax.tree.map(jnp.add, total, drawn)

        shapes = jax.eval_shape(count, key_of(jnp.int32(0)), jnp.int32(0), data)
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        return jax.lax.fori_loop(0, len(numbers), body, zeros)

    return np.concatenate([np.asarray(drawn) for drawn in total(data)])


def params_only(state: Any) -> dict[str, Any]:
    """``model`` of an algorithm whose state has ``params`` and no statistics."""
    return {"params": state.params}


def bind(
    init: Callable,
    step: Callable,
    parts: Any,
    *,
    num_programs: int = 0,
    draws: Callable | None = None,
    feed: Callable | None = None,
) -> Algorithm:
    """The algorithm of functions whose first argument is `parts`.

    Args:
      init: ``(parts, key) -> state``.
      step: ``(parts, key, state, data) -> (state, info)``; with `num_programs`, takes
        `Programs` as its last argument.
      parts: what the method is composed of.
      num_programs: networks whose teachers the step calls, each by a program of its
        own; one makes a step that is one program.
      draws: ``(parts, key, step, data) -> counts``, see `Algorithm`.
      feed: ``(parts, key, step, data) -> data of that step``, see `Algorithm`.
    """

    def bound_init(key: Key[Array, ""]) -> Any:
        return init(parts, key)

    def stepper(*programs: Any) -> Callable[..., tuple[Any, Any]]:
        def bound_step(key: Key[Array, ""], state: Any, data: Any) -> tuple[Any, Any]:
            return step(parts, key, state, data, *programs)

        return bound_step

    drawn = None if draws is None else functools.partial(draws, parts)
    fed = None if feed is None else functools.partial(feed, parts)
    if num_programs > 1:

        def dispatch(
            donate: bool, jit: Callable[..., Callable] = jax.jit
        ) -> Callable[..., tuple[Any, Any]]:
            return stepper(Programs(parts, donate, jit))

        return Algorithm(bound_init, dispatch(False), params_only, drawn, dispatch, fed)
    inline = (Inline(parts),) if num_programs else ()
    return Algorithm(bound_init, stepper(*inline), params_only, drawn, None, fed)


def all_finite(*trees: PyTree) -> jax.Array:
    """[] bool: no leaf of the trees holds a NaN or an infinity."""
    leaves = jax.tree.leaves(trees)
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in leaves]).all()
