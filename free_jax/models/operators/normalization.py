"""Normalisations within an image, and what a graph's batch norm computes."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from free_jax.models.operators.kinds import per_channel


def moments(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and biased variance [c] of [n, c, ...], in at least float32."""
    axes = (0, *range(2, x.ndim))
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    mean = wide.mean(axes)
    # Two passes: E[x^2] - E[x]^2 loses the variance of far-from-zero inputs.
    return mean, jnp.square(wide - per_channel(mean, x.ndim)).mean(axes)


def normalize_channels(x, weight, bias, mean, var, eps, axis=1):
    """Affine map of each channel of [n, c, ...] that given moments make standard.

    With ``axis`` -1, channels are last.
    """
    factor = lax.rsqrt(var + eps)
    if weight is not None:
        factor = weight * factor
    offset = -mean * factor
    if bias is not None:
        offset = bias + offset
    factor, offset = factor.astype(x.dtype), offset.astype(x.dtype)
    if axis == 1:
        factor, offset = (per_channel(v, x.ndim) for v in (factor, offset))
    return x * factor + offset


def batch_norm(
    input,
    weight=None,
    bias=None,
    running_mean=None,
    running_var=None,
    training=False,
    eps=1e-5,
):
    """A batch norm that keeps no statistics, or whose statistics are computed."""
    if running_mean is None or running_var is None or training:
        running_mean, running_var = moments(input)
    return normalize_channels(input, weight, bias, running_mean, running_var, eps)


def layer_norm(input, normalized_shape, weight=None, bias=None, eps=1e-5):
    """Standardises the last axes."""
    axes = tuple(range(input.ndim - len(normalized_shape), input.ndim))
    centered = input - input.mean(axes, keepdims=True)
    var = jnp.square(centered).mean(axes, keepdims=True)
    out = centered * lax.rsqrt(var + eps)
    if weight is not None:
        out = out * weight
    return out if bias is None else out + bias


def group_norm(input, num_groups, weight=None, bias=None, eps=1e-5):
    """Standardises groups of channels of each image."""
    x = input.reshape(input.shape[0], num_groups, -1)
    centered = x - x.mean(-1, keepdims=True)
    var = jnp.square(centered).mean(-1, keepdims=True)
    out = (centered * lax.rsqrt(var + eps)).reshape(input.shape)
    if weight is not None:
        out = out * per_channel(weight, input.ndim)
    return out if bias is None else out + per_channel(bias, input.ndim)


def native_group_norm(input, weight, bias, N, C, HxW, group, eps):
    """`group_norm` by its inner name; the result is the first of three."""
    return (group_norm(input, group, weight, bias, eps),)


def native_layer_norm(input, normalized_shape, weight, bias, eps):
    """`layer_norm` by its inner name; the result is the first of three."""
    return (layer_norm(input, normalized_shape, weight, bias, eps),)


def instance_norm(
    input, weight, bias, running_mean, running_var, use_input_stats, eps=1e-5
):
    """Standardises each channel of each image, or by kept statistics."""
    if use_input_stats or running_mean is None:
        return group_norm(input, input.shape[1], weight, bias, eps)
    return normalize_channels(input, weight, bias, running_mean, running_var, eps)


def rms_norm(input, normalized_shape, weight=None, eps=None):
    """Divides the last axes by their root mean square."""
    axes = tuple(range(input.ndim - len(normalized_shape), input.ndim))
    eps = float(jnp.finfo(input.dtype).eps) if eps is None else eps
    out = input * lax.rsqrt(jnp.square(input).mean(axes, keepdims=True) + eps)
    return out if weight is None else out * weight


def weight_norm(v, g, dim=0):
    """A direction times a length, one for each index of an axis."""
    axes = tuple(i for i in range(v.ndim) if i != dim)
    return v * (g / jnp.sqrt(jnp.square(v).sum(axes, keepdims=True)))


def local_response_norm(x: jax.Array, size: int, alpha: float, beta: float, k: float):
    """Divides by a power of the mean square over neighbouring channels."""
    sides = [(0, 0), (size // 2, (size - 1) // 2)] + [(0, 0)] * (x.ndim - 2)
    window = (1, size) + (1,) * (x.ndim - 2)
    total = lax.reduce_window(jnp.square(x), 0.0, lax.add, window, (1,) * x.ndim, sides)
    return x / (k + alpha / math.prod(window) * total) ** beta


TABLE: dict[str, Any] = {
    "aten.batch_norm.default": batch_norm,
    "aten.group_norm.default": group_norm,
    "aten.instance_norm.default": instance_norm,
    "aten.layer_norm.default": layer_norm,
    "aten.native_group_norm.default": native_group_norm,
    "aten.native_layer_norm.default": native_layer_norm,
    "aten.rms_norm.default": rms_norm,
    "aten._fused_rms_norm.default": lambda input, normalized_shape, weight, eps: (
        rms_norm(input, normalized_shape, weight, eps),
    ),
    "aten._weight_norm.default": weight_norm,
    "aten._weight_norm_interface.default": lambda v, g, dim=0: (
        weight_norm(v, g, dim),
    ),
}
