"""Element-wise arithmetic, comparisons, casts, and integers that a graph computes with.

Names of parameters are those of the operators' schemas, since graphs pass them by name.
"""

import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from free_jax.models.operators.kinds import jax_dtype


def add(input, other, alpha=1):
    """``input + alpha * other``."""
    return input + (other if alpha == 1 else other * alpha)


def sub(input, other, alpha=1):
    """``input - alpha * other``."""
    return input - (other if alpha == 1 else other * alpha)


def rsub(input, other, alpha=1):
    """``other - alpha * input``."""
    return other - (input if alpha == 1 else input * alpha)


def divide_mode(input, other, rounding_mode=None):
    """Quotient as it is, or rounded down ("floor") or towards zero ("trunc")."""
    if rounding_mode == "floor":
        return jnp.floor_divide(input, other)
    quotient = input / other
    if rounding_mode is None:
        return quotient
    integers = all(
        jnp.issubdtype(jnp.result_type(a), jnp.integer) for a in (input, other)
    )
    quotient = jnp.trunc(quotient)
    return quotient.astype(jnp.int32) if integers else quotient


def clamp(self, min=None, max=None):
    """Limits values; a value at a limit keeps its gradient."""
    if max is not None:
        self = jnp.where(self > max, max, self)
    if min is not None:
        self = jnp.where(self < min, min, self)
    return self


def where(condition, input, other):
    """One of two values, by a condition."""
    return jnp.where(condition, input, other)


def masked_fill(self, mask, value):
    """``value`` where the mask is true."""
    return jnp.where(mask, jnp.asarray(value).astype(self.dtype), self)


def nan_to_num(self, nan=None, posinf=None, neginf=None):
    """Replaces what is not finite."""
    return jnp.nan_to_num(self, nan=nan or 0.0, posinf=posinf, neginf=neginf)


def lerp(input, end, weight):
    """From ``input`` towards ``end``."""
    return input + weight * (end - input)


def addcmul(input, tensor1, tensor2, value=1):
    """``input + value * tensor1 * tensor2``."""
    return input + value * tensor1 * tensor2


def addcdiv(input, tensor1, tensor2, value=1):
    """``input + value * tensor1 / tensor2``."""
    return input + value * tensor1 / tensor2


def cast(self, dtype=None):
    """Changes the kind of number: widths of floats are the network's own matter."""
    if dtype is None:
        return self
    wanted = jax_dtype(dtype)
    if jnp.issubdtype(wanted, jnp.floating):
        if jnp.issubdtype(jnp.result_type(self), jnp.floating):
            return self
    return jnp.asarray(self).astype(wanted)


def type_as(self, other):
    """The first value as the second one's kind of number."""
    return jnp.asarray(self).astype(other.dtype)


def logit(self, eps=None):
    """The inverse of the sigmoid."""
    if eps is not None:
        self = clamp(self, eps, 1 - eps)
    return jnp.log(self) - jnp.log1p(-self)


def _unary(function):
    return lambda self: function(self)


def _binary(function):
    return lambda self, other: function(self, other)


_UNARY = {
    "abs": jnp.abs,
    "acos": jnp.arccos,
    "asin": jnp.arcsin,
    "asinh": jnp.arcsinh,
    "atan": jnp.arctan,
    "bitwise_not": jnp.bitwise_not,
    "ceil": jnp.ceil,
    "cos": jnp.cos,
    "cosh": jnp.cosh,
    "erf": lambda x: lax.erf(jnp.asarray(x)),
    "erfc": jax.scipy.special.erfc,
    "erfinv": jax.scipy.special.erfinv,
    "exp": jnp.exp,
    "exp2": jnp.exp2,
    "expm1": jnp.expm1,
    "floor": jnp.floor,
    "frac": lambda x: x - jnp.trunc(x),
    "isfinite": jnp.isfinite,
    "isinf": jnp.isinf,
    "isnan": jnp.isnan,
    "log": jnp.log,
    "log10": jnp.log10,
    "log1p": jnp.log1p,
    "log2": jnp.log2,
    "logical_not": jnp.logical_not,
    "neg": jnp.negative,
    "positive": lambda x: x,
    "reciprocal": lambda x: 1 / x,
    "round": jnp.round,
    "rsqrt": lambda x: lax.rsqrt(jnp.asarray(x)),
    "sgn": jnp.sign,
    "sign": jnp.sign,
    "sin": jnp.sin,
    "sinh": jnp.sinh,
    "sqrt": jnp.sqrt,
    "square": jnp.square,
    "tan": jnp.tan,
    "trunc": jnp.trunc,
}

