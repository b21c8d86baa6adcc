"""Pixel inversion: every image of a task is optimised by itself, from noise."""

import optax

from free_jax.inversion.loop import Inverter, inverter
from free_jax.inversion.objective import Objective, white_box
from free_jax.inversion.sources import Init, pixel_source
from free_jax.zoo.network import Network

PIXELS = Objective(
    moments=1.0, adversarial=0.0, total_variation=1.0, crop_padding=2, edges="wrap"
)


def pixel_inverter(
    teacher: Network,
    *,
    num_steps: int = 150,
    learning_rate: float = 0.1,
    deviation: float = 0.2,
    init: Init = "noise",
    objective: Objective = PIXELS,
    student: Network | None = None,
) -> Inverter:
    """Adam on the pixels with cosine decay; slower than FIVE, no training needed.

    The whole batch has to match the teacher's batch-norm statistics, so give it some
    50 images at once, of all classes.

    Args:
      teacher: what all teachers given to ``invert`` share.
      num_steps: Adam steps.
      learning_rate: at the start; decays to zero.
      deviation: of the noise that images start from, before the sigmoid; what is
        not needed of it stays in the image.
      init: from noise, or from `dead_leaves`, whose edges and colours stay where the
        teacher does not object.
      objective: weights of the losses.
      student: architecture of the adversary; None leaves that term out.

    Returns:
      An `Inverter` whose ``shared`` is ``()``.

    Raises:
      ValueError: an option is out of range or unknown.

    Reference:
      Yin et al., "Dreaming to Distill", CVPR 2020 (DeepInversion).
    """
    if learning_rate <= 0:
        raise ValueError(f"learning_rate={learning_rate} must be positive")
    return inverter(
        pixel_source(teacher.image_shape, deviation, init),
        white_box(objective, teacher, student),
        teacher,
        optimizer=optax.adam(optax.cosine_decay_schedule(learning_rate, num_steps)),
        num_steps=num_steps,
    )
