"""Matrix products and attention."""

from typing import Any

import jax
import jax.numpy as jnp


def linear(input, weight, bias=None):
    """``input @ weight.T + bias``."""
    out = input @ jnp.asarray(weight).T
    return out if bias is None else out + bias


def addmm(self, mat1, mat2, beta=1, alpha=1):
    """``beta * self + alpha * mat1 @ mat2``."""
    product = mat1 @ mat2
    product = product if alpha == 1 else alpha * product
    return product + (self if beta == 1 else beta * self)


def bilinear(input1, input2, weight, bias=None):
    """One bilinear form of two inputs for each output."""
    out = jnp.einsum("...i,oij,...j->...o", input1, weight, input2)
    return out if bias is None else out + bias


def scaled_dot_product_attention(
    query,
    key,
    value,
    attn_mask=None,
    dropout_p=0.0,
    is_causal=False,
    scale=None,
    enable_gqa=False,
):
    """Softmax of the queries' products with the keys, times the values.

    Args:
      query: [..., q, d].
      key: [..., k, d].
      value: [..., k, e].
      attn_mask: [..., q, k]; true where a key is seen, or numbers to add.
      dropout_p: of no effect outside training.
      is_causal: queries see the keys up to their own place.
      scale: of the products; None: 1 / sqrt(d).
      enable_gqa: keys and values have fewer heads, each used several times.

    Returns:
      [..., q, e].
    """
    if enable_gqa:
        times = query.shape[-3] // key.shape[-3]
        key, value = (jnp.repeat(x, times, axis=-3) for x in (key, value))
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    scores = query @ jnp.swapaxes(key, -1, -2) * scale
    if is_causal:
        seen = jnp.tril(jnp.ones(scores.shape[-2:], bool))
        scores = jnp.where(seen, scores, -jnp.inf)
    if attn_mask is not None:
        if attn_mask.dtype == bool:
            scores = jnp.where(attn_mask, scores, -jnp.inf)
        else:
            scores = scores + attn_mask
    return jax.nn.softmax(scores, -1) @ value


def _product(self, other):
    return jnp.asarray(self) @ other


def einsum(equation, tensors):
    """Sum of products by the names of their axes."""
    return jnp.einsum(equation, *tensors)


TABLE: dict[str, Any] = {
    "aten.addmm.default": addmm,
    "aten.addmv.default": addmm,
    "aten.baddbmm.default": addmm,
    "aten.bilinear.default": bilinear,
    "aten.bmm.default": lambda self, mat2: _product(self, mat2),
    "aten.dot.default": lambda self, tensor: _product(self, tensor),
    "aten.einsum.default": einsum,
    "aten.linear.default": linear,
    "aten.matmul.default": _product,
    "aten.mm.default": lambda self, mat2: _product(self, mat2),
    "aten.mv.default": lambda self, vec: _product(self, vec),
    "aten.outer.default": lambda self, vec2: jnp.outer(self, vec2),
    "aten.vdot.default": lambda self, other: _product(self, other),
    "aten.scaled_dot_product_attention.default": scaled_dot_product_attention,
}
