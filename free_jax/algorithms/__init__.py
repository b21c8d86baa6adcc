"""Algorithms: pairs of pure functions that train a meta-model."""

from free_jax.algorithms.base import Algorithm
from free_jax.algorithms.episodic import episodic
from free_jax.algorithms.free import free

__all__ = ["Algorithm", "episodic", "free"]
