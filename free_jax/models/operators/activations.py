"""Activations, with PyTorch's gradients where a function has a corner."""

from typing import Any

import jax
import jax.numpy as jnp

from free_jax.models.operators.kinds import per_channel


def hardtanh(self, min_val=-1.0, max_val=1.0):
    """Limits values; a value at a limit has no gradient."""
    return jnp.where(
        self <= min_val, min_val, jnp.where(self >= max_val, max_val, self)
    )


def relu6(self):
    """Values in [0, 6]."""
    return hardtanh(self, 0.0, 6.0)


def leaky_relu(self, negative_slope=0.01):
    """Scales what is negative."""
    return jnp.where(self > 0, self, negative_slope * self)


def elu(self, alpha=1.0, scale=1.0, input_scale=1.0):
    """Exponential below zero."""
    below = alpha * jnp.expm1(jnp.where(self > 0, 0.0, self) * input_scale)
    return scale * jnp.where(self > 0, self, below)


def celu(self, alpha=1.0):
    """ELU whose slope at zero is one."""
    return elu(self, alpha, 1.0, 1.0 / alpha)


def selu(self):
    """Self-normalising ELU."""
    return elu(self, 1.6732632423543772, 1.0507009873554805)


def prelu(self, weight):
    """Leaky ReLU with a learned slope, one or one a channel."""
    if weight.ndim == 1:
        weight = per_channel(weight, self.ndim) if self.ndim > 1 else weight
    return jnp.where(self > 0, self, weight * self)


def rrelu(self, lower=1 / 8, upper=1 / 3):
    """Leaky ReLU; the slope is the middle of its range outside training."""
    return leaky_relu(self, (lower + upper) / 2)


def gelu(self, approximate="none"):
    """Gaussian error linear unit, exact or by tanh."""
    return jax.nn.gelu(self, approximate=approximate == "tanh")


def softplus(self, beta=1.0, threshold=20.0):
    """Smooth ReLU, linear far above zero."""
    scaled = self * beta
    small = jnp.where(scaled > threshold, 0.0, scaled)
    return jnp.where(scaled > threshold, self, jax.nn.softplus(small) / beta)


def hardsigmoid(self):
    """Piecewise linear sigmoid."""
    return relu6(self + 3.0) / 6.0


def hardswish(self):
    """Values times their `hardsigmoid`."""
    return self * hardsigmoid(self)


def hardshrink(self, lambd=0.5):
    """Zero within ``lambd`` of zero."""
    return jnp.where(jnp.abs(self) > lambd, self, 0.0)


def softshrink(self, lambd=0.5):
    """Moves values towards zero by ``lambd``."""
    return jnp.where(
        self > lambd, self - lambd, jnp.where(self < -lambd, self + lambd, 0.0)
    )


def threshold(self, threshold, value):
    """``value`` where the input does not exceed the threshold."""
    return jnp.where(self > threshold, self, value)


def glu(self, dim=-1):
    """The first half of the channels, gated by the second."""
    first, second = jnp.split(self, 2, axis=dim)
    return first * jax.nn.sigmoid(second)


def softmax(self, dim, dtype=None):
    """Exponentials that sum to one."""
    return jax.nn.softmax(self, axis=dim)


def log_softmax(self, dim, dtype=None):
    """Logarithm of `softmax`."""
    return jax.nn.log_softmax(self, axis=dim)


_PLAIN = {
    "log_sigmoid": jax.nn.log_sigmoid,
    "mish": jax.nn.mish,
    "relu": jax.nn.relu,
    "sigmoid": jax.nn.sigmoid,
    "silu": jax.nn.silu,
    "softsign": jax.nn.soft_sign,
    "tanh": jnp.tanh,
}


def _plain(function):
    return lambda self: function(self)


TABLE: dict[str, Any] = {
    **{f"aten.{name}.default": _plain(f) for name, f in _PLAIN.items()},
    "aten._prelu_kernel.default": prelu,
    "aten.celu.default": celu,
    "aten.elu.default": elu,
    "aten.gelu.default": gelu,
    "aten.glu.default": glu,
    "aten.hardshrink.default": hardshrink,
    "aten.hardsigmoid.default": hardsigmoid,
    "aten.hardswish.default": hardswish,
    "aten.hardtanh.default": hardtanh,
    "aten.leaky_relu.default": leaky_relu,
    "aten.log_softmax.int": log_softmax,
    "aten.prelu.default": prelu,
    "aten.relu6.default": relu6,
    "aten.rrelu.default": rrelu,
    "aten.selu.default": selu,
    "aten.softmax.int": softmax,
    "aten.softplus.default": softplus,
    "aten.softshrink.default": softshrink,
    "aten.threshold.default": threshold,
}
