"""PURER from a config."""

from typing import Any

import numpy as np

from experiments.harness.method import Meters, Method
from experiments.harness.optimizers import optimizer
from experiments.harness.run import Run
from experiments.methods import base, episodic
from free_jax import inversion
from free_jax import zoo as zoo_lib
from free_jax.algorithms import icfil, purer
from free_jax.algorithms.purer import as_bank, known_classes
from free_jax.errors import InputError
from free_jax.fewshot import episodes, evaluation, initialization
from free_jax.fewshot.learners import MetaLearner
from free_jax.zoo.network import Network


def limits(config: Any) -> tuple[base.Choices, base.Positive]:
    """What the config may hold."""
    pixels, begin = config.pixels, config.curriculum.begin
    if config.calibration.num_steps and config.learner.kind == "protonet":
        raise InputError(
            "config.calibration.num_steps > 0 follows an inner loop, which protonet "
            "has not; choose learner maml or anil, or calibration.num_steps=0"
        )
    if config.curriculum.adversarial < 0 or config.calibration.num_steps < 0:
        raise InputError(
            f"config.curriculum.adversarial={config.curriculum.adversarial} and "
            f"calibration.num_steps={config.calibration.num_steps} must not be negative"
        )
    choices: base.Choices = {
        "start": (config.start, ("random", "average", "teacher")),
        "pixels.source": (pixels.source, ("normalized", "sigmoid")),
        "pixels.weighting": (pixels.weighting, ("uniform", "prefix")),
        "pixels.label_order": (pixels.label_order, ("teacher", "sorted")),
        "pixels.objective.variation": (
            pixels.objective.variation,
            ("mean", "frobenius"),
        ),
        "replay.split": (config.replay.split, ("random", "fixed")),
        "curriculum.begin": (begin, ("adversarial", "patience")),
    }
    positive = {
        "pixels.teachers_per_step": pixels.teachers_per_step,
        "pixels.images_per_class": pixels.images_per_class,
        "curriculum.patience": config.curriculum.patience,
    }
    return choices, episodic.limits(config)[1] | positive


def build(config: Any, zoo: zoo_lib.Zoo, run: Run) -> Method:
    """See `methods.build`."""
    options, replay = config.pixels, config.replay
    if config.zoo.disjoint:
        zoo = zoo_lib.disjoint(zoo, config.zoo.disjoint)
    student = base.student(config, config.way)
    train_learner, test_learner = base.learners(config, student)
    train_learner = _started(config, train_learner, student, zoo)
    needed = replay.shots + replay.queries
    if needed > options.images_per_class:
        raise InputError(
            f"config.replay needs {needed} images a class (shots + queries) but "
            f"pixels.images_per_class={options.images_per_class} are learned"
        )
    counts = np.asarray(known_classes(zoo.teachers, zoo.num_classes))
    if counts.sum() < config.way:
        raise InputError(
            f"the teachers know {counts.sum()} classes, an episode needs {config.way}"
        )
    if options.source == "sigmoid":
        source = inversion.pixel_source(student.image_shape, options.deviation)
    else:
        source = inversion.normalized_source(
            student.image_shape, student.mean, student.std, options.deviation
        )
    tx = optimizer(config.optimizer)
    update = base.episodic_update(config, train_learner, tx, run.map_tasks)

    def sample(key, bank):
        return episodes.sample_episode(
            key,
            bank,
            way=config.way,
            shots=replay.shots,
            queries=replay.queries,
            split=replay.split,
        )

    try:
        objective = inversion.Objective(**options.objective.to_dict())
        algorithm = purer(
            source,
            tuple(inversion.white_box(objective, arch) for arch in zoo.architectures),
            train_learner,
            update,
            sample,
            pixels_optimizer=optimizer(options.optimizer),
            optimizer=tx,
            teachers_per_step=options.teachers_per_step,
            num_classes=zoo.num_classes,
            images_per_class=options.images_per_class,
            adversarial=config.curriculum.adversarial,
            curriculum_start=config.curriculum.start,
            patience=config.curriculum.patience,
            begin=config.curriculum.begin,
            weighting=options.weighting,
            label_order=options.label_order,
            map_tasks=run.map_tasks,
        )
        predictors = base.adapted(config, test_learner)
        predictors |= _calibrated(config, student, test_learner)
    except ValueError as error:
        raise InputError(f"config: {error}") from None
    return Method(
        title=base.title(config, zoo),
        algorithm=algorithm,
        data=zoo.teachers,
        network=student,
        predictors=predictors,
        recovered=lambda state: as_bank(source, state, zoo.teachers),
        pseudo_task=(replay.shots, replay.queries),
        meters=Meters(
            status={
                "inversion_ce": "ce",
                "replay_accuracy": "train acc",
                "adversarial": "adversarial",
            },
            images_before=int(counts.sum()) * options.images_per_class,
        ),
    )


def _started(
    config: Any, learner: MetaLearner, student: Network, zoo: zoo_lib.Zoo
) -> MetaLearner:
    """The learner with the configured initialisation."""
    if config.start == "random":
        return learner
    others = [arch.name for arch in zoo.architectures if arch != student]
    if others or len(zoo.groups) > 1:
        raise InputError(
            f"config.start={config.start}: teachers ({', '.join(others)}) and meta-"
            f"model ({student.name}) must be one architecture; choose start=random"
        )
    params = initialization.from_teachers(zoo.teachers[0], config.start)
    return learner._replace(init=lambda key: params)


def _calibrated(
    config: Any, student: Network, learner: MetaLearner
) -> dict[str, evaluation.Classify]:
    """The second predictor, where ``config.calibration`` asks for it."""
    options = config.calibration
    if not options.num_steps:
        return {}
    inverter = inversion.pixel_inverter(
        student,
        num_steps=options.inversion_steps,
        learning_rate=options.inversion_rate,
        objective=inversion.Objective(**options.objective.to_dict()),
    )
    calibrate = icfil.calibrator(
        student,
        inverter,
        images_per_class=options.images_per_class,
        num_steps=options.num_steps,
        learning_rate=options.learning_rate,
        temperature=options.temperature,
        cross_entropy=options.cross_entropy,
        seed=config.seed,
    )
    learner = icfil.calibrated(learner, calibrate)
    name = f"{config.algorithm} ({config.learner.kind}), calibrated"
    return {name: evaluation.learner_classifier(learner)}
