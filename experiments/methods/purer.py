"""PURER from a config."""

import functools
from typing import Annotated, Literal, NamedTuple

import numpy as np

from experiments.evaluation.options import EvalOptions
from experiments.harness.method import Meters, Method
from experiments.harness.optimizers import optimizer
from experiments.harness.options import LogOptions
from experiments.harness.run import Run
from experiments.harness.sections import Flat
from experiments.methods import base
from experiments.methods.options import Common, Optimizer, Shared
from free_jax import inversion
from free_jax import zoo as zoo_lib
from free_jax.algorithms import icfil, purer
from free_jax.algorithms.icfil import IcfilOptions
from free_jax.algorithms.purer import PurerOptions, as_bank, known_classes
from free_jax.algorithms.purer_curriculum import CurriculumOptions
from free_jax.errors import InputError
from free_jax.fewshot import episodes, evaluation, initialization
from free_jax.fewshot.learners import LearnerOptions, MetaLearner
from free_jax.fewshot.replay import EpisodeOptions
from free_jax.inversion.recipe import Recipe
from free_jax.options import AtLeast, adam
from free_jax.zoo import tasks as task_lib
from free_jax.zoo.network import Network


class PoolOptions(NamedTuple):
    """The images that are learned, and whose teachers judge them.

    Attributes:
      disjoint: only that many teachers, none of whom shares a class; 0 is all.
    """

    images: Annotated[PurerOptions, Flat()] = PurerOptions()
    disjoint: Annotated[int, AtLeast(0)] = 0


# One step of Adam is made in each update; .25 in PURER, .01 in PURER-Plus.
PIXELS = Recipe(
    source="normalized_pixels",
    deviation=1.0,
    num_steps=1,
    optimizer=adam(0.05),
    decay="none",
    objective=inversion.Objective(
        moments=0.01,
        total_variation=1e-4,
        variation="frobenius",
        l2=1e-5,
        crop_padding=2,
        edges="wrap",
        flip=False,
        augment_per_image=False,
    ),
)


class Config(NamedTuple):
    """Every key of a PURER run.

    Attributes:
      init: the meta-model starts at "random", as the "average" of the teachers, or as
        a "teacher".
    """

    algorithm: Literal["purer"] = "purer"
    common: Shared = Common(
        num_steps=60000,
        log=LogOptions(every_steps=20),
        eval=EvalOptions(every_steps=500, baselines=("random", "average")),
    )
    init: Literal["random", "average", "teacher"] = "random"
    inversion: Recipe = PIXELS
    recover: PoolOptions = PoolOptions()
    curriculum: CurriculumOptions = CurriculumOptions()
    learner: LearnerOptions = LearnerOptions()  # 1 and 1 step in PURER's scripts
    optimizer: Optimizer = adam(1e-3)
    replay: EpisodeOptions = EpisodeOptions(episodes_per_update=4, augment=False)
    icfil: IcfilOptions = IcfilOptions()


def check(config: Config) -> None:
    """Refuses keys that contradict each other."""
    if config.icfil.num_steps and not config.learner.adapts:
        raise InputError(
            "config.icfil.num_steps > 0 follows an inner loop, which protonet has not; "
            "choose learner maml or anil, or icfil.num_steps=0"
        )
    needed = config.replay.shots + config.replay.queries
    if needed > config.recover.images.images_per_class:
        raise InputError(
            f"config.replay needs {needed} images a class (shots + queries) but "
            f"recover.images_per_class={config.recover.images.images_per_class} are "
            "learned"
        )
    if config.init != "random" and config.learner.init_from:
        raise InputError(
            f"config.init={config.init} and config.learner.init_from exclude each "
            "other: start from the teachers, or from a saved model"
        )
    _check_recipe(config.inversion)


def able(config: Config, zoo: zoo_lib.Zoo) -> task_lib.Able:
    """See `methods.able`."""
    return base.able(config.algorithm, zoo, config.common.way, base.GRADIENTS)


