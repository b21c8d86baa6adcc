"""FREE from a config."""

from typing import Literal, NamedTuple

from experiments.harness.method import Meters, Method
from experiments.harness.optimizers import optimizer
from experiments.harness.run import Run
from experiments.methods import base
from experiments.methods.options import Common, Optimizer, Shared
from free_jax import inversion
from free_jax import zoo as zoo_lib
from free_jax.algorithms import free
from free_jax.algorithms.bell import AlignOptions
from free_jax.algorithms.free import FreeOptions
from free_jax.errors import InputError
from free_jax.fewshot import replay as replay_lib
from free_jax.fewshot.banks import MemoryOptions
from free_jax.fewshot.learners import LearnerOptions
from free_jax.fewshot.replay import ReplayOptions
from free_jax.inversion.recipe import FIVE, Recipe
from free_jax.options import adam
from free_jax.zoo import tasks as task_lib


class Config(NamedTuple):
    """Every key of a FREE run, with the values that measured best on validation."""

    algorithm: Literal["free"] = "free"
    common: Shared = Common(num_steps=1000)
    inversion: Recipe = FIVE  # 1e-3 for both rates in FREE
    recover: FreeOptions = FreeOptions()
    memory: MemoryOptions = MemoryOptions()
    align: AlignOptions = AlignOptions()
    learner: LearnerOptions = LearnerOptions()
    optimizer: Optimizer = adam(3e-3)  # 1e-3 in the released code
    replay: ReplayOptions = ReplayOptions()


def able(config: Config, zoo: zoo_lib.Zoo) -> task_lib.Able:
    """See `methods.able`."""
    way, needs = config.common.way, base.GRADIENTS
    return base.able(config.algorithm, zoo, way, needs)


def build(config: Config, zoo: zoo_lib.Zoo, run: Run) -> Method:
    """See `methods.build`."""
    way = config.common.way
    student = base.student(config.common, way, zoo)
    tasks = base.tasks(able(config, zoo), way)
    train_learner, test_learner = base.learners(config.learner, student)
    options, recipe = config.recover, config.inversion
    needed = config.replay.shots + config.replay.queries
    if needed > options.images_per_class:
        raise InputError(
            f"config.replay needs {needed} images a class (shots + queries) but "
            f"recover.images_per_class={options.images_per_class} recovers fewer"
        )
    tx = optimizer(config.optimizer)
    update = base.episodic_update(config.replay, way, train_learner, tx, run.map_tasks)
    try:
        inverters = tuple(
            inversion.build(
                inversion.suited(recipe, network),
                network,
                student,
                image_shape=student.image_shape,
            )
            for network in tasks.networks
        )
        algorithm = free(
            inverters,
            tasks.networks,
            train_learner,
            student,
            replay_lib.replay(
                update,
                patience=config.replay.patience,
                max_updates=config.replay.max_updates,
            ),
            tx,
            num_classes=zoo.num_classes,
            options=options,
            memory=config.memory,
            align=config.align,
            augment_per_image=recipe.objective.augment_per_image,
            map_tasks=run.map_tasks,
        )
    except ValueError as error:
        raise InputError(f"config: {error}") from None
    images = options.teachers_per_step * way * options.images_per_class
    return Method(
        title=base.title(config.algorithm, tasks.zoo),
        **base.taught_by(algorithm, tasks.zoo),
        network=student,
        subject=base.adapted(
            config.algorithm,
            config.learner.kind,
            test_learner,
            recovered=lambda state: state.memory,
            pseudo_task=(config.replay.shots, config.replay.queries),
            rows=tasks.rows,
        ),
        meters=Meters(
            status={
                "inversion_ce": "ce",
                "teacher_accuracy": "teacher acc",
                "replay_accuracy": "replay acc",
            },
            images_per_step=images,
            gradients_per_step=images * recipe.num_steps,
            # Replayed updates, and one of the alignment, after the warm-up.
            updates_of=lambda m: m["replay_updates"] + (m["replay_updates"] > 0),
        ),
    )
