"""The operators of ONNX, "onnx.X", as plain functions of arrays.

Inputs are positional in ONNX's order (None where one is left out), attributes are
keywords; what older opsets wrote as attributes `interop.onnx_forms` turns into inputs.
Batch norms, softmaxes and heads never come here: they are spelled as ATen's.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from free_jax.errors import InputError
from free_jax.models.operators import activations, onnx_static, onnx_windows
from free_jax.models.operators.normalization import (
    group_norm,
    layer_norm,
    normalize_channels,
    rms_norm,
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


def softmax(x, axis=-1, flattened=0, log=0):
    """Exponentials that sum to one; before opset 13 over all axes from `axis` on."""
    function = jax.nn.log_softmax if log else jax.nn.softmax
    if not flattened:
        return function(x, axis)
    flat = x.reshape(math.prod(x.shape[: axis % x.ndim]), -1)
    return function(flat, -1).reshape(x.shape)


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


def cumsum(x, axis, exclusive=0, reverse=0):
    """Running sums along an axis."""
    x, axis = jnp.asarray(array(x)), integers(axis)[0]
    x = jnp.flip(x, axis) if reverse else x
    out = jnp.cumsum(x, axis)
    out = out - x if exclusive else out
    return jnp.flip(out, axis) if reverse else out


def layer_normalization(x, scale, bias=None, axis=-1, epsilon=1e-5, stash_type=1):
    """Standardises the axes from `axis` on."""
    return layer_norm(x, x.shape[axis % x.ndim :], scale, bias, epsilon)


def rms_normalization(x, scale, axis=-1, epsilon=1e-5, stash_type=1):
    """Divides the axes from `axis` on by their root mean square."""
    return rms_norm(x, x.shape[axis % x.ndim :], scale, epsilon)


def group_normalization(x, scale, bias, num_groups, epsilon=1e-5, stash_type=1):
    """Standardises groups of channels; scales one a channel or one a group."""
    channels = x.shape[1]
    if scale.shape[0] != channels:
        scale, bias = (
            jnp.repeat(jnp.asarray(v), channels // num_groups) for v in (scale, bias)
        )
    return group_norm(x, num_groups, jnp.asarray(scale), jnp.asarray(bias), epsilon)


def instance_normalization(x, scale, bias, epsilon=1e-5):
    """Standardises each channel of each image."""
    scale, bias = jnp.asarray(scale), jnp.asarray(bias)
    return group_norm(x, x.shape[1], scale, bias, epsilon)


def batch_normalization(x, scale, bias, mean, var, epsilon=1e-5):
    """Affine map of each channel; `models.graph.Graph` runs those with statistics."""
    scale, bias, mean, var = (
        jnp.asarray(array(value)) for value in (scale, bias, mean, var)
    )
    return normalize_channels(x, scale, bias, mean, var, epsilon)


def local_response(x, size, alpha=1e-4, beta=0.75, bias=1.0):
    """Divides by a power of the sum of squares over neighbouring channels."""
    sides = [(0, 0), ((size - 1) // 2, size // 2)] + [(0, 0)] * (x.ndim - 2)
    window = (1, size) + (1,) * (x.ndim - 2)
    total = lax.reduce_window(jnp.square(x), 0.0, lax.add, window, (1,) * x.ndim, sides)
    return x / (bias + alpha / size * total) ** beta


def lp_normalization(x, axis=-1, p=2):
    """Divides by the norm along an axis."""
    if p == 1:
        return x / jnp.abs(x).sum(axis, keepdims=True)
    return x / jnp.sqrt(jnp.square(x).sum(axis, keepdims=True))


def standardize(x, axes=(0, 2, 3)):
    """Mean zero and deviation one over axes."""
    mean = x.mean(tuple(axes), keepdims=True)
    var = jnp.square(x - mean).mean(tuple(axes), keepdims=True)
    return (x - mean) / (jnp.sqrt(var) + 1e-9)


def attention(
    q,
    k,
    v,
    mask=None,
    is_causal=0,
    kv_num_heads=None,
    q_num_heads=None,
    scale=None,
    softcap=0.0,
    softmax_precision=None,
    qk_matmul_output_mode=0,
):
    """Scaled dot-product attention of [n, heads, s, d], or [n, s, heads * d]."""

    def apart(x, heads):
        if x.ndim == 4:
            return x
        n, s, d = x.shape
        return x.reshape(n, s, heads, d // heads).swapaxes(1, 2)

    joined = q.ndim == 3
    q, k, v = apart(q, q_num_heads), apart(k, kv_num_heads), apart(v, kv_num_heads)
    if q.shape[1] != k.shape[1]:
        k, v = (jnp.repeat(x, q.shape[1] // x.shape[1], 1) for x in (k, v))
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    scores = (q @ k.swapaxes(-1, -2)) * scale
    if softcap:
        scores = softcap * jnp.tanh(scores / softcap)
    if is_causal:
        allowed = np.tril(np.ones(scores.shape[-2:], bool))
        scores = jnp.where(allowed, scores, -jnp.inf)
    if mask is not None:
        mask = jnp.asarray(mask)
        boolean = mask.dtype == bool
        scores = jnp.where(mask, scores, -jnp.inf) if boolean else scores + mask
    out = jax.nn.softmax(scores, -1) @ v
    if joined:
        n, heads, s, d = out.shape
        out = out.swapaxes(1, 2).reshape(n, s, heads * d)
    return out


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
    **onnx_windows.TABLE,
    **{f"onnx.{name}": function for name, function in _PLAIN.items()},
    **{f"onnx.{name}": either(*pair) for name, pair in EITHER.items()},
    **{f"onnx.{name}": function for name, function in _REDUCTIONS.items()},
    "onnx.ArgMax": _where_largest(jnp.argmax),
    "onnx.ArgMin": _where_largest(jnp.argmin),
    "onnx.Attention": attention,
    "onnx.BatchNormalization": batch_normalization,
    "onnx.Clip": clip,
    "onnx.CumSum": cumsum,
    "onnx.DequantizeLinear": dequantize,
    "onnx.Div": div,
    "onnx.Einsum": einsum,
    "onnx.Gemm": gemm,
    "onnx.GroupNormalization": group_normalization,
    "onnx.HardSigmoid": hard_sigmoid,
    "onnx.InstanceNormalization": instance_normalization,
    "onnx.LRN": local_response,
    "onnx.LayerNormalization": layer_normalization,
    "onnx.LogSoftmax": functools.partial(softmax, log=1),
    "onnx.LpNormalization": lp_normalization,
    "onnx.MatMul": matmul,
    "onnx.Max": _fold(np.maximum, jnp.maximum),
    "onnx.Mean": _mean,
    "onnx.MeanVarianceNormalization": standardize,
    "onnx.Min": _fold(np.minimum, jnp.minimum),
    "onnx.Mod": mod,
    "onnx.PRelu": prelu,
    "onnx.Pow": power,
    "onnx.RMSNormalization": rms_normalization,
    "onnx.Shrink": shrink,
    "onnx.Softmax": softmax,
    "onnx.Sum": _fold(np.add, jnp.add),
    "onnx.TopK": top_k,
}
