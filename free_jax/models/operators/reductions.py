"""Sums, means, norms, extremes and orders."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from free_jax.models.operators.arithmetic import cast
from free_jax.models.operators.kinds import axes


def _reduction(function):
    def reduce(self, dim=None, keepdim=False, dtype=None):
        x = cast(self, dtype)
        return function(x, axis=axes(dim, x.ndim), keepdims=keepdim)

    return reduce


def var(self, dim=None, correction=1, keepdim=False):
    """Variance, divided by the count less ``correction``."""
    correction = 1 if correction is None else correction
    return jnp.var(
        self, axis=axes(dim, self.ndim), ddof=int(correction), keepdims=keepdim
    )


def var_dim(self, dim=None, unbiased=True, keepdim=False):
    """`var` as it was called before."""
    return var(self, dim, int(unbiased), keepdim)


def std(self, dim=None, correction=1, keepdim=False):
    """Square root of `var`."""
    return jnp.sqrt(var(self, dim, correction, keepdim))


def std_dim(self, dim=None, unbiased=True, keepdim=False):
    """`std` as it was called before."""
    return std(self, dim, int(unbiased), keepdim)


def var_mean(self, dim=None, correction=1, keepdim=False):
    """Variance and mean."""
    mean = self.mean(axes(dim, self.ndim), keepdims=keepdim)
    return var(self, dim, correction, keepdim), mean


def std_mean(self, dim=None, correction=1, keepdim=False):
    """Standard deviation and mean."""
    variance, mean = var_mean(self, dim, correction, keepdim)
    return jnp.sqrt(variance), mean


def vector_norm(self, ord=2, dim=None, keepdim=False, dtype=None):
    """Norm over axes; its gradient at zero is zero."""
    where = axes(dim, self.ndim)
    if ord == float("inf"):
        return jnp.abs(self).max(where, keepdims=keepdim)
    if ord == 1:
        return jnp.abs(self).sum(where, keepdims=keepdim)
    if ord == 0:
        return (self != 0).sum(where, keepdims=keepdim).astype(self.dtype)
    powers = jnp.square(self) if ord == 2 else jnp.abs(self) ** ord
    total = powers.sum(where, keepdims=keepdim)
    safe = jnp.where(total > 0, total, 1)
    root = jnp.sqrt(safe) if ord == 2 else safe ** (1 / ord)
    return jnp.where(total > 0, root, 0)


def extreme(largest: bool):
    """Largest or smallest values along an axis, and where they stand."""

    def find(self, dim, keepdim=False):
        index = (jnp.argmax if largest else jnp.argmin)(self, dim, keepdims=True)
        value = jnp.take_along_axis(self, index, dim)
        if not keepdim:
            value, index = value.squeeze(dim), index.squeeze(dim)
        return value, index

    return find


def topk(self, k, dim=-1, largest=True, sorted=True):
    """The ``k`` largest (or smallest) values along an axis, and where they stand."""
    x = jnp.moveaxis(self, dim, -1)
    values, index = lax.top_k(x if largest else -x, k)
    values = values if largest else -values
    return jnp.moveaxis(values, -1, dim), jnp.moveaxis(index, -1, dim)


def sort(self, dim=-1, descending=False, stable=None):
    """Values in order, and where they stood."""
    index = jnp.argsort(self, axis=dim, descending=descending, stable=True)
    return jnp.take_along_axis(self, index, dim), index


def logsumexp(self, dim, keepdim=False):
    """Logarithm of a sum of exponentials."""
    return jax.nn.logsumexp(self, axis=axes(dim, self.ndim), keepdims=keepdim)


def _arg(function):
    return lambda self, dim=None, keepdim=False: function(
        self, axis=dim, keepdims=keepdim
    )


TABLE: dict[str, Any] = {
    "aten.all.default": lambda self: jnp.all(self),
    "aten.all.dim": _reduction(jnp.all),
    "aten.all.dims": _reduction(jnp.all),
    "aten.amax.default": _reduction(jnp.max),
    "aten.amin.default": _reduction(jnp.min),
    "aten.any.default": lambda self: jnp.any(self),
    "aten.any.dim": _reduction(jnp.any),
    "aten.any.dims": _reduction(jnp.any),
    "aten.argmax.default": _arg(jnp.argmax),
    "aten.argmin.default": _arg(jnp.argmin),
    "aten.argsort.default": lambda self, dim=-1, descending=False: sort(
        self, dim, descending
    )[1],
    "aten.cumprod.default": lambda self, dim, dtype=None: jnp.cumprod(self, dim),
    "aten.cumsum.default": lambda self, dim, dtype=None: jnp.cumsum(self, dim),
    "aten.linalg_vector_norm.default": vector_norm,
    "aten.logsumexp.default": logsumexp,
    "aten.max.default": lambda self: self.max(),
    "aten.max.dim": extreme(True),
    "aten.max.other": lambda self, other: jnp.maximum(self, other),
    "aten.mean.default": lambda self, dtype=None: cast(self, dtype).mean(),
    "aten.mean.dim": _reduction(jnp.mean),
    "aten.min.default": lambda self: self.min(),
    "aten.min.dim": extreme(False),
    "aten.min.other": lambda self, other: jnp.minimum(self, other),
    "aten.norm.Scalar": lambda self, p=2: vector_norm(self, p),
    "aten.norm.ScalarOpt_dim": lambda self, p, dim, keepdim=False: vector_norm(
        self, 2 if p is None else p, dim, keepdim
    ),
    "aten.prod.default": lambda self, dtype=None: self.prod(),
    "aten.prod.dim_int": _reduction(jnp.prod),
    "aten.sort.default": sort,
    "aten.sort.stable": lambda self, stable=None, dim=-1, descending=False: sort(
        self, dim, descending
    ),
    "aten.std.correction": std,
    "aten.std.default": lambda self, unbiased=True: std(self, None, int(unbiased)),
    "aten.std.dim": std_dim,
    "aten.std_mean.correction": std_mean,
    "aten.sum.default": lambda self, dtype=None: cast(self, dtype).sum(),
    "aten.sum.dim_IntList": _reduction(jnp.sum),
    "aten.topk.default": topk,
    "aten.var.correction": var,
    "aten.var.default": lambda self, unbiased=True: var(self, None, int(unbiased)),
    "aten.var.dim": var_dim,
    "aten.var_mean.correction": var_mean,
    "aten.var_mean.dim": lambda self, dim=None, unbiased=True, keepdim=False: var_mean(
        self, dim, int(unbiased), keepdim
    ),
}
