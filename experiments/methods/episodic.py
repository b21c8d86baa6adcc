"""Meta-learning on episodes of real images: the upper bound, from a config."""

from typing import Any

from experiments import inputs
from experiments.data import require
from experiments.harness.method import Meters, Method
from experiments.harness.optimizers import optimizer
from experiments.harness.run import Run
from experiments.methods import base
from free_jax import zoo as zoo_lib
from free_jax.algorithms import episodic
from free_jax.fewshot import banks


def limits(config: Any) -> tuple[base.Choices, base.Positive]:
    """What the config may hold."""
    replay = config.replay
    positive = ("shots", "queries", "episodes_per_update")
    return {}, {f"replay.{key}": replay[key] for key in positive}


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
        "pseudo_task": (config.replay.shots, config.replay.queries),
    }
