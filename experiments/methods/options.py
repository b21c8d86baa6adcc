"""Sections that all methods share, and the configs of runs that are no method's."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, NamedTuple

from experiments.harness.options import (
    CheckpointOptions,
    Dtype,
    LogOptions,
    MeshOptions,
)
from experiments.inputs.options import DataOptions, TeacherRecipe, ZooOptions
from free_jax.baselines import BASELINES
from free_jax.options import About, AtLeast, Call, NotEmpty, OneOf

Shots = Annotated[
    tuple[Annotated[int, AtLeast(1)], ...], NotEmpty("give at least one, as (1,)")
]
Seed = Annotated[int, About("Of everything random.")]
Way = Annotated[int, AtLeast(1), About("Classes of an episode, and of a teacher.")]
Steps = Annotated[int, AtLeast(1), About("Steps of the training.")]
Limit = Annotated[
    float,
    AtLeast(0, "0 is no limit"),
    About("Seconds of training (and recovery); 0: all steps are made."),
]
Student = Annotated[Mapping[str, Any], Call(), About("The meta-model.")]
Optimizer = Annotated[Mapping[str, Any], Call(), About("Of the meta-model.")]
Computing = Annotated[Dtype, About("What teachers and meta-model compute in.")]
Devices = Annotated[int, About("Splits the CPU into that many devices.")]


class EvalOptions(NamedTuple):
    """How a run is judged while it goes on, and evaluated once at its end.

    Attributes:
      shots: support images a class, of the episodes of the final table.
      queries: query images a class.
      split: classes of the final table; "val" for ablations.
      episodes: of each row of the table.
      every_steps: between two judgements in training.
      val_episodes: of a judgement on validation classes; 0 leaves it out.
      select: which model is kept: of the "last" step, or the best on "pseudo" tasks of
        recovered images or on "val"idation classes; never test.
      protocol: the one that selection looks at.
      baselines: rows of the table beside the method's own.
      temperature: of the softmax of a panel of teachers.
    """

    shots: Shots = (1,)
    queries: Annotated[int, AtLeast(1)] = 15
    split: Literal["test", "val"] = "test"
    episodes: Annotated[int, AtLeast(1)] = 600
    every_steps: Annotated[int, AtLeast(1)] = 20
    val_episodes: Annotated[int, AtLeast(0)] = 100
    select: Annotated[str, OneOf(("last", "pseudo", "val"), "never test")] = "last"
    protocol: Literal["transductive", "inductive"] = "transductive"
    baselines: tuple[Annotated[str, OneOf(tuple(BASELINES))], ...] = (
        "random",
        "average",
        "teacher",
        "finetune",
        "panel",
    )
    temperature: float = 4.0


class TableOptions(NamedTuple):
    """The episodes that all methods of a comparison share.

    Attributes:
      shots: support images a class.
      queries: query images a class.
      split: classes of the episodes.
      episodes: of each cell.
      temperature: of the softmax of a panel of teachers.
    """

    shots: Shots = (1, 5, 10, 20)
    queries: Annotated[int, AtLeast(1)] = 15
    split: Literal["test", "val"] = "test"
    episodes: Annotated[int, AtLeast(1)] = 600
    temperature: float = 4.0


class Comparison(NamedTuple):
    """Many methods on the same teachers and episodes.

    Attributes:
      seed: of a zoo that is trained here; cells take `seeds`.
      seeds: of the cells.
      choose: names of the methods that are run; none are all.
      methods: name to config file and overrides.
    """

    run: Literal["compare"] = "compare"
    seed: Seed = 0
    seeds: tuple[int, ...] = (0, 1)
    way: Way = 5
    data: DataOptions = DataOptions()
    zoo: ZooOptions = ZooOptions()
    choose: tuple[str, ...] = ()
    methods: Mapping[str, str] = {}
    eval: TableOptions = TableOptions()
    max_seconds: Limit = 0.0
    dtype: Computing = "float32"
    host_devices: Devices = 1
    mesh: MeshOptions = MeshOptions()
    log: LogOptions = LogOptions()
    checkpoint: CheckpointOptions = CheckpointOptions()


class Pretraining(NamedTuple):
    """A zoo of teachers, trained on random groups of classes."""

    run: Literal["pretrain"] = "pretrain"
    seed: Seed = 0
    data: DataOptions = DataOptions()
    pretrain: TeacherRecipe = TeacherRecipe(num_teachers=100)
    max_seconds: Limit = 0.0
    dtype: Computing = "float32"
    host_devices: Devices = 1
    mesh: MeshOptions = MeshOptions()
    log: LogOptions = LogOptions()
    checkpoint: CheckpointOptions = CheckpointOptions()
