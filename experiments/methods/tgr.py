"""TGR (task groupings regularisation) from a config."""

import functools
from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np

from experiments.harness.method import Meters, Method
from experiments.harness.optimizers import optimizer
from experiments.harness.run import Run
from experiments.methods import base
from experiments.methods.options import Common, Optimizer, Shared
from experiments.stages import own_tasks, recover
from experiments.stages.options import Recovery
from free_jax import model_io, nouns
from free_jax import zoo as zoo_lib
from free_jax.algorithms import tgr, tgr_grouping
from free_jax.algorithms.recovered_tasks import OwnTaskOptions, bank_of
from free_jax.algorithms.tgr import TgrData, TgrOptions
from free_jax.algorithms.tgr_grouping import GroupOptions
from free_jax.errors import InputError
from free_jax.fewshot import replay as replay_lib
from free_jax.fewshot.banks import CapacityOptions
from free_jax.fewshot.learners import LearnerOptions
from free_jax.fewshot.replay import ReplayOptions
from free_jax.options import adam
from free_jax.panel import RecoverOptions
from free_jax.panel.options import FROM_NOISE
from free_jax.types import PyTree
from free_jax.zoo import tasks as task_lib
from free_jax.zoo.network import Network


class Config(NamedTuple):
    """Every key of a TGR run."""

    algorithm: Literal["tgr"] = "tgr"
    common: Shared = Common(num_steps=1000)
    recover: Recovery = Recovery(
        RecoverOptions(images_per_class=20, dead_leaves=0, inversion=FROM_NOISE)
    )
    tasks: OwnTaskOptions = OwnTaskOptions()
    groups: GroupOptions = GroupOptions()
    tgr: TgrOptions = TgrOptions()
    memory: CapacityOptions = CapacityOptions()
    learner: LearnerOptions = LearnerOptions()
    optimizer: Optimizer = adam(3e-3)  # 1e-3 in the released code
    # 16 episodes an update and a patience of 4 in the released code.
    replay: ReplayOptions = ReplayOptions(patience=4)


def check(config: Config) -> None:
    """Refuses keys that contradict each other."""
    own_tasks.check(config.recover)
    tgr_grouping.check_packages(config.groups)
    needed = config.replay.shots + config.replay.queries
    if config.tgr.replay_from == "drawn" and needed > config.tasks.per_class:
        raise InputError(
            f"config.replay needs {needed} images a class (shots + queries) but "
            f"config.tasks.per_class={config.tasks.per_class} are taken of a "
            "teacher's; take more, or ask for fewer queries"
        )


def able(config: Config, zoo: zoo_lib.Zoo) -> task_lib.Able:
    """See `methods.able`."""
    way, needs = config.common.way, base.needs_of(config.recover.anew.inversion)
    return base.able(config.algorithm, zoo, way, needs)


def prepare(config: Config, zoo: zoo_lib.Zoo, run: Run) -> Callable[[], Method]:
    """See `methods.prepare`."""
    wanted = base.images_wanted(config.recover, config.common, zoo)
    way, needed = config.common.way, config.replay.shots + config.replay.queries
    base.check_own_images(config.recover, config.tasks, zoo, wanted, way)
    base.check_episodes(zoo, wanted, way, needed)
    begun = recover.beginning(
        zoo, np.arange(zoo.num_teachers), run, wanted, reuse_of=config.recover.reuse
    )
    probe = _probe(config, zoo, run)
    return functools.partial(_built, config, zoo, run, wanted, begun, probe)


def build(config: Config, zoo: zoo_lib.Zoo, run: Run) -> Method:
    """See `methods.build`."""
    return prepare(config, zoo, run)()


def _probe(config: Config, zoo: zoo_lib.Zoo, run: Run) -> tuple[Network, PyTree]:
    """What embeds tasks: a saved model, or the meta-model before it learns anything."""
    student = base.student(config.common, config.common.way, zoo)
    if not config.groups.probe:
        return student, student.init(run.key("probe"))
    network, variables, _ = model_io.load_model(config.groups.probe)
    if network.image_shape[2] != student.image_shape[2]:
        raise InputError(
            f"config.groups.probe={config.groups.probe}: sees {network.image_shape[2]} "
            f"channels, the images have {student.image_shape[2]}; give another"
        )
    return network, variables


def _built(
    config: Config,
    zoo: zoo_lib.Zoo,
    run: Run,
    wanted: RecoverOptions,
    begun: recover.Beginning,
    probe: tuple[Network, PyTree],
) -> Method:
    """The method, from images that are recovered or those of the earlier run."""
    common, way = config.common, config.common.way
    own = own_tasks.recovered(zoo, run, wanted, config.tasks, way=way, begun=begun)
    student = base.student(common, way, zoo)
    train_learner, test_learner = base.learners(config.learner, student)
    tx = optimizer(config.optimizer)
    update = base.episodic_update(config.replay, way, train_learner, tx, run.map_tasks)
    jobs = tgr_grouping.grouping_jobs(
        run.key("grouping"),
        own.tasks,
        *probe,
        config.groups,
        way=way,
        map_tasks=run.map_tasks,
    )
    (found,) = run.cached("grouping", jobs)
    sizes = np.bincount(found["groups"])
    held = ", ".join(map(str, sizes[:-1])) + " and " if len(sizes) > 1 else ""
    print(f"groups of {held}{nouns.count(sizes[-1], 'teacher')}", flush=True)
    try:
        algorithm = tgr(
            train_learner,
            student,
            replay_lib.replay(
                update,
                patience=config.replay.patience,
                max_updates=config.replay.max_updates,
            ),
            tx,
            num_classes=zoo.num_classes,
            num_groups=len(sizes),
            images_per_class=config.tasks.per_class,
            memory_per_class=config.memory.per_class,
            options=config.tgr,
            map_tasks=run.map_tasks,
        )
    except ValueError as error:
        raise InputError(f"config: {error}") from None
    bank = bank_of(own.tasks, zoo.num_classes)
    return Method(
        title=base.title(config.algorithm, zoo),
        algorithm=algorithm,
        data=TgrData(own.tasks, found["groups"], bank),
        network=student,
        told=lambda state: {"groups": found["groups"].tolist()},
        subject=base.adapted(
            config.algorithm,
            config.learner.kind,
            test_learner,
            recovered=lambda state: bank if state.memory is None else state.memory,
            pseudo_task=(config.replay.shots, config.replay.queries),
            rows=own.rows,
        ),
        meters=Meters(
            status={
                "distill_loss": "kl",
                "conflict": "conflict",
                "replay_accuracy": "replay acc",
            },
            updates_of=lambda m: m["replay_updates"] + 1,
            answers=own.answers,
            **base.spent_before(config.recover, run, wanted, zoo),
        ),
    )


def paths(config: Config) -> dict[str, tuple[str, str]]:
    """See `methods.paths`."""
    path = config.groups.probe
    return {"model of groups.probe": ("groups.probe", path)} if path else {}
