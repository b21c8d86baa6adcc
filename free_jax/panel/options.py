"""What a user may choose of a panel: who is asked, and about which images."""

from typing import Annotated, NamedTuple

from free_jax.inversion.objective import Objective
from free_jax.inversion.recipe import GeneratorOptions, Recipe
from free_jax.optimizers import Optimizer
from free_jax.options import AtLeast, adam

# Pixels by themselves, started from dead leaves; of a generator, where one is asked
# for, the width and rate.
PIXELS = Recipe(
    init="dead_leaves",
    num_steps=50,
    decay="cosine",
    generator=GeneratorOptions(width=32, optimizer=adam(0.01, b1=0.5)),
    # Networks of any depth and scale: matched statistics must not drown the labels.
    objective=Objective(
        moments=0.3,
        statistics="relative",
        balance=True,
        total_variation=0.3,
        crop_padding=2,
        edges="wrap",
    ),
)

# The same from noise, in three times the steps: for methods that learn a class from a
# few images of it.  An image that starts from dead leaves is mostly these, whatever its
# class, which does no harm where all teachers say what they see in it (the panel).
FROM_NOISE = PIXELS._replace(
    init="noise",
    num_steps=150,
    objective=PIXELS.objective._replace(total_variation=1.0),
)


class MetaTraining(NamedTuple):
    """FIVE's meta-training of the generator that inversions start from.

    Attributes:
      num_steps: outer steps, not negative; 0: inversions start from a random one.
      teachers_per_step: drawn with replacement, at least 1.
      optimizer: outer optimiser.
    """

    num_steps: Annotated[int, AtLeast(0)] = 0
    teachers_per_step: Annotated[int, AtLeast(1)] = 2
    optimizer: Optimizer = adam(1e-3, b1=0.5)


class RecoverOptions(NamedTuple):
    """Which images a panel is asked about.

    Attributes:
      images_per_class: recovered from each teacher, not negative; 0: none, teachers are
        asked only and need no gradient.
      images_per_teacher: at most so many are recovered from one, at least 1: fewer of
        each class, and of a teacher of more classes of so many that are drawn.
      dead_leaves: synthetic images added to the recovered ones, not negative.
      at_once: teachers inverted in one job, at least 1.
      image_size: height and width of all images; 0: those that most teachers see.
      inversion: how images are recovered.
      meta_training: of the generator, where the inversion has one.
    """

    images_per_class: Annotated[int, AtLeast(0)] = 40
    images_per_teacher: Annotated[int, AtLeast(1)] = 200
    dead_leaves: Annotated[int, AtLeast(0)] = 10000
    at_once: Annotated[int, AtLeast(1)] = 1
    image_size: Annotated[int, AtLeast(0)] = 0
    inversion: Recipe = PIXELS
    meta_training: MetaTraining = MetaTraining()


class PanelOptions(NamedTuple):
    """How a zoo becomes a described set.

    Attributes:
      recover: which images.
      teachers: how many of each group are asked, not negative; 0, or more than there
        are: all.
      held_out_classes: classes that no asked teacher knows, not negative; episodes of
        their images, recovered from the other teachers, judge a model without data.
      held_out_teachers: teachers that are asked, but only to judge a model by: it is
        distilled neither from their answers nor from images of theirs, which are
        recovered all the same, so that a later run may take them (`recover.reuse`).
      asked_per_image: teachers that are asked about an image, its own among them, and
        each about equally many images, not negative; 0, or more than there are: all.
        With very few, trust goes by information alone: nobody sees enough of others'
        images to contradict.
      trust: leave out teachers without information or that contradict the others.
      trust_passes: revise that at most so often, by those who are believed; 1: hear
        everyone, once.  Ten suffice for verdicts to stand.
    """

    recover: RecoverOptions = RecoverOptions()
    teachers: Annotated[int, AtLeast(0)] = 0
    held_out_classes: Annotated[int, AtLeast(0)] = 0
    held_out_teachers: Annotated[int, AtLeast(0)] = 0
    asked_per_image: Annotated[int, AtLeast(0)] = 0
    trust: bool = True
    trust_passes: Annotated[int, AtLeast(1)] = 1
