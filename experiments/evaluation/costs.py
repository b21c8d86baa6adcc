"""What a run cost by the cost model of the field, for its page and ``result.json``."""

from typing import Any

import jax
import numpy as np

from experiments.harness.method import Meters, Method, Outcome
from free_jax.inversion import cost
from free_jax.zoo import Zoo


def counted(zoo: Zoo, method: Method, outcome: Outcome) -> dict[str, Any]:
    """GFLOPs of the images that teachers were inverted and asked for.

    One image costs two times the multiply-adds of a forward pass, also where its
    gradient is taken: the convention of published tables, see `inversion.cost`.  Where
    networks differ it is their mean over the teachers that take part.

    Args:
      zoo: teachers.
      method: what counted images.
      outcome: how many steps were made.

    Returns:
      ``networks`` (GFLOPs of one image), ``gradients`` and ``answers`` (images), and
      ``recovering_gflops`` and ``asking_gflops`` in all; ready for JSON.
    """
    if zoo.service is not None:
        return {}  # Nobody here knows what it computes.
    meters: Meters = method.meters
    rows, of_each = [], []
    for group in zoo.groups:
        each = cost.gflops(group.network)
        of_each += [each] * group.num_teachers
        rows.append(
            {
                "network": group.network.name,
                "pixels": group.network.image_shape[0],
                "teachers": group.num_teachers,
                "gflops": each,
            }
        )
    taking_part = method.subject.rows
    mean = np.mean(of_each if taking_part is None else np.take(of_each, taking_part))
    gradients = meters.gradients + outcome.steps * meters.gradients_per_step
    answers = meters.answers
    if meters.queries_of:
        answers += int(np.sum(meters.queries_of(jax.device_get(outcome.state))))
    return {
        "networks": rows,
        "model": {
            "network": method.network.name,
            "gflops": cost.gflops(method.network),
        },
        "gradients": gradients,
        "recovering_gflops": float(gradients * mean),
        "answers": answers,
        "asking_gflops": float(answers * mean),
    }