_BINARY = {
    "atan2": jnp.arctan2,
    "bitwise_and": jnp.bitwise_and,
    "bitwise_or": jnp.bitwise_or,
    "bitwise_xor": jnp.bitwise_xor,
    "div": operator.truediv,
    "eq": jnp.equal,
    "floor_divide": jnp.floor_divide,
    "fmax": jnp.fmax,
    "fmin": jnp.fmin,
    "fmod": jnp.fmod,
    "ge": jnp.greater_equal,
    "gt": jnp.greater,
    "hypot": jnp.hypot,
    "le": jnp.less_equal,
    "logaddexp": jnp.logaddexp,
    "logical_and": jnp.logical_and,
    "logical_or": jnp.logical_or,
    "logical_xor": jnp.logical_xor,
    "lt": jnp.less,
    "maximum": jnp.maximum,
    "minimum": jnp.minimum,
    "mul": operator.mul,
    "ne": jnp.not_equal,
    "remainder": jnp.remainder,
}

# What graphs do with sizes, all of them integers known when a network is compiled.
_SIZES: dict[str, Any] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "floordiv": lambda a, b: a // b,
    "truediv": lambda a, b: a / b,
    "mod": lambda a, b: a % b,
    "pow": lambda a, b: a**b,
    "neg": lambda a: -a,
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b,
    "and_": lambda a, b: a and b,
    "or_": lambda a, b: a or b,
    "sym_not": lambda a: not a,
    "sym_float": lambda a: float(a),
    "sym_int": lambda a: int(a),
    "sym_max": lambda a, b: max(a, b),
    "sym_min": lambda a, b: min(a, b),
    "sym_ite": lambda b, t, f: t if b else f,
    "ceil": lambda a: int(np.ceil(a)),
    "floor": lambda a: int(np.floor(a)),
    "trunc": lambda a: int(a),
    "round": lambda a: round(a),
    "getitem": lambda parts, index: parts[index],
}

TABLE: dict[str, Any] = {
    **{f"aten.{name}.default": _unary(f) for name, f in _UNARY.items()},
    **{
        f"aten.{name}.{overload}": _binary(f)
        for name, f in _BINARY.items()
        for overload in ("Tensor", "Scalar", "default")
    },
    **_SIZES,
    "aten.add.Tensor": add,
    "aten.sub.Tensor": sub,
    "aten.rsub.Tensor": rsub,
    "aten.div.Tensor_mode": divide_mode,
    "aten.pow.Tensor_Scalar": lambda self, exponent: self**exponent,
    "aten.pow.Tensor_Tensor": lambda self, exponent: self**exponent,
    "aten.pow.Scalar": lambda self, exponent: self**exponent,
    "aten.clamp.default": clamp,
    "aten.clamp.Tensor": clamp,
    "aten.clamp_min.default": lambda self, min: clamp(self, min),
    "aten.clamp_max.default": lambda self, max: clamp(self, None, max),
    "aten.where.self": where,
    "aten.masked_fill.Scalar": masked_fill,
    "aten.nan_to_num.default": nan_to_num,
    "aten.lerp.Scalar": lerp,
    "aten.lerp.Tensor": lerp,
    "aten.addcmul.default": addcmul,
    "aten.addcdiv.default": addcdiv,
    "aten.logit.default": logit,
    "aten.to.dtype": cast,
    "aten.type_as.default": type_as,
}