def build(config: Config, zoo: zoo_lib.Zoo, run: Run) -> Method:
    """See `methods.build`."""
    common, way = config.common, config.common.way
    options, replay = config.recover.images, config.replay
    recipe = config.inversion
    # Of the size that all teachers of the run say, as its real images are.
    student = base.student(common, way, zoo)
    zoo, rows = _pool(config, zoo)
    train_learner, test_learner = base.learners(config.learner, student)
    train_learner = _started(config, train_learner, student, zoo)
    counts = np.asarray(known_classes(zoo.teachers, zoo.num_classes))
    if counts.sum() < way:
        raise InputError(
            f"the teachers know {counts.sum()} classes, an episode needs {way}"
        )
    source = inversion.build_source(recipe, student)
    tx = optimizer(config.optimizer)
    update = base.episodic_update(config.replay, way, train_learner, tx, run.map_tasks)
    sample = functools.partial(
        episodes.sample_episode,
        way=way,
        shots=replay.shots,
        queries=replay.queries,
        split=replay.split,
    )
    try:
        algorithm = purer(
            source,
            tuple(
                inversion.build_objective_gradient(
                    inversion.suited(recipe, network), task_lib.narrowed(network, way)
                )
                for network in zoo.networks
            ),
            train_learner,
            update,
            sample,
            pixels_optimizer=inversion.leaves_optimizer(recipe),
            optimizer=tx,
            num_classes=zoo.num_classes,
            way=way,
            options=options,
            curriculum=config.curriculum,
            map_tasks=run.map_tasks,
        )
        subject = base.adapted(
            config.algorithm,
            config.learner.kind,
            test_learner,
            recovered=lambda state: as_bank(source, state, zoo.teachers),
            pseudo_task=(replay.shots, replay.queries),
            rows=rows,
        )
        predictors = subject.predictors | _calibrated(config, student, test_learner)
    except ValueError as error:
        raise InputError(f"config: {error}") from None
    return Method(
        title=base.title(config.algorithm, zoo),
        **base.taught_by(algorithm, zoo),
        network=student,
        subject=subject._replace(predictors=predictors),
        meters=Meters(
            status={
                "inversion_ce": "ce",
                "replay_accuracy": "train acc",
                "adversarial": "adversarial",
            },
            images_before=int(counts.sum()) * options.images_per_class,
            gradients_per_step=(
                way * options.images_per_class * options.teachers_per_step
            ),
        ),
    )


def _pool(config: Config, zoo: zoo_lib.Zoo) -> tuple[zoo_lib.Zoo, np.ndarray | None]:
    """The teachers that take part, and their numbers in the whole zoo; None: all."""
    tasks = base.tasks(able(config, zoo), config.common.way)
    if not config.recover.disjoint:
        return tasks.zoo, tasks.rows
    chosen = zoo_lib.disjoint_rows(tasks.zoo, config.recover.disjoint)
    rows = chosen if tasks.rows is None else tasks.rows[chosen]
    return zoo_lib.select(tasks.zoo, chosen), rows


def _check_recipe(recipe: Recipe) -> None:
    """Refuses what PURER's inversion, one step of the pixels an update, leaves out."""
    if recipe.source == "generator":
        raise InputError(
            "config.inversion.source=generator: PURER learns the pixels themselves; "
            "choose normalized_pixels or pixels"
        )
    for key in (
        "num_steps",
        "decay",
        "meta_gradient",
        "keep",
        "estimator",
        "generator",
    ):
        value, only = getattr(recipe, key), getattr(PIXELS, key)
        if value != only:
            raise InputError(
                f"config.inversion.{key}={value}: PURER moves its pixels by one step "
                "of the optimizer in each update and differentiates the teachers; "
                f"leave it at {only}"
            )


def _started(
    config: Config, learner: MetaLearner, student: Network, zoo: zoo_lib.Zoo
) -> MetaLearner:
    """The learner with the configured initialisation."""
    if config.init == "random":
        return learner
    others = [network.name for network in zoo.networks if network != student]
    if others or len(zoo.groups) > 1:
        raise InputError(
            f"config.init={config.init}: teachers ({', '.join(others)}) and meta-"
            f"model ({student.name}) must be one architecture; choose init=random"
        )
    params = initialization.from_teachers(zoo.teachers[0], config.init)
    return learner._replace(init=lambda key: params)


def _calibrated(
    config: Config, student: Network, learner: MetaLearner
) -> dict[str, evaluation.Classify]:
    """The second predictor, where ``config.icfil`` asks for it."""
    options = config.icfil
    if not options.num_steps:
        return {}
    inverter = inversion.build(options.inversion, student)
    calibrate = icfil.calibrator(
        student,
        inverter,
        images_per_class=options.images_per_class,
        num_steps=options.num_steps,
        learning_rate=options.learning_rate,
        temperature=options.temperature,
        cross_entropy=options.cross_entropy,
        seed=config.common.seed,
    )
    learner = icfil.calibrated(learner, calibrate)
    name = f"{config.algorithm} ({config.learner.kind}), calibrated"
    return {name: evaluation.learner_classifier(learner)}
