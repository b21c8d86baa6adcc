"""Algorithms: pairs of pure functions that train a meta-model."""

from free_jax.algorithm import Algorithm
from free_jax.algorithms.bidf import bidf
from free_jax.algorithms.episodic import episodic
from free_jax.algorithms.free import free
from free_jax.algorithms.purer import purer
from free_jax.algorithms.tgr import tgr
from free_jax.algorithms.trustworthy import trustworthy

__all__ = [
    "Algorithm",
    "bidf",
    "episodic",
    "free",
    "purer",
    "tgr",
    "trustworthy",
]
