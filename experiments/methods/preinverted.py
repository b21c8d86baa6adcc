"""Meta-learning on tasks that were recovered beforehand, from a config.

The field's "pre-inverted memory": every teacher is inverted once, by any back-end, and
a learner (MAML, ANIL or ProtoNet) is trained on episodes of the recovered images.
"""

from typing import Any, Literal, NamedTuple

import numpy as np

from experiments.harness.method import Meters, Method
from experiments.harness.options import CheckpointOptions, LogOptions, MeshOptions
from experiments.harness.run import Run
from experiments.inputs.options import CONV4, DataOptions, ZooOptions
from experiments.methods import base, episodic
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
from experiments.stages import options, recover
from free_jax import zoo as zoo_lib
from free_jax.errors import InputError
from free_jax.fewshot.learners import LearnerOptions
from free_jax.fewshot.replay import EpisodeOptions
from free_jax.options import adam

# From noise, in three times the steps.
PIXELS = options.PIXELS._replace(
    init="noise",
    num_steps=150,
    objective=options.PIXELS.objective._replace(total_variation=1.0),
)


class Config(NamedTuple):
    """Every key of meta-learning on tasks that were recovered beforehand.

    Attributes:
      labels: the class of an image: the one that its "owner", the teacher it was
        recovered from, was asked for, or what the whole "panel" takes it for.
    """

    run: Literal["meta_train"] = "meta_train"
    algorithm: Literal["preinverted"] = "preinverted"
    seed: Seed = 0
    way: Way = 5
    num_steps: Steps = 2000
    data: DataOptions = DataOptions()
    zoo: ZooOptions = ZooOptions()
    student: Student = CONV4
    recover: options.RecoverOptions = options.RecoverOptions(
        images_per_class=20, dead_leaves=0, inversion=PIXELS
    )
    labels: Literal["owner", "panel"] = "owner"
    learner: LearnerOptions = LearnerOptions()
    optimizer: Optimizer = adam(3e-3)
    replay: EpisodeOptions = EpisodeOptions()
    eval: EvalOptions = EvalOptions(every_steps=200)
    max_seconds: Limit = 0.0
    dtype: Computing = "float32"
    host_devices: Devices = 1
    mesh: MeshOptions = MeshOptions()
    log: LogOptions = LogOptions(every_steps=20)
    checkpoint: CheckpointOptions = CheckpointOptions()


def build(config: Any, zoo: zoo_lib.Zoo, run: Run) -> Method:
    """See `methods.build`."""
    parts = episodic.learning(config, run)
    _check_classes(config, zoo)
    # Last: it takes minutes.
    bank = recover.pre_inverted(config, zoo, run)
    return Method(
        title=base.title(config, zoo),
        **parts,
        data=bank,
        recovered=lambda state: bank,
        meters=Meters(
            status={"replay_accuracy": "replay acc"},
            images_before=base.images_recovered(config, zoo),
        ),
    )


def _check_classes(config: Any, zoo: zoo_lib.Zoo) -> None:
    """Refuses to recover for minutes what makes no episodes."""
    needed = config.replay.shots + config.replay.queries
    counts = config.recover.images_per_class * np.bincount(zoo.class_ids)
    if (counts >= needed).sum() < config.way:
        raise InputError(
            f"config.replay needs {needed} images a class (shots + queries) but "
            f"recover.images_per_class={config.recover.images_per_class} recovers at "
            f"most {counts.max()}; ask for more images or fewer queries"
        )
