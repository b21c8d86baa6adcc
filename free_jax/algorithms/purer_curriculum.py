"""PURER's episode curriculum: when the next pixel step is an adversarial one.

While training accuracy keeps improving, images are only inverted.  When it has not
improved for some updates, ONE pixel step also makes a random episode harder for the
meta-model, and the best accuracy is forgotten.
"""

from typing import Annotated, Literal, NamedTuple

import jax
import jax.numpy as jnp

from free_jax.options import AtLeast


class Curriculum(NamedTuple):
    """What the rule remembers.

    Attributes:
      best: [] best accuracy since the last adversarial step; negative before any.
      since_best: [] int32 updates in a row that brought no new best.
      adversarial: [] bool, whether the next pixel step is adversarial.
    """

    best: jax.Array
    since_best: jax.Array
    adversarial: jax.Array


def init() -> Curriculum:
    """Nothing seen yet; the next step is a plain one."""
    return Curriculum(jnp.float32(-1.0), jnp.int32(0), jnp.bool(False))


class CurriculumOptions(NamedTuple):
    """When images are also made harder for the meta-model.

    Attributes:
      adversarial: weight of making episodes harder in an adversarial step.
      after_steps: updates up to this one are never judged.
      patience: updates without a new best accuracy that trigger an adversarial step.
      opening: after `after_steps` an "adversarial" step at once (PURER), or only when
        `patience` is spent (PURER-Plus).
    """

    adversarial: Annotated[float, AtLeast(0)] = 10.0
    after_steps: int = 4000
    patience: Annotated[int, AtLeast(1)] = 6
    opening: Literal["adversarial", "patience"] = "adversarial"


def advance(
    rule: Curriculum,
    step: jax.Array,
    accuracy: jax.Array,
    options: CurriculumOptions,
) -> Curriculum:
    """What follows from one update; the former ``adversarial`` is used up.

    Args:
      rule: before the update.
      step: [] int32 number of the update, from 1.
      accuracy: [] of its episodes, at least 0.
      options: when steps are adversarial; the released codes judge after 4000
        updates, with a patience of 6.

    Reference:
      Hu et al., "Architecture, Dataset and Model-Scale Agnostic Data-free
      Meta-Learning", CVPR 2023; control flow of the released code.
    """
    start = options.after_steps
    judged = step > start
    improved = accuracy > rule.best
    since_best = jnp.where(improved, 0, rule.since_best + 1)
    triggered = judged & (since_best >= options.patience)
    first = (step == start) & (options.opening == "adversarial")
    kept = judged & ~triggered
    return Curriculum(
        best=jnp.where(kept, jnp.maximum(accuracy, rule.best), -1.0),
        since_best=jnp.where(kept, since_best, 0),
        adversarial=triggered | first,
    )
