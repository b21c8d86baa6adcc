"""Optimizers by name, see `free_jax.optimizers`."""

from free_jax.optimizers import optimizer

__all__ = ["optimizer"]
