"""Optimizers by name, see `free_jax.optimizers`."""

from typing import Any

import optax

from free_jax import optimizers


def optimizer(config: Any) -> optax.GradientTransformation:
    """The optimizer that a section of a config names, a mapping or a ConfigDict."""
    plain = config.to_dict() if hasattr(config, "to_dict") else config
    return optimizers.optimizer(plain)
