"""The parts of a method that several share."""

from collections.abc import Callable
from typing import Any

import optax

from experiments.harness.optimizers import optimizer
from experiments.inputs.networks import learners, student
from experiments.stages import build_inversion
from free_jax import zoo as zoo_lib
from free_jax.errors import InputError
from free_jax.fewshot import evaluation
from free_jax.fewshot import learners as learners_lib
from free_jax.fewshot import replay as replay_lib
from free_jax.models import Generator
from free_jax.zoo.network import Network

__all__ = ["learners", "student"]  # What methods read of the config besides.

# Keys of a config with their value and what it may be.
Choices = dict[str, tuple[Any, tuple[str, ...]]]
# Keys of a config whose value must be at least one.
Positive = dict[str, float]


def title(config: Any, zoo: zoo_lib.Zoo | None) -> str:
    """What is trained from what."""
    return f"{config.algorithm}: {zoo.num_teachers if zoo else 0} teachers"


def generator(config: Any, student: Network) -> Generator:
    """The generator of section ``generator``, drawing images of the student's size."""
    section = config.generator
    return Generator(
        image_shape=student.image_shape,
        width=section.width,
        num_classes=config.way if section.labels != "none" else 0,
        label_input="split" if section.labels == "split" else "concat",
    )


def inner_optimizer(options: Any) -> optax.GradientTransformation:
    """What adapts generator and latents to a teacher, from section ``inversion``."""
    return optax.multi_transform(
        {
            "generator": optimizer(options.generator_optimizer),
            "latents": optimizer(options.latent_optimizer),
        },
        {"generator": "generator", "latents": "latents"},
    )


def episode_options(config: Any, map_tasks: Callable) -> dict[str, Any]:
    """Keywords of `replay.episodic_gradients`, as section ``replay`` says."""
    section = config.replay
    return {
        "way": config.way,
        "shots": section.shots,
        "queries": section.queries,
        "episodes_per_update": section.episodes_per_update,
        "augment_images": section.augment,
        "split": section.get("split", "random"),
        "map_tasks": map_tasks,
    }


def recover_limits(recover: Any) -> tuple[Choices, Positive]:
    """What a section ``recover`` may hold."""
    if recover.images_per_class < 0:
        raise InputError(
            f"config.recover.images_per_class={recover.images_per_class} must not be "
            "negative"
        )
    positive = (
        "num_steps",
        "teachers_at_once",
        "generator_width",
        "meta_steps",
        "meta_teachers",
    )
    return (
        {
            "recover.backend": (recover.backend, build_inversion.BACKENDS),
            "recover.start": (recover.start, ("noise", "scenes")),
        },
        {f"recover.{key}": recover[key] for key in positive},
    )


def images_recovered(config: Any, zoo: zoo_lib.Zoo) -> int:
    """How many images section ``recover`` asks for."""
    return zoo.num_teachers * zoo.way * config.recover.images_per_class


def episodic_update(
    config: Any,
    learner: learners_lib.MetaLearner,
    tx: optax.GradientTransformation,
    map_tasks: Callable,
) -> Callable:
    """One meta-update on episodes, as section ``replay`` says."""
    options = episode_options(config, map_tasks)
    return replay_lib.episodic_update(learner, tx, **options)


def adapted(
    config: Any, learner: learners_lib.MetaLearner
) -> dict[str, evaluation.Classify]:
    """The one predictor of a meta-learner: adapt it to the episode."""
    name = f"{config.algorithm} ({config.learner.kind})"
    return {name: evaluation.learner_classifier(learner)}
