"""Inversion: images recovered from what a trained classifier says about them.

Three parts meet in `inverter`: where images come from (`sources`), what is asked of
them (`objective` differentiates the teacher, `zero_order` only asks it), and the loop
that improves them (`loop`).  A `Recipe` describes an inversion by plain values and
`build` makes it; `meta_generator` (FIVE) and `pixel_inverter` are two compositions.
"""

from free_jax.inversion.five import meta_generator
from free_jax.inversion.jobs import (
    Adversaries,
    generator_jobs,
    images_of,
    leaves_jobs,
    recovery_jobs,
)
from free_jax.inversion.loop import InversionInfo, Inverter, inverter
from free_jax.inversion.meta_training import (
    GeneratorInfo,
    GeneratorState,
    meta_training,
    outer_update,
)
from free_jax.inversion.objective import Adversary, Critic, Objective, white_box
from free_jax.inversion.pixels import pixel_inverter
from free_jax.inversion.recipe import (
    GeneratorOptions,
    Recipe,
    build,
    build_critic,
    build_source,
    leaves_optimizer,
)
from free_jax.inversion.sources import (
    Source,
    generator_source,
    normalized_source,
    pixel_source,
)
from free_jax.inversion.zero_order import Estimator, estimate, zero_order

__all__ = [
    "Adversaries",
    "Adversary",
    "Critic",
    "Estimator",
    "GeneratorInfo",
    "GeneratorOptions",
    "GeneratorState",
    "InversionInfo",
    "Inverter",
    "Objective",
    "Recipe",
    "Source",
    "build",
    "build_critic",
    "build_source",
    "estimate",
    "generator_jobs",
    "generator_source",
    "images_of",
    "inverter",
    "leaves_jobs",
    "leaves_optimizer",
    "meta_generator",
    "meta_training",
    "normalized_source",
    "outer_update",
    "pixel_inverter",
    "pixel_source",
    "recovery_jobs",
    "white_box",
    "zero_order",
]
