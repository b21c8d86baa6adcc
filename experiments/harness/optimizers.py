"""Optimizers that a section of a config names, see `free_jax.optimizers`."""

from collections.abc import Mapping
from typing import Any

import optax

from free_jax import optimizers


def optimizer(config: Mapping[str, Any]) -> optax.GradientTransformation:
    """Builds the optax optimizer of a section ``dict(name=..., kwargs=...)``.

    Raises:
      InputError: optax has no such optimizer, or it takes other arguments.
    """
    # A section of a ConfigDict is no Mapping; without importing ml_collections.
    plain = getattr(config, "to_dict", None)
    return optimizers.optimizer(plain() if plain else config)
