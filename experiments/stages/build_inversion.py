"""The inversion back-ends that ``config.recover.backend`` names."""

from typing import Any

import optax

from free_jax import inversion
from free_jax.errors import InputError
from free_jax.models import Generator
from free_jax.zoo.network import Network

# Pixels; one generator a teacher from a random start; FIVE, a meta-trained generator.
BACKENDS = ("pixels", "generator", "five")


def inverter(
    config: Any, arch: Network, student: Network | None = None
) -> inversion.Inverter:
    """The configured back-end for the teachers of one architecture.

    Args:
      config: of the run.
      arch: of the teachers.
      student: of the adversary that ``invert`` will be given, or None.

    Raises:
      InputError: an option that cannot be meant.
    """
    options = config.recover
    objective = inversion.Objective(**options.objective.to_dict())
    try:
        if options.backend == "pixels":
            return inversion.pixel_inverter(
                arch,
                num_steps=options.num_steps,
                learning_rate=options.learning_rate,
                init="dead_leaves" if options.start == "scenes" else "noise",
                objective=objective,
                student=student,
            )
        # FIVE is the same inversion from a start that was meta-trained for it.
        return inversion.meta_generator(
            Generator(
                image_shape=arch.image_shape,
                width=options.generator_width,
                num_classes=arch.num_classes,
                label_input="concat",
            ),
            arch,
            inner_optimizer=optax.multi_transform(
                {
                    "generator": optax.adam(options.generator_rate, b1=0.5),
                    "latents": optax.adam(options.learning_rate, b1=0.5),
                },
                {"generator": "generator", "latents": "latents"},
            ),
            objective=objective,
            student=student,
            num_steps=options.num_steps,
        )
    except ValueError as error:
        raise InputError(f"config.recover: {error}") from None
