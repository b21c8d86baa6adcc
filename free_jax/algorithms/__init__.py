"""Algorithms: pairs of pure functions that train a meta-model."""

from free_jax.algorithms.base import Algorithm
from free_jax.algorithms.bidf import bidf
from free_jax.algorithms.episodic import episodic
from free_jax.algorithms.free import free
from free_jax.algorithms.panel_distillation import Described, panel_distillation
from free_jax.algorithms.purer import purer

__all__ = [
    "Algorithm",
    "Described",
    "bidf",
    "episodic",
    "free",
    "panel_distillation",
    "purer",
]
