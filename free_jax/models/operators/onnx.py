"""The operators of ONNX, "onnx.X", as plain functions of arrays.

Inputs are positional in ONNX's order (None where one is left out), attributes are
keywords; what older opsets wrote as attributes `interop.onnx_forms` turns into inputs.
Batch norms, softmaxes and heads never come here: they are spelled as ATen's.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from free_jax.errors import InputError
from free_jax.models.operators import (
    activations,
    onnx_layers,
    onnx_static,
    onnx_windows,
)
from free_jax.models.operators.onnx_static import array, either, integers, static
from free_jax.models.operators.reductions import topk


def _integral(*values) -> bool:
    return all(jnp.issubdtype(jnp.result_type(v), jnp.integer) for v in values)


def div(a, b):
    """Quotient; of integers, cut towards zero."""
    a, b = array(a), array(b)
    if not _integral(a, b):
        return a / b
    if static(a, b):
        return np.trunc(np.asarray(a) / np.asarray(b)).astype(np.int64)
    return jnp.trunc(a / b).astype(jnp.int32)


def mod(a, b, fmod=0):
    """Remainder, with the divisor's sign (`fmod`: with the dividend's)."""
    a, b = array(a), array(b)
    module = np if static(a, b) else jnp
    return module.fmod(a, b) if fmod else module.remainder(a, b)


def power(a, b):
    """``a ** b``; a known whole exponent is repeated multiplication."""
    a, b = array(a), array(b)
    if static(a, b):
        return np.power(a, b)
    if static(b) and np.size(b) == 1 and np.ndim(b) <= np.ndim(a):
        exponent = float(np.asarray(b).reshape(()))
        whole = exponent == int(exponent) and abs(exponent) <= 8
        return a ** (int(exponent) if whole else exponent)
    return jnp.power(a, b)


def clip(x, low=None, high=None):
    """Limits values."""
    return (np if static(x, low, high) else jnp).clip(x, low, high)


def prelu(x, slope):
    """Leaky ReLU with a learned slope."""
    return jnp.where(x > 0, x, jnp.asarray(array(slope)) * x)


def hard_sigmoid(x, alpha=0.2, beta=0.5):
    """Piecewise linear sigmoid."""
    return jnp.clip(alpha * x + beta, 0, 1)


def shrink(x, bias=0.0, lambd=0.5):
    """Zero within ``lambd`` of zero; the rest moves by ``bias``."""
    return jnp.where(x < -lambd, x + bias, jnp.where(x > lambd, x - bias, 0.0))


def matmul(a, b):
    """Matrix product."""
    return jnp.matmul(jnp.asarray(array(a)), jnp.asarray(array(b)))


def gemm(a, b, c=None, alpha=1.0, beta=1.0, transA=0, transB=0):
    """``alpha * a @ b + beta * c``."""
    a, b = jnp.asarray(array(a)), jnp.asarray(array(b))
    out = (a.T if transA else a) @ (b.T if transB else b)
    out = out if alpha == 1 else alpha * out
    if c is None:
        return out
    c = jnp.asarray(array(c))
    return out + (c if beta == 1 else beta * c)


def einsum(*values, equation):
    """Sums of products by index letters."""
    return jnp.einsum(equation, *(jnp.asarray(array(value)) for value in values))


def dequantize(x, scale, zero=None, axis=1, block_size=0, output_dtype=0):
    """Weights that are stored as integers, as numbers."""
    if not static(x, scale, zero) or block_size:
        raise InputError("a quantised network (DequantizeLinear of activations)")
    x, scale = np.asarray(x), np.asarray(scale, np.float32)
    shape = [1] * x.ndim
    if scale.size > 1:
        shape[axis] = scale.size
    zero = 0 if zero is None else np.asarray(zero, np.float32).reshape(shape)
    return (x.astype(np.float32) - zero) * scale.reshape(shape)


def _reduce(function):
    def reduce(x, axes=None, keepdims=1, noop_with_empty_axes=0):
        x = array(x)
        which = None if axes is None else tuple(integers(axes))
        if not which:
            if noop_with_empty_axes:
                return x
            which = None
        return function(x, axis=which, keepdims=bool(keepdims))

    return reduce


def _sums(before, after=lambda x: x):
    return _reduce(lambda x, **axes: after(jnp.sum(before(x), **axes)))


def _root(x):
    """Square root whose gradient at zero is zero."""
    return jnp.where(x > 0, jnp.sqrt(jnp.where(x > 0, x, 1)), 0)


def _where_largest(function):
    def find(x, axis=0, keepdims=1, select_last_index=0):
        if not select_last_index:
            return function(x, axis, keepdims=bool(keepdims))
        last = x.shape[axis] - 1
        return last - function(jnp.flip(x, axis), axis, keepdims=bool(keepdims))

    return find


def top_k(x, k, axis=-1, largest=1, sorted=1):
    """The largest (or smallest) values along an axis, and where they stand."""
    return topk(x, integers(k)[0], axis, bool(largest))


def split_to_sequence(x, split=None, axis=0, keepdims=1):
    """Parts of an axis, of one size or of sizes that are given, as one value."""
    size = x.shape[axis]
    if split is None or np.ndim(split) == 0:
        each = 1 if split is None else integers(split)[0]
        split = [min(each, size - i) for i in range(0, size, each)]
        if each == 1 and not keepdims:
            return tuple(part.squeeze(axis) for part in jnp.split(x, size, axis))
    return onnx_static.split(x, split, axis)


def concat_from_sequence(values, axis, new_axis=0):
    """Joins the parts of a sequence."""
    return (jnp.stack if new_axis else jnp.concatenate)(values, axis)


def cumsum(x, axis, exclusive=0, reverse=0):
    """Running sums along an axis."""
    x, axis = jnp.asarray(array(x)), integers(axis)[0]
    x = jnp.flip(x, axis) if reverse else x
    out = jnp.cumsum(x, axis)
    out = out - x if exclusive else out
    return jnp.flip(out, axis) if reverse else out


def _fold(with_numpy, with_jax):
    return either(
        lambda *values: functools.reduce(with_numpy, values),
        lambda *values: functools.reduce(with_jax, values),
    )


def _mean(*values):
    return functools.reduce(lambda a, b: a + b, map(array, values)) / len(values)


_PLAIN = {
    "Acos": jnp.arccos,
    "Asin": jnp.arcsin,
    "Asinh": jnp.arcsinh,
    "Atan": jnp.arctan,
    "Cosh": jnp.cosh,
    "Erf": lambda x: lax.erf(jnp.asarray(x)),
    "IsInf": jnp.isinf,
    "IsNaN": jnp.isnan,
    "Mish": jax.nn.mish,
    "Relu": jax.nn.relu,
    "Selu": lambda x, alpha=1.6732632, gamma=1.050701: activations.elu(x, alpha, gamma),
    "Sigmoid": jax.nn.sigmoid,
    "Sinh": jnp.sinh,
    "Softplus": jax.nn.softplus,
    "Softsign": jax.nn.soft_sign,
    "Tan": jnp.tan,
    "Tanh": jnp.tanh,
    # With parameters.
    "Celu": lambda x, alpha=1.0: activations.celu(x, alpha),
    "Elu": lambda x, alpha=1.0: activations.elu(x, alpha),
    "Gelu": lambda x, approximate="none": activations.gelu(x, approximate),
    "HardSwish": lambda x: x * hard_sigmoid(x, 1 / 6, 0.5),
    "LeakyRelu": lambda x, alpha=0.01: activations.leaky_relu(x, alpha),
    "Swish": lambda x, alpha=1.0: x * jax.nn.sigmoid(alpha * x),
    "ThresholdedRelu": lambda x, alpha=1.0: jnp.where(x > alpha, x, 0),
}

# Operators on sizes as well as on images: NumPy's function and JAX's.
EITHER = {
    "Abs": (np.abs, jnp.abs),
    "Add": (np.add, jnp.add),
    "And": (np.logical_and, jnp.logical_and),
    "Ceil": (np.ceil, jnp.ceil),
    "Cos": (np.cos, jnp.cos),
    "Equal": (np.equal, jnp.equal),
    "Exp": (np.exp, jnp.exp),
    "Floor": (np.floor, jnp.floor),
    "Greater": (np.greater, jnp.greater),
    "GreaterOrEqual": (np.greater_equal, jnp.greater_equal),
    "Less": (np.less, jnp.less),
    "LessOrEqual": (np.less_equal, jnp.less_equal),
    "Log": (np.log, jnp.log),
    "Mul": (np.multiply, jnp.multiply),
    "Neg": (np.negative, jnp.negative),
    "Not": (np.logical_not, jnp.logical_not),
    "Or": (np.logical_or, jnp.logical_or),
    "Reciprocal": (np.reciprocal, jnp.reciprocal),
    "Round": (np.round, jnp.round),
    "Sign": (np.sign, jnp.sign),
    "Sin": (np.sin, jnp.sin),
    "Sqrt": (np.sqrt, jnp.sqrt),
    "Sub": (np.subtract, jnp.subtract),
    "Where": (np.where, jnp.where),
    "Xor": (np.logical_xor, jnp.logical_xor),
}

# Of values at one place, whatever the axes.
ELEMENTWISE = frozenset(f"onnx.{name}" for name in (*_PLAIN, *EITHER))

_REDUCTIONS = {
    "ReduceL1": _sums(jnp.abs),
    "ReduceL2": _sums(jnp.square, _root),
    "ReduceLogSum": _sums(lambda x: x, jnp.log),
    "ReduceLogSumExp": _reduce(jax.nn.logsumexp),
    "ReduceMax": _reduce(jnp.max),
    "ReduceMean": _reduce(jnp.mean),
    "ReduceMin": _reduce(jnp.min),
    "ReduceProd": _reduce(
        lambda x, **axes: np.prod(x, **axes) if static(x) else jnp.prod(x, **axes)
    ),
    "ReduceSum": _reduce(
        lambda x, **axes: np.sum(x, **axes) if static(x) else jnp.sum(x, **axes)
    ),
    "ReduceSumSquare": _sums(jnp.square),
}

TABLE: dict[str, Any] = {
    **onnx_static.TABLE,
    **onnx_layers.TABLE,
    **onnx_windows.TABLE,
    **{f"onnx.{name}": function for name, function in _PLAIN.items()},
    **{f"onnx.{name}": either(*pair) for name, pair in EITHER.items()},
    **{f"onnx.{name}": function for name, function in _REDUCTIONS.items()},
    "onnx.ArgMax": _where_largest(jnp.argmax),
    "onnx.ArgMin": _where_largest(jnp.argmin),
    "onnx.Clip": clip,
    "onnx.ConcatFromSequence": concat_from_sequence,
    "onnx.CumSum": cumsum,
    "onnx.DequantizeLinear": dequantize,
    "onnx.Div": div,
    "onnx.Einsum": einsum,
    "onnx.Gemm": gemm,
    "onnx.HardSigmoid": hard_sigmoid,
    "onnx.MatMul": matmul,
    "onnx.Max": _fold(np.maximum, jnp.maximum),
    "onnx.Mean": _mean,
    "onnx.Min": _fold(np.minimum, jnp.minimum),
    "onnx.Mod": mod,
    "onnx.PRelu": prelu,
    "onnx.Pow": power,
    "onnx.SequenceAt": lambda values, place: values[integers(place)[0]],
    "onnx.SequenceConstruct": lambda *values: values,
    "onnx.Shrink": shrink,
    "onnx.SplitToSequence": split_to_sequence,
    "onnx.Sum": _fold(np.add, jnp.add),
    "onnx.TopK": top_k,
}
