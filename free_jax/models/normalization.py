"""Batch normalisation without hidden state.

One layer serves teachers, generator and meta-model.  It never updates anything: it
reports the moments of its input in the collection ``moments``, a tree of the same
structure as ``batch_stats``.  Matching statistics, keeping running averages and
normalising queries by support statistics are then plain `jax.tree.map` calls.
"""

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from free_jax.models.cpu.pooling import max_pool_2x2

Norm = Literal["batch", "running"]


class BatchNorm(nn.Module):
    """Normalises over all axes but the last.

    Attributes:
      epsilon: added to the variance.
      scale_init, bias_init: initialisers of the affine parameters.
    """

    epsilon: float = 1e-5
    scale_init: nn.initializers.Initializer = nn.initializers.ones
    bias_init: nn.initializers.Initializer = nn.initializers.zeros

    @nn.compact
    def __call__(
        self, x: jax.Array, *, norm: Norm, max_pool: bool = False
    ) -> jax.Array:
        """Normalises by the batch's own moments or by ``batch_stats``.

        Args:
          x: [..., c].
          norm: "batch" uses the biased moments of `x`; "running" uses the variables
            ``batch_stats/{mean,var}``.
          max_pool: halve rows and columns of the result, see `pooling.max_pool_2x2`.

        Returns:
          The same shape as `x`, unless pooled.  ``moments/{mean,var}`` of `x` are sown
          in both modes and cost nothing unless the collection is mutable.
        """
        c = x.shape[-1]
        scale = self.param("scale", self.scale_init, (c,))
        bias = self.param("bias", self.bias_init, (c,))
        wants_moments = norm == "batch" or self.is_mutable_collection("moments")
        if wants_moments:
            axes = tuple(range(x.ndim - 1))
            wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
            mean = wide.mean(axes)
            # Two passes: E[x^2] - E[x]^2 loses the variance of far-from-zero inputs.
            var = jnp.square(wide - mean).mean(axes)
            for name, value in (("mean", mean), ("var", var)):
                self.sow(
                    "moments",
                    name,
                    value,
                    reduce_fn=lambda _, new: new,
                    init_fn=lambda: jnp.zeros(()),  # never used: see reduce_fn
                )
        if norm == "running" or self.is_initializing():
            running_mean = self.variable("batch_stats", "mean", jnp.zeros, (c,))
            running_var = self.variable("batch_stats", "var", jnp.ones, (c,))
            if norm == "running":
                mean, var = running_mean.value, running_var.value
        factor = scale * jax.lax.rsqrt(var + self.epsilon)
        offset = bias - mean * factor
        if max_pool:
            # An affine map is monotone, so that it may come after: equal to the bit,
            # a quarter of the work, and its gradients are sums at low resolution.
            sign = jnp.where(factor < 0, -1, 1).astype(x.dtype)
            x = sign * max_pool_2x2(sign * x)
        return x * factor.astype(x.dtype) + offset.astype(x.dtype)
