"""A meta-model that starts from what the teachers know."""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp

from free_jax import rows
from free_jax.types import PyTree, Teachers
from free_jax.zoo.network import Network

Start = Literal["teacher", "average"]


def from_model(source: Network, params: PyTree, student: Network) -> PyTree:
    """Parameters of a meta-model that goes on from a trained network's trunk.

    Args:
      source: the trained network; may have any number of outputs, such as the heads of
        a distilled panel.
      params: its parameters, or its variables with running statistics, which a
        meta-model does not use.
      student: the meta-model; its head starts from zero.

    Raises:
      ValueError: the two differ in more than their outputs.
    """
    if dataclasses.replace(source, num_classes=student.num_classes) != student:
        raise ValueError(
            f"{source.as_dict()} and {student.as_dict()} differ in more than outputs"
        )
    params = params.get("params", params)
    head = jax.tree.map(
        lambda x: jnp.zeros((*x.shape[:-1], student.num_classes), x.dtype),
        params["head"],
    )
    return {**params, "head": head}


def from_teachers(teachers: Teachers, start: Start, index: Any = 0) -> PyTree:
    """Parameters of a meta-model of the teachers' architecture.

    The head is set to zero: its outputs meant one teacher's classes, and from zero the
    first inner step moves every class alike.

    Args:
      teachers: a stack, leaves [T, ...], in memory or `rows.FileRows`.
      start: "teacher" takes one of them, "average" the mean of all (PURER).
      index: which one.

    Raises:
      ValueError: `start` is neither.
    """
    if start not in ("teacher", "average"):
        raise ValueError(f"start={start!r}: choose teacher or average")
    params = teachers.variables["params"]
    if start == "average":
        params = jax.tree.map(rows.mean, params)
    else:
        params = jax.tree.map(lambda x: x[index], params)
    return {**params, "head": jax.tree.map(jnp.zeros_like, params["head"])}
