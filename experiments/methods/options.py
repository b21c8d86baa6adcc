"""What all runs have in common, and the configs of runs that are no method's."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, NamedTuple, Protocol

from experiments.evaluation.options import EvalOptions, TableOptions
from experiments.harness.options import CheckpointOptions, Dtype, LogOptions
from experiments.harness.sections import Flat, Without
from experiments.inputs.options import CONV4, DataOptions, TeacherRecipe, ZooOptions
from free_jax.options import About, AtLeast, Between, Call

# JAX makes the same key of larger seeds as of their last 32 bits.
_LARGEST_SEED = 2**32 - 1
Seed = Annotated[
    int, Between(0, _LARGEST_SEED, inclusive=True), About("Of everything random.")
]
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
Cluster = Annotated[
    str,
    About(
        "Address of a Dask scheduler, such as tcp://10.0.0.2:8786, whose workers "
        "recover images and ask about them, of a method that does so before its first "
        "step; empty: this process does."
    ),
]


class MeshOptions(NamedTuple):
    """How work, and what is held of many teachers, is spread over devices.

    Attributes:
      task: devices that share the tasks; -1 takes all.
      zoo: groups of such devices: each holds and asks some of the teachers, and trains
        their heads; of panel distillation only.
      local: how several tasks of one device run: one after the other ("map"), at once
        ("vmap"), or as the device prefers ("auto").
    """

    task: int = 1
    zoo: Annotated[int, AtLeast(1)] = 1
    local: Literal["auto", "map", "vmap"] = "auto"


# So many steps are none to count by: time ends the run (`Common.max_seconds`).
UNENDED = 1_000_000


class Common(NamedTuple):
    """What every method has: teachers, a meta-model, steps, and a table at the end."""

    run: Literal["meta_train"] = "meta_train"
    seed: Seed = 0
    way: Way = 5
    num_steps: Steps = 1000
    data: DataOptions = DataOptions()
    zoo: ZooOptions = ZooOptions()
    student: Student = CONV4
    eval: EvalOptions = EvalOptions()
    max_seconds: Limit = 0.0
    dtype: Computing = "float32"
    host_devices: Devices = 1
    mesh: MeshOptions = MeshOptions()
    cluster: Cluster = ""
    log: LogOptions = LogOptions()
    checkpoint: CheckpointOptions = CheckpointOptions()


class Settings(Protocol):
    """What every method's ``Config`` has, beside the sections that are its own."""

    @property
    def algorithm(self) -> str:
        """The method's name, a key of `methods.ALGORITHMS`."""
        ...

    @property
    def common(self) -> Common:
        """What all methods have."""
        ...

    @property
    def learner(self) -> NamedTuple:
        """How a model is adapted to an episode, as far as the method has a choice."""
        ...


# Its keys stand beside those of the method itself.
Shared = Annotated[Common, Flat()]
Untrained = Annotated[Common, Flat(), Without(("num_steps",))]


class Comparison(NamedTuple):
    """Many methods on the same teachers and episodes.

    Attributes:
      seed: of a zoo that is trained here; cells take `seeds`.
      seeds: of the cells.
      choose: names of the methods that are run; none are all.
      methods: name to config file and overrides.
      zoos: name to a value of `zoo.path`: each method is run on each of these zoos, in
        place of `zoo`'s own; those without a path are left out.
    """

    run: Literal["compare"] = "compare"
    seed: Seed = 0
    seeds: tuple[int, ...] = (0, 1)
    way: Way = 5
    data: DataOptions = DataOptions()
    zoo: ZooOptions = ZooOptions()
    choose: tuple[str, ...] = ()
    methods: Mapping[str, str] = {}
    zoos: Mapping[str, str] = {}
    eval: TableOptions = TableOptions()
    max_seconds: Limit = 0.0
    dtype: Computing = "float32"
    host_devices: Devices = 1
    mesh: MeshOptions = MeshOptions()
    cluster: Cluster = ""
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
