"""Meta-learning on episodes of real images: the upper bound, from a config."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from experiments import inputs
from experiments.data import require
from experiments.evaluation.options import EvalOptions
from experiments.harness.method import Meters, Method
from experiments.harness.optimizers import optimizer as make_optimizer
from experiments.harness.options import LogOptions
from experiments.harness.run import Run
from experiments.methods import base
from experiments.methods.options import Common, Optimizer, Shared
from free_jax import zoo as zoo_lib
from free_jax.algorithms import episodic
from free_jax.fewshot import banks
from free_jax.fewshot.learners import LearnerOptions
from free_jax.fewshot.replay import EpisodeOptions
from free_jax.options import adam


class Config(NamedTuple):
    """Every key of meta-learning on real images."""

    algorithm: Literal["episodic"] = "episodic"
    common: Shared = Common(
        num_steps=2000,
        log=LogOptions(every_steps=20),
        eval=EvalOptions(every_steps=200, baselines=("random",)),
    )
    learner: LearnerOptions = LearnerOptions()
    optimizer: Optimizer = adam(3e-3)
    replay: EpisodeOptions = EpisodeOptions()


def build(config: Config, zoo: zoo_lib.Zoo | None, run: Run) -> Method:
    """See `methods.build`."""
    common = config.common
    parts = learning(
        config.algorithm,
        common,
        config.learner,
        config.optimizer,
        config.replay,
        run,
    )
    split = inputs.load_split(common.data, "train")
    needed = config.replay.shots + config.replay.queries
    what = f"the train split in {common.data.path or common.data.name}"
    require(split, way=common.way, images_per_class=needed, what=what)
    return Method(
        title=base.title(config.algorithm, zoo),
        **parts,
        data=banks.from_arrays(split.images, split.counts),
        meters=Meters(status={"replay_accuracy": "train acc"}),
    )


def learning(
    algorithm: str,
    common: Common,
    learner: LearnerOptions,
    optimizer: Mapping[str, Any],
    replay: EpisodeOptions,
    run: Run,
    zoo: zoo_lib.Zoo | None = None,
) -> dict[str, Any]:
    """What a `Method` on episodes of one fixed bank has, whatever the bank."""
    way, tx = common.way, make_optimizer(optimizer)
    student = base.student(common, way, zoo)
    train_learner, test_learner = base.learners(learner, student)
    update = base.episodic_update(replay, way, train_learner, tx, run.map_tasks)
    return {
        "algorithm": episodic(train_learner, update, tx),
        "network": student,
        "predictors": base.adapted(algorithm, learner.kind, test_learner),
        "learner": test_learner,
        "pseudo_task": (replay.shots, replay.queries),
    }
