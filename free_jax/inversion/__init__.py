"""Inversion: images recovered from what a trained classifier says about them.

Three parts meet in `inverter`: where images come from (`sources`), what is asked of
them (`objective` differentiates the teacher, `zero_order` only asks it), and the loop
that improves them (`loop`).  `meta_generator` (FIVE) and `pixel_inverter` are the two
compositions in use.
"""

from free_jax.inversion.five import meta_generator
from free_jax.inversion.loop import InversionInfo, Inverter, inverter
from free_jax.inversion.meta_training import (
    GeneratorInfo,
    GeneratorState,
    meta_training,
    outer_update,
)
from free_jax.inversion.objective import Adversary, Critic, Objective, white_box
from free_jax.inversion.pixels import pixel_inverter
from free_jax.inversion.sources import (
    Source,
    generator_source,
    normalized_source,
    pixel_source,
)
from free_jax.inversion.zero_order import Estimator, estimate, zero_order

__all__ = [
    "Adversary",
    "Critic",
    "Estimator",
    "GeneratorInfo",
    "GeneratorState",
    "InversionInfo",
    "Inverter",
    "Objective",
    "Source",
    "estimate",
    "generator_source",
    "inverter",
    "meta_generator",
    "meta_training",
    "normalized_source",
    "outer_update",
    "pixel_inverter",
    "pixel_source",
    "white_box",
    "zero_order",
]
