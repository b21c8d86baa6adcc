"""BiDf-MKD from a config."""

from collections.abc import Callable
from typing import Any

import numpy as np

from experiments.harness.method import Meters, Method
from experiments.harness.optimizers import optimizer
from experiments.harness.run import Run
from experiments.methods import base, episodic
from free_jax import inversion
from free_jax import zoo as zoo_lib
from free_jax.algorithms import bidf, bidf_bilevel
from free_jax.errors import InputError
from free_jax.fewshot import replay as replay_lib
from free_jax.inversion import answers

GRADIENTS = ("zero_order", "white_box")


def limits(config: Any) -> tuple[base.Choices, base.Positive]:
    """What the config may hold."""
    inversion, box = config.inversion, config.black_box
    choices: base.Choices = {
        "black_box.gradient": (box.gradient, GRADIENTS),
        "black_box.gives": (box.gives, answers.GIVES),
        "distill.loss": (config.distill.loss, ("kl", "prob_dot")),
        "inversion.objective.agreement": (
            inversion.objective.agreement,
            ("kl", "prob_dot", "l1"),
        ),
        "inversion.meta_gradient": (
            inversion.meta_gradient,
            ("last", "sum", "reptile"),
        ),
        "inversion.keep": (inversion.keep, ("last", "best")),
        "generator.labels": (config.generator.labels, ("none", "split", "concat")),
        "generator.start": (config.generator.start, ("shared", "fresh")),
    }
    if config.replay.episodes_per_update < 2:
        raise InputError(
            f"config.replay.episodes_per_update={config.replay.episodes_per_update}: "
            "one task of an update is the distillation, so at least 2 are needed"
        )
    positive = {
        "generator.width": config.generator.width,
        "generator.latent_dim": config.generator.latent_dim,
        "inversion.images_per_class": inversion.images_per_class,
        "inversion.num_steps": inversion.num_steps,
        "black_box.num_directions": box.num_directions,
        "black_box.at_once": box.at_once,
        "black_box.digits": box.digits,
        "black_box.top_k": box.top_k,
        "distill.num_steps": config.distill.num_steps,
    }
    return choices, episodic.limits(config)[1] | positive


def build(config: Any, zoo: zoo_lib.Zoo, run: Run) -> Method:
    """See `methods.build`."""
    student = base.student(config, config.way)
    train_learner, test_learner = base.learners(config, student)
    options = config.inversion
    needed = config.replay.shots + config.replay.queries
    if needed > 2 * options.images_per_class:
        raise InputError(
            f"config.replay needs {needed} images a class (shots + queries) but two "
            f"sets of inversion.images_per_class={options.images_per_class} hold fewer"
        )
    tx = optimizer(config.optimizer)
    update = base.episodic_update(config, train_learner, tx, run.map_tasks)
    # One task of the update that holds the distillation is the distillation.
    beside = base.episode_options(config, run.map_tasks)
    beside["episodes_per_update"] -= 1
    try:
        respond = respond_of(config)
        algorithm = bidf(
            inverters(config, zoo, student, respond),
            zoo.architectures,
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
            optimizer=tx,
            generator_optimizer=optimizer(options.outer_optimizer),
            num_teachers=tuple(group.num_teachers for group in zoo.groups),
            num_classes=zoo.num_classes,
            images_per_class=options.images_per_class,
            memory_per_class=config.memory.per_class,
            boundary_after=options.boundary_after,
            generator_start=config.generator.start,
            augment_per_image=options.objective.augment_per_image,
            respond=respond,
        )
    except ValueError as error:
        raise InputError(f"config: {error}") from None
    return Method(
        title=base.title(config, zoo),
        algorithm=algorithm,
        data=zoo.teachers,
        network=student,
        predictors=base.adapted(config, test_learner),
        pseudo_task=(config.replay.shots, config.replay.queries),
        recovered=lambda state: state.memory,
        meters=Meters(
            status={
                "inversion_ce": "ce",
                "teacher_accuracy": "teacher acc",
                "replay_accuracy": "replay acc",
            },
            images_per_step=2 * config.way * options.images_per_class,
            updates_of=lambda m: m["replay_updates"] + 1,
            queries_of=lambda state: np.concatenate(
                [np.asarray(spent, np.int64) for spent in state.queries]
            ),
        ),
    )


def respond_of(config: Any) -> Callable:
    """What the teachers tell of their logits."""
    box = config.black_box
    return answers.answers(box.gives, digits=box.digits, top_k=box.top_k)


def inverters(
    config: Any, zoo: zoo_lib.Zoo, student: Any, respond: Callable
) -> tuple[inversion.Inverter, ...]:
    """One an architecture; all adapt the same generator.

    Raises:
      ValueError: options that cannot be meant.
    """
    options, box = config.inversion, config.black_box
    generator = base.generator(config, student)
    inner = base.inner_optimizer(options)
    estimator = None
    if box.gradient == "zero_order":
        estimator = inversion.Estimator(
            num_directions=box.num_directions,
            smoothing=box.smoothing,
            frequencies=box.frequencies,
            antithetic=box.antithetic,
            at_once=box.at_once,
        )
    return tuple(
        inversion.meta_generator(
            generator,
            arch,
            inner_optimizer=inner,
            objective=inversion.Objective(**options.objective.to_dict()),
            student=student,
            num_steps=options.num_steps,
            latent_dim=config.generator.latent_dim,
            meta_gradient=options.meta_gradient,
            keep=options.keep,
            estimator=estimator,
            respond=respond,
        )
        for arch in zoo.architectures
    )
