"""Small readings of operators' arguments: kinds of numbers, pairs, axes."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from free_jax.errors import InputError

_KINDS = {
    "torch.float16": float,
    "torch.bfloat16": float,
    "torch.float32": float,
    "torch.float64": float,
    "torch.uint8": jnp.uint8,
    "torch.int8": jnp.int8,
    "torch.int16": jnp.int16,
    "torch.int32": jnp.int32,
    "torch.int64": jnp.int32,
    "torch.bool": jnp.bool_,
}


def jax_dtype(name: str) -> Any:
    """The type of a graph's "torch.int64"; floats are this run's own width.

    Raises:
      InputError: complex numbers and other kinds that classifiers do without.
    """
    if name not in _KINDS:
        raise InputError(
            f"the graph computes with numbers of type {name}; not supported"
        )
    return jax.dtypes.canonicalize_dtype(_KINDS[name])


def bounded(count: int | float) -> None:
    """Refuses a constant that no classifier has; texts of programs are not trusted.

    Raises:
      InputError: it has more than 2**27 numbers.
    """
    if not abs(count) <= 1 << 27:
        raise InputError(f"the graph makes a constant of {count} numbers")


def spread(value: Any, count: int) -> tuple[Any, ...]:
    """One value an axis, where a single one may stand for all."""
    values = tuple(value) if isinstance(value, list | tuple) else (value,)
    return values * count if len(values) == 1 else values


def axes(dim: int | Sequence[int] | None, ndim: int) -> tuple[int, ...]:
    """Axes counted from the front; None and none at all mean all of them."""
    if dim is None or (isinstance(dim, list | tuple) and not dim):
        return tuple(range(ndim))
    dims = (dim,) if isinstance(dim, int) else dim
    return tuple(d % ndim for d in dims) if ndim else ()


def per_channel(value: jax.Array, ndim: int) -> jax.Array:
    """[c] as [1, c, 1, ..] with `ndim` axes."""
    return value.reshape((1, -1) + (1,) * (ndim - 2))
