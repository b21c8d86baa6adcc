"""Pools of pre-trained teachers, in memory and on disk."""

from free_jax.zoo.checkpoint import load_zoo, save_zoo
from free_jax.zoo.disjoint import disjoint
from free_jax.zoo.pool import Zoo, ZooGroup, merge, stack, subset, take

__all__ = [
    "Zoo",
    "ZooGroup",
    "disjoint",
    "load_zoo",
    "merge",
    "save_zoo",
    "stack",
    "subset",
    "take",
]
