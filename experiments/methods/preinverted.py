"""Meta-learning on tasks that were recovered beforehand, from a config.

The field's "pre-inverted memory": every teacher is inverted once, by any back-end, and
a learner (MAML, ANIL or ProtoNet) is trained on episodes of the recovered images.
"""

import functools
from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np

from experiments.evaluation.options import EvalOptions
from experiments.harness.method import Meters, Method
from experiments.harness.options import LogOptions
from experiments.harness.run import Run
from experiments.methods import base, episodic
from experiments.methods.options import Common, Optimizer, Shared
from experiments.stages import recover
from experiments.stages.options import Recovery
from free_jax import zoo as zoo_lib
from free_jax.errors import InputError
from free_jax.fewshot.learners import LearnerOptions
from free_jax.fewshot.replay import EpisodeOptions
from free_jax.options import adam
from free_jax.panel import RecoverOptions
from free_jax.panel.options import FROM_NOISE
from free_jax.zoo import tasks as task_lib


class Config(NamedTuple):
    """Every key of meta-learning on tasks that were recovered beforehand.

    Attributes:
      labels: the class of an image: the one that its "owner", the teacher it was
        recovered from, was asked for, or what the whole "panel" takes it for.
    """

    algorithm: Literal["preinverted"] = "preinverted"
    common: Shared = Common(
        num_steps=2000,
        log=LogOptions(every_steps=20),
        eval=EvalOptions(every_steps=200),
    )
    recover: Recovery = Recovery(
        RecoverOptions(images_per_class=20, dead_leaves=0, inversion=FROM_NOISE)
    )
    labels: Literal["owner", "panel"] = "owner"
    learner: LearnerOptions = LearnerOptions()
    optimizer: Optimizer = adam(3e-3)
    replay: EpisodeOptions = EpisodeOptions()


def check(config: Config) -> None:
    """Refuses keys that contradict each other."""
    leaves = config.recover.anew.dead_leaves
    if leaves:
        raise InputError(
            f"config.recover.dead_leaves={leaves}: they have no class and make no "
            "episodes; set it to 0"
        )
    if config.recover.anew.image_size:
        raise InputError(
            "config.recover.image_size: episodes are of the meta-model's own size; set "
            "config.data.image_size"
        )
    if config.recover.against:
        raise InputError(
            "config.recover.against: there is no panel's model to be new to; leave it "
            "unset"
        )


def able(config: Config, zoo: zoo_lib.Zoo) -> task_lib.Able:
    """See `methods.able`; whoever gives no image may still vote."""
    votes = config.labels == "panel"
    return task_lib.able(
        zoo, 1, () if votes else base.needs_of(config.recover.anew.inversion)
    )


def prepare(config: Config, zoo: zoo_lib.Zoo, run: Run) -> Callable[[], Method]:
    """See `methods.prepare`."""
    common, episode = config.common, config.replay
    parts = episodic.learning(
        config.algorithm,
        common,
        config.learner,
        config.optimizer,
        episode,
        run,
        zoo,
    )
    wanted = base.images_wanted(config.recover, common, zoo)
    needed = episode.shots + episode.queries
    base.check_episodes(zoo, wanted, common.way, needed)
    reuse_of = config.recover.reuse
    everyone = np.arange(zoo.num_teachers)
    begun = recover.beginning(zoo, everyone, run, wanted, reuse_of=reuse_of)
    return functools.partial(_built, config, zoo, run, parts, wanted, begun)


def build(config: Config, zoo: zoo_lib.Zoo, run: Run) -> Method:
    """See `methods.build`."""
    return prepare(config, zoo, run)()


def _built(
    config: Config,
    zoo: zoo_lib.Zoo,
    run: Run,
    parts: episodic.Learning,
    wanted: RecoverOptions,
    begun: recover.Beginning,
) -> Method:
    """The method, from images that are recovered or those of the earlier run."""
    bank = recover.pre_inverted(  # takes minutes
        zoo,
        run,
        begun,
        labels=config.labels,
        way=config.common.way,
        images_per_episode=config.replay.shots + config.replay.queries,
    )
    images = base.images_recovered(wanted, zoo)
    spent = recover.spent(config.recover.reuse or run.workdir, images)
    return Method(
        title=base.title(config.algorithm, zoo),
        algorithm=parts.algorithm,
        network=parts.network,
        subject=parts.subject._replace(recovered=lambda state: bank),
        data=bank,
        meters=Meters(
            status={"replay_accuracy": "replay acc"},
            images_before=images,
            gradients=recover.gradients(config.recover.reuse, images, wanted),
            seconds_before=spent.before,
            making_images=spent.making_images,
        ),
    )
