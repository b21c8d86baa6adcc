"""A meta-model that starts from what the teachers know."""

from typing import Any, Literal

import jax
import jax.numpy as jnp

from free_jax.types import PyTree, Teachers

Start = Literal["teacher", "average"]


def from_teachers(teachers: Teachers, start: Start, index: Any = 0) -> PyTree:
    """Parameters of a meta-model of the teachers' architecture.

    The head is set to zero: its outputs meant one teacher's classes, and from zero the
    first inner step moves every class alike.

    Args:
      teachers: a stack, leaves [T, ...].
      start: "teacher" takes one of them, "average" the mean of all (PURER).
      index: which one.

    Raises:
      ValueError: `start` is neither.
    """
    if start not in ("teacher", "average"):
        raise ValueError(f"start={start!r}: choose teacher or average")
    params = teachers.variables["params"]
    if start == "average":
        params = jax.tree.map(lambda x: x.mean(0), params)
    else:
        params = jax.tree.map(lambda x: x[index], params)
    return {**params, "head": jax.tree.map(jnp.zeros_like, params["head"])}
