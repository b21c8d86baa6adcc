"""Sections of a config that say where images and teachers come from."""

from typing import Annotated, Any, NamedTuple

from free_jax.options import AtLeast, Between, Named, adam
from free_jax.panel.choosing_teachers import ChoosingOptions
from free_jax.zoo.attacks import AttackOptions

# Network of a teacher and of the meta-model, unless a config names another.
CONV4: dict[str, Any] = {"name": "conv4", "kwargs": {"width": 32}}
MEASURED = Between(0, 1, "the rest measures the teachers")


class DataOptions(NamedTuple):
    """Real images, which only measure what was learned without them.

    Attributes:
      name: of a data set, which decides the size and the normalisation of the
        meta-model's images; empty: those that most teachers see.
      path: a folder {train,val,test}/<class>/*; empty: nothing is measured on real
        images, unless the data set needs no folder.
      image_size: of the meta-model's images, in place of these; 0 is these.
      cache_dir: of resized images and converted teachers; empty is
        $FREE_JAX_CACHE or ~/.cache/free_jax.
    """

    name: str = ""
    path: str = ""
    image_size: Annotated[int, Between(0, 4096, inclusive=True)] = 0
    cache_dir: str = ""


class TeacherRecipe(NamedTuple):
    """How teachers are trained: the released recipe, shortened by cosine decay.

    Attributes:
      num_teachers: 0 trains none.
      at_once: teachers trained together, which are kept when they are ready; 0: all.
      way: classes of a teacher.
      model: its network.
      epochs: 60 without decay in the released codes.
      batch_size: images a step.
      train_fraction: of each class, in sorted file order; the rest measures teachers.
      flip: mirror half of the time.
      optimizer: of the teachers.
      cosine: let its rate decay to zero.
      clip_norm: largest norm of a gradient; 0 is no limit.
    """

    num_teachers: Annotated[int, AtLeast(0)] = 0
    at_once: Annotated[int, AtLeast(0)] = 50
    way: Annotated[int, AtLeast(1)] = 5
    model: Named = CONV4
    epochs: Annotated[int, AtLeast(1)] = 15
    batch_size: Annotated[int, AtLeast(1)] = 128
    train_fraction: Annotated[
        float, Between(0, 1, "the rest measures the teachers")
    ] = 0.8
    flip: bool = True
    optimizer: Named = adam(0.01)
    cosine: bool = True
    clip_norm: Annotated[float, AtLeast(0)] = 50.0


class ZooOptions(NamedTuple):
    """The teachers.

    Attributes:
      path: a folder of models, or a converted zoo; several, separated by commas, make a
        heterogeneous zoo.
      table: a file that says of models what their own files do not; empty is
        ``teachers.yaml`` beside them.
      guess: whether what neither says is guessed.
      trust_code: models, by their paths, whose code may run.
      apis: in place of a path, or beside it: a list of endpoints, see
        `experiments.inputs.endpoints`.
      num_teachers: the first ones of each group; 0, or more than there are: all.
      choose: which of these take part, where not all do.
      attack: teachers that are made hostile on purpose.
      pretrain: teachers that are trained before the run, in place of a path.
    """

    path: str = ""
    table: str = ""
    guess: bool = False
    trust_code: tuple[str, ...] = ()
    apis: str = ""
    num_teachers: Annotated[int, AtLeast(0)] = 0
    choose: ChoosingOptions = ChoosingOptions()
    attack: AttackOptions = AttackOptions()
    pretrain: TeacherRecipe = TeacherRecipe()
