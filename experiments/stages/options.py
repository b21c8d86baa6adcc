"""Sections of a config that say which images are recovered, and who is asked."""

from typing import Annotated, NamedTuple

from free_jax.inversion.objective import Objective
from free_jax.inversion.recipe import GeneratorOptions, Recipe
from free_jax.options import AtLeast, Named, adam

# Pixels by themselves, as panel distillation starts them.
PIXELS = Recipe(
    init="dead_leaves",
    num_steps=50,
    decay="cosine",
    generator=GeneratorOptions(width=32, optimizer=adam(0.01, b1=0.5)),
    objective=Objective(total_variation=0.3, crop_padding=2, edges="wrap"),
)


class RecoverOptions(NamedTuple):
    """Images recovered before the first step.

    Attributes:
      images_per_class: of each teacher; 0 recovers none and asks teachers only.
      dead_leaves: synthetic images added to the recovered ones.
      at_once: teachers inverted in one program.
      inversion: of one teacher.
      meta_steps: of FIVE's meta-training before, where the source is a generator; 0
        starts every generator at random.
      meta_optimizer: of the shared generator in that training.
      meta_teachers: of each of its steps.
      reuse: workdir of an earlier panel run: its images and answers are taken.
      against: workdir of an earlier panel run: its images and answers are kept, and
        more are recovered where its model and a teacher disagree.
    """

    images_per_class: Annotated[int, AtLeast(0)] = 40
    dead_leaves: Annotated[int, AtLeast(0)] = 10000
    at_once: Annotated[int, AtLeast(1)] = 1
    inversion: Recipe = PIXELS
    meta_steps: Annotated[int, AtLeast(0)] = 0
    meta_optimizer: Named = adam(1e-3, b1=0.5)
    meta_teachers: Annotated[int, AtLeast(1)] = 2
    reuse: str = ""
    against: str = ""


class PanelOptions(NamedTuple):
    """Who is asked.

    Attributes:
      teachers: how many; 0 is all.
      held_out_classes: that no asked teacher knows: episodes of their images,
        recovered from the other teachers, judge a setting without data; 0 is none.
      trust: leave out teachers that tell nothing or contradict the others.
    """

    teachers: Annotated[int, AtLeast(0)] = 0
    held_out_classes: Annotated[int, AtLeast(0)] = 0
    trust: bool = True
