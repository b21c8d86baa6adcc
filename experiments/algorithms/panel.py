"""Panel distillation from a config."""

from collections.abc import Callable
from typing import Any

import optax

from experiments import build_inversion, inputs, panel_methods
from experiments.algorithms import base
from experiments.optimizers import optimizer
from free_jax import zoo as zoo_lib
from free_jax.algorithms import panel_distillation
from free_jax.errors import InputError


def limits(config: Any) -> tuple[base.Choices, base.Positive]:
    """What the config may hold."""
    recover = config.recover
    if config.eval.select == "pseudo":
        raise InputError(
            "config.eval.select=pseudo: the panel keeps no tasks to select by; choose "
            "last or val"
        )
    if recover.images_per_class < 0 or recover.scenes < 0:
        raise InputError(
            f"config.recover: images_per_class={recover.images_per_class} and scenes="
            f"{recover.scenes} must not be negative"
        )
    if not recover.images_per_class and not recover.scenes:
        raise InputError(
            "config.recover: images_per_class=0 and scenes=0 leave nothing to learn "
            "from; ask for one of them"
        )
    choices: base.Choices = {
        "recover.backend": (recover.backend, build_inversion.BACKENDS),
        "distill.mix": (config.distill.mix, ("none", "mixup", "cutmix")),
    }
    positive = {
        "recover.num_steps": recover.num_steps,
        "recover.teachers_at_once": recover.teachers_at_once,
        "recover.generator_width": recover.generator_width,
        "distill.batch_size": config.distill.batch_size,
    }
    return choices, positive


def build(
    config: Any, zoo: zoo_lib.Zoo, map_tasks: Callable, prepare: Callable
) -> base.Experiment:
    """See `algorithms.experiment`."""
    chosen = inputs.preset(config)
    asked = panel_teachers(config, zoo)
    num_teachers = asked.num_teachers
    model = base.classifier(config.student, num_teachers * zoo.way, chosen)
    options = config.distill
    tx = optimizer(options.optimizer)
    if options.cosine:
        decay = optax.cosine_decay_schedule(1.0, config.num_steps)
        tx = optax.chain(tx, optax.scale_by_schedule(decay))
    try:
        algorithm = panel_distillation(
            model,
            num_teachers=num_teachers,
            optimizer=tx,
            batch_size=options.batch_size,
            groups=options.groups,
            map_tasks=map_tasks,
            temperature=options.temperature,
            crop_padding=options.crop_padding,
            mix=options.mix,
            similarity=options.similarity,
        )
    except ValueError as error:
        raise InputError(f"config.distill: {error}") from None
    # The same network with a head of one output a way: what is adapted by gradient,
    # and what the yardsticks start from.
    student = base.classifier(config.student, config.way, chosen)
    _, test_learner = base.learners(config, student)
    described = prepare(zoo, asked, map_tasks)  # Last: it takes minutes.
    return base.Experiment(
        algorithm=algorithm,
        data=described,
        model=model,
        student=student,
        methods=panel_methods.methods(
            model,
            way=config.way,
            num_teachers=num_teachers,
            weights=described.weights,
            temperature=options.temperature,
            learner=test_learner,
        ),
        test_learner=test_learner,
        pseudo_task=(1, 15),
        images_per_step=0,
        status={"distill_loss": "kl", "agreement": "agree"},
        memory_of=None,
        zoo=zoo,
    )


def panel_teachers(config: Any, zoo: zoo_lib.Zoo) -> zoo_lib.Zoo:
    """The teachers that are asked: all, or the first few of each group."""
    count = config.panel.teachers
    return zoo_lib.subset(zoo, count) if count else zoo
