"""Pools of pre-trained teachers, in memory and on disk."""

from free_jax.zoo.assembly import Assembled, Teacher, assemble
from free_jax.zoo.checkpoint import load_zoo, save_zoo
from free_jax.zoo.disjoint import disjoint, disjoint_rows
from free_jax.zoo.merging import merge
from free_jax.zoo.pool import (
    Zoo,
    ZooGroup,
    first_of_each_group,
    select,
    stack,
    subset,
    take,
)

__all__ = [
    "Assembled",
    "Teacher",
    "Zoo",
    "ZooGroup",
    "assemble",
    "disjoint",
    "disjoint_rows",
    "first_of_each_group",
    "load_zoo",
    "merge",
    "save_zoo",
    "select",
    "stack",
    "subset",
    "take",
]
