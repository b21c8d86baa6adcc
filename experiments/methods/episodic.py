"""Meta-learning on episodes of real images: the upper bound, from a config."""

from typing import Any, Literal, NamedTuple

from experiments import inputs
from experiments.data import require
from experiments.harness.method import Meters, Method
from experiments.harness.optimizers import optimizer
from experiments.harness.options import CheckpointOptions, LogOptions, MeshOptions
from experiments.harness.run import Run
from experiments.inputs.options import CONV4, DataOptions, ZooOptions
from experiments.methods import base
from experiments.methods.options import (
    Computing,
    Devices,
    EvalOptions,
    Limit,
    Optimizer,
    Seed,
    Steps,
    Student,
    Way,
)
from free_jax import zoo as zoo_lib
from free_jax.algorithms import episodic
from free_jax.fewshot import banks
from free_jax.fewshot.learners import LearnerOptions
from free_jax.fewshot.replay import EpisodeOptions
from free_jax.options import adam


class Config(NamedTuple):
    """Every key of meta-learning on real images."""

    run: Literal["meta_train"] = "meta_train"
    algorithm: Literal["episodic"] = "episodic"
    seed: Seed = 0
    way: Way = 5
    num_steps: Steps = 2000
    data: DataOptions = DataOptions()
    zoo: ZooOptions = ZooOptions()
    student: Student = CONV4
    learner: LearnerOptions = LearnerOptions()
    optimizer: Optimizer = adam(3e-3)
    replay: EpisodeOptions = EpisodeOptions()
    eval: EvalOptions = EvalOptions(every_steps=200, baselines=("random",))
    max_seconds: Limit = 0.0
    dtype: Computing = "float32"
    host_devices: Devices = 1
    mesh: MeshOptions = MeshOptions()
    log: LogOptions = LogOptions(every_steps=20)
    checkpoint: CheckpointOptions = CheckpointOptions()


def build(config: Any, zoo: zoo_lib.Zoo | None, run: Run) -> Method:
    """See `methods.build`."""
    parts = learning(config, run)
    split = inputs.load_split(config, "train")
    needed = config.replay.shots + config.replay.queries
    what = f"the train split in {config.data.path or config.data.name}"
    require(split, way=config.way, images_per_class=needed, what=what)
    return Method(
        title=base.title(config, zoo),
        **parts,
        data=banks.from_arrays(split.images, split.counts),
        meters=Meters(status={"replay_accuracy": "train acc"}),
    )


def learning(config: Any, run: Run) -> dict[str, Any]:
    """What a `Method` on episodes of one fixed bank has, whatever the bank."""
    student = base.student(config, config.way)
    train_learner, test_learner = base.learners(config, student)
    tx = optimizer(config.optimizer)
    update = base.episodic_update(config, train_learner, tx, run.map_tasks)
    return {
        "algorithm": episodic(train_learner, update, tx),
        "network": student,
        "predictors": base.adapted(config, test_learner),
        "learner": test_learner,
        "pseudo_task": (config.replay.shots, config.replay.queries),
    }
