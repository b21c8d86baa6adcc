"""Meta-learning on episodes of real images: the upper bound, from a config."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

from experiments import inputs
from experiments.evaluation.options import EvalOptions
from experiments.evaluation.subject import Subject
from experiments.harness.method import Meters, Method
from experiments.harness.optimizers import optimizer as make_optimizer
from experiments.harness.options import LogOptions
from experiments.harness.run import Run
from experiments.methods import base
from experiments.methods.options import Common, Optimizer, Shared
from free_jax import zoo as zoo_lib
from free_jax.algorithm import Algorithm
from free_jax.algorithms import episodic
from free_jax.errors import InputError
from free_jax.fewshot import banks
from free_jax.fewshot.learners import LearnerOptions
from free_jax.fewshot.replay import EpisodeOptions
from free_jax.options import adam
from free_jax.zoo.network import Network

TAKES_TEACHERS = False


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


def learns_from(config: Config) -> tuple[str, ...]:
    """Splits of real images that the model is made from."""
    del config
    return ("train",)


def check(config: Config) -> None:
    """Refuses keys that contradict each other."""
    if config.common.eval.select == "pseudo":
        raise InputError(
            "config.eval.select=pseudo: this method recovers no images; choose last or "
            "val"
        )


class Learning(NamedTuple):
    """What a method on episodes of one fixed bank has, whatever the bank.

    Attributes:
      algorithm: learns from the bank.
      network: the network that is trained and saved.
      subject: how the model takes part in episodes.
    """

    algorithm: Algorithm
    network: Network
    subject: Subject


def prepare(config: Config, zoo: zoo_lib.Zoo | None, run: Run) -> Callable[[], Method]:
    """See `methods.prepare`."""
    common = config.common
    parts = learning(
        config.algorithm,
        common,
        config.learner,
        config.optimizer,
        config.replay,
        run,
    )
    needed = config.replay.shots + config.replay.queries
    inputs.check_evaluation(
        common.data, "train", way=common.way, images_per_class=needed
    )
    return functools.partial(_built, config, zoo, parts)


def build(config: Config, zoo: zoo_lib.Zoo | None, run: Run) -> Method:
    """See `methods.build`."""
    return prepare(config, zoo, run)()


def _built(config: Config, zoo: zoo_lib.Zoo | None, parts: Learning) -> Method:
    """The method, with all images of the train split."""
    split = inputs.load_split(config.common.data, "train")
    return Method(
        title=base.title(config.algorithm, zoo),
        algorithm=parts.algorithm,
        network=parts.network,
        subject=parts.subject,
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
) -> Learning:
    """How episodes of one fixed bank are learned from."""
    way, tx = common.way, make_optimizer(optimizer)
    student = base.student(common, way, zoo)
    train_learner, test_learner = base.learners(learner, student)
    update = base.episodic_update(replay, way, train_learner, tx, run.map_tasks)
    pseudo_task = (replay.shots, replay.queries)
    subject = base.adapted(
        algorithm, learner.kind, test_learner, pseudo_task=pseudo_task
    )
    return Learning(episodic(train_learner, update, tx), student, subject)
