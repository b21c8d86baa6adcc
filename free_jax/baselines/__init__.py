"""Fusion: one network made of the weights of many, without data and without queries."""

from free_jax.baselines.hypernetwork import (
    FusionInfo,
    FusionState,
    flatten,
    perturbed,
    predict,
    robust_hypernetwork,
)
from free_jax.baselines.transport import align, fuse

__all__ = [
    "FusionInfo",
    "FusionState",
    "align",
    "flatten",
    "fuse",
    "perturbed",
    "predict",
    "robust_hypernetwork",
]
