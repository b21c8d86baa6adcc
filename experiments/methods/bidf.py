"""BiDf-MKD from a config."""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np

from experiments.harness.method import Meters, Method
from experiments.harness.optimizers import optimizer
from experiments.harness.run import Run
from experiments.methods import base
from experiments.methods.options import Common, Optimizer, Shared
from free_jax import inversion
from free_jax import zoo as zoo_lib
from free_jax.algorithms import bidf, bidf_bilevel
from free_jax.algorithms.bidf import BidfOptions
from free_jax.algorithms.bidf_bilevel import BilevelOptions
from free_jax.errors import InputError
from free_jax.fewshot import replay as replay_lib
from free_jax.fewshot.banks import CapacityOptions
from free_jax.fewshot.learners import LearnerOptions
from free_jax.fewshot.replay import ReplayOptions
from free_jax.inversion import answers
from free_jax.inversion.answers import BlackBoxOptions
from free_jax.inversion.objective import Objective
from free_jax.inversion.recipe import Recipe
from free_jax.options import adam
from free_jax.zoo import tasks as task_lib
from free_jax.zoo.network import Network

# A black box gives no statistics.
QUERIES = Recipe(
    source="generator",
    num_steps=40,
    optimizer=adam(1e-2, b1=0.5),
    decay="none",
    meta_gradient="reptile",
    objective=Objective(moments=0.0),
    estimator=inversion.Estimator(
        num_directions=4, smoothing=0.5, frequencies=5, at_once=4
    ),
)


class Config(NamedTuple):
    """Every key of a BiDf-MKD run; a step is one teacher."""

    algorithm: Literal["bidf"] = "bidf"
    common: Shared = Common(num_steps=300)
    inversion: Recipe = QUERIES
    recover: BidfOptions = BidfOptions()
    black_box: BlackBoxOptions = BlackBoxOptions()
    distill: BilevelOptions = BilevelOptions()
    memory: CapacityOptions = CapacityOptions()
    learner: LearnerOptions = LearnerOptions()
    optimizer: Optimizer = adam(3e-3)  # 1e-3 in the released code
    # 200 updates without a new best in the released code.
    replay: ReplayOptions = ReplayOptions(
        episodes_per_update=4, patience=200, max_updates=100
    )


def check(config: Config) -> None:
    """Refuses keys that contradict each other."""
    if config.replay.episodes_per_update < 2:
        raise InputError(
            f"config.replay.episodes_per_update={config.replay.episodes_per_update}: "
            "one task of an update is the distillation, so at least 2 are needed"
        )


def able(config: Config, zoo: zoo_lib.Zoo) -> task_lib.Able:
    """See `methods.able`."""
    needs = base.needs_of(config.inversion)
    return base.able(config.algorithm, zoo, config.common.way, needs)


def build(config: Config, zoo: zoo_lib.Zoo, run: Run) -> Method:
    """See `methods.build`."""
    way = config.common.way
    student = base.student(config.common, way, zoo)
    train_learner, test_learner = base.learners(config.learner, student)
    options, recipe = config.recover, config.inversion
    needed = config.replay.shots + config.replay.queries
    if needed > 2 * options.images_per_class:
        raise InputError(
            f"config.replay needs {needed} images a class (shots + queries) but two "
            f"sets of recover.images_per_class={options.images_per_class} hold fewer"
        )
    tx = optimizer(config.optimizer)
    update = base.episodic_update(config.replay, way, train_learner, tx, run.map_tasks)
    # One task of the update that holds the distillation is the distillation.
    beside = base.episode_options(config.replay, way, run.map_tasks)
    beside["episodes_per_update"] -= 1
    try:
        tasks = base.tasks(able(config, zoo), way, respond_of(config.black_box))
        algorithm = bidf(
            inverters(config, tasks.zoo.networks, student),
            tasks.networks,
            train_learner,
            student,
            bidf_bilevel.bilevel(
                student,
                distill=config.distill.loss,
                inner_lr=config.distill.inner_lr,
                num_steps=config.distill.num_steps,
            ),
            replay_lib.episodic_gradients(train_learner, **beside),
            replay_lib.replay(
                update,
                patience=config.replay.patience,
                max_updates=config.replay.max_updates,
            ),
            tx,
            num_teachers=tuple(group.num_teachers for group in tasks.zoo.groups),
            num_classes=zoo.num_classes,
            options=options,
            memory=config.memory,
            augment_per_image=recipe.objective.augment_per_image,
        )
    except ValueError as error:
        raise InputError(f"config: {error}") from None
    images = 2 * way * options.images_per_class
    white = bool(base.needs_of(recipe))
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
            # Of others its queries are counted, which are forward passes.
            gradients_per_step=images * recipe.num_steps if white else 0,
            updates_of=lambda m: m["replay_updates"] + 1,
            queries_of=lambda state: np.concatenate(
                [np.asarray(spent, np.int64) for spent in state.queries]
            ),
        ),
    )


def respond_of(box: BlackBoxOptions) -> Callable | None:
    """What the teachers tell of their logits; None: all."""
    if box.gives == "logits":
        return None
    return answers.answers(box.gives, digits=box.digits, top_k=box.top_k)


def inverters(
    config: Config, networks: Sequence[Network], student: Network
) -> tuple[inversion.Inverter, ...]:
    """One a network; all adapt the same generator.

    Args:
      config: of the run.
      networks: of the teachers, with all of their classes.
      student: the meta-model.

    Raises:
      ValueError: options that contradict each other or the teachers.
    """
    shape, way, found = student.image_shape, student.num_classes, []
    for network in networks:
        recipe, respond = config.inversion, respond_of(config.black_box)
        if not inversion.is_estimated(recipe, network):
            # Of its logits: what a service makes of them may have no gradient.
            recipe, respond = inversion.suited(recipe, network), None
        network = task_lib.narrowed(network, way, respond)
        found.append(inversion.build(recipe, network, student, image_shape=shape))
    return tuple(found)
