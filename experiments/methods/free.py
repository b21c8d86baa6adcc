"""FREE from a config."""

from typing import Any

from experiments.harness.method import Meters, Method
from experiments.harness.optimizers import optimizer
from experiments.harness.run import Run
from experiments.methods import base, episodic
from free_jax import inversion
from free_jax import zoo as zoo_lib
from free_jax.algorithms import free
from free_jax.errors import InputError
from free_jax.fewshot import replay as replay_lib


def limits(config: Any) -> tuple[base.Choices, base.Positive]:
    """What the config may hold."""
    inversion = config.inversion
    choices: base.Choices = {
        "align.distill": (config.align.distill, ("kl", "prob_dot")),
        "inversion.objective.agreement": (
            inversion.objective.agreement,
            ("kl", "prob_dot"),
        ),
        "inversion.outer_state": (inversion.outer_state, ("persistent", "fresh")),
        "inversion.meta_gradient": (inversion.meta_gradient, ("last", "sum")),
        "inversion.keep": (inversion.keep, ("last", "best")),
        "memory.store": (config.memory.store, ("all", "last")),
        "generator.labels": (config.generator.labels, ("none", "split", "concat")),
    }
    positive = {
        "generator.width": config.generator.width,
        "generator.latent_dim": config.generator.latent_dim,
        "inversion.teachers_per_step": inversion.teachers_per_step,
        "inversion.images_per_class": inversion.images_per_class,
    }
    return choices, episodic.limits(config)[1] | positive


def build(config: Any, zoo: zoo_lib.Zoo, run: Run) -> Method:
    """See `methods.build`."""
    student = base.student(config, config.way)
    train_learner, test_learner = base.learners(config, student)
    options = config.inversion
    generator = base.generator(config, student)
    inner = base.inner_optimizer(options)
    objective = inversion.Objective(**options.objective.to_dict())
    needed = config.replay.shots + config.replay.queries
    if needed > options.images_per_class:
        raise InputError(
            f"config.replay needs {needed} images a class (shots + queries) but "
            f"inversion.images_per_class={options.images_per_class} recovers fewer"
        )
    tx = optimizer(config.optimizer)
    update = base.episodic_update(config, train_learner, tx, run.map_tasks)
    try:
        generators = tuple(
            inversion.meta_generator(
                generator,
                arch,
                inner_optimizer=inner,
                objective=objective,
                student=student,
                num_steps=options.num_steps,
                latent_dim=config.generator.latent_dim,
                meta_gradient=options.meta_gradient,
                keep=options.keep,
            )
            for arch in zoo.architectures
        )
        algorithm = free(
            generators,
            zoo.architectures,
            train_learner,
            student,
            replay_lib.replay(
                update,
                patience=config.replay.patience,
                max_updates=config.replay.max_updates,
            ),
            generator_optimizer=optimizer(options.outer_optimizer),
            optimizer=tx,
            align_optimizer=optimizer(config.align.optimizer),
            teachers_per_step=options.teachers_per_step,
            num_classes=zoo.num_classes,
            images_per_class=options.images_per_class,
            memory_per_class=config.memory.per_class,
            warmup_steps=options.warmup_steps,
            distill=config.align.distill,
            hard_label_weight=config.align.hard_label_weight,
            align_scale=config.align.scale,
            augment_per_image=options.objective.augment_per_image,
            store=config.memory.store,
            generator_optimizer_state=options.outer_state,
            map_tasks=run.map_tasks,
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
            images_per_step=options.teachers_per_step
            * config.way
            * options.images_per_class,
            # Replayed updates, and one of the alignment, after the warm-up.
            updates_of=lambda m: m["replay_updates"] + (m["replay_updates"] > 0),
        ),
    )
