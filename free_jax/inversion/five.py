"""FIVE: recover a teacher's training task with a meta-trained generator.

For each teacher a copy of the shared generator and fresh latents are adapted for a
few steps; the gradients at the end of those steps, summed over teachers, move the
shared generator (first-order meta-learning; FREE, CVPR 2024, section on FIVE).
"""

from collections.abc import Callable
from typing import Literal

import jax
import optax

from free_jax.inversion.loop import Inverter, MetaGradient, inverter
from free_jax.inversion.objective import Objective, white_box
from free_jax.inversion.sources import generator_source
from free_jax.inversion.zero_order import Estimator, estimator_of, zero_order
from free_jax.models import Generator
from free_jax.zoo.network import Network


def meta_generator(
    generator: Generator,
    teacher: Network,
    *,
    inner_optimizer: optax.GradientTransformation,
    objective: Objective = Objective(),
    student: Network | None = None,
    num_steps: int = 5,
    latent_dim: int = 256,
    meta_gradient: MetaGradient = "last",
    keep: Literal["last", "best"] = "last",
    estimator: Estimator | None = None,
    respond: Callable[[jax.Array], jax.Array] = lambda logits: logits,
) -> Inverter:
    """Binds a generator to the teachers of one architecture.

    With many steps and the gradient left unused, it is the per-teacher generator of
    the field's older methods.

    Args:
      generator: its images are resized to the teacher's size where they differ.
      teacher: what all teachers given to ``invert`` share.
      inner_optimizer: applied to ``{"generator": params, "latents": [N, d]}``.
      objective: weights of the losses.
      student: architecture of the adversary; None leaves that term out.
      num_steps: inner steps K (5 in the paper).
      latent_dim: d.
      meta_gradient: see `inverter`.
      keep: see `inverter`.
      estimator: None differentiates the teacher; otherwise it is only queried, see
        `zero_order`.
      respond: the form in which a teacher that is only queried gives its
        logits, see `inversion.answers`.

    Returns:
      An `Inverter`; its ``gradient`` is the generator's meta-gradient.

    Raises:
      ValueError: an option is out of range or unknown.

    Reference:
      Wei et al., "FREE: Faster and Better Data-Free Meta-Learning", CVPR 2024.
    """
    if generator.num_classes not in (0, teacher.num_classes):
        raise ValueError(
            f"the generator knows {generator.num_classes} labels but teachers are "
            f"{teacher.num_classes}-way; use num_classes={teacher.num_classes} or 0"
        )
    estimator = estimator_of(estimator, teacher)
    if estimator is None:
        objective_gradient, queries = white_box(objective, teacher, student), 1
    else:
        queries = estimator.queries
        objective_gradient = zero_order(
            objective, teacher, student, estimator=estimator, respond=respond
        )
    return inverter(
        generator_source(generator, latent_dim),
        objective_gradient,
        teacher,
        optimizer=inner_optimizer,
        num_steps=num_steps,
        meta_gradient=meta_gradient,
        queries_per_image=queries,
        keep=keep,
    )
