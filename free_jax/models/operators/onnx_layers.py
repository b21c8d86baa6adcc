"""ONNX's softmaxes, normalisations and attention."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from free_jax.models.operators.normalization import (
    group_norm,
    layer_norm,
    normalize_channels,
    rms_norm,
)
from free_jax.models.operators.onnx_static import array


def softmax(x, axis=-1, flattened=0, log=0):
    """Exponentials that sum to one; before opset 13 over all axes from `axis` on."""
    function = jax.nn.log_softmax if log else jax.nn.softmax
    if not flattened:
        return function(x, axis)
    flat = x.reshape(math.prod(x.shape[: axis % x.ndim]), -1)
    return function(flat, -1).reshape(x.shape)


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


TABLE: dict[str, Any] = {
    "onnx.Attention": attention,
    "onnx.BatchNormalization": batch_normalization,
    "onnx.GroupNormalization": group_normalization,
    "onnx.InstanceNormalization": instance_normalization,
    "onnx.LRN": local_response,
    "onnx.LayerNormalization": layer_normalization,
    "onnx.LogSoftmax": functools.partial(softmax, log=1),
    "onnx.LpNormalization": lp_normalization,
    "onnx.MeanVarianceNormalization": standardize,
    "onnx.RMSNormalization": rms_normalization,
    "onnx.Softmax": softmax,
}
