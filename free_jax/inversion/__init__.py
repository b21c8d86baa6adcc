"""Inversion: training images recovered from a trained classifier.

Three parts meet in `inverter`: where images come from (`sources`), their loss and its
gradient (`objective` differentiates the teacher, `zero_order` queries it), and the loop
that improves them (`loop`).  A `Recipe` describes an inversion by plain values and
`build` makes it; `meta_generator` (FIVE) and `pixel_inverter` are two compositions.
"""

from free_jax.inversion.five import meta_generator
from free_jax.inversion.jobs import (
    Adversaries,
    Quota,
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
from free_jax.inversion.objective import (
    Adversary,
    Objective,
    ObjectiveGradient,
    white_box,
)
from free_jax.inversion.pixels import pixel_inverter
from free_jax.inversion.recipe import (
    GeneratorOptions,
    Recipe,
    build,
    build_objective_gradient,
    build_source,
    invertible,
    is_estimated,
    leaves_optimizer,
    suited,
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
    "Estimator",
    "GeneratorInfo",
    "GeneratorOptions",
    "GeneratorState",
    "InversionInfo",
    "Inverter",
    "Objective",
    "ObjectiveGradient",
    "Quota",
    "Recipe",
    "Source",
    "build",
    "build_objective_gradient",
    "build_source",
    "estimate",
    "generator_jobs",
    "generator_source",
    "images_of",
    "inverter",
    "invertible",
    "is_estimated",
    "leaves_jobs",
    "leaves_optimizer",
    "meta_generator",
    "meta_training",
    "normalized_source",
    "outer_update",
    "pixel_inverter",
    "pixel_source",
    "recovery_jobs",
    "suited",
    "white_box",
    "zero_order",
]
