"""The parts of a method that several share."""

from collections.abc import Callable
from typing import Any

import optax

from experiments.harness import sections
from experiments.inputs.networks import learners, student
from free_jax import inversion
from free_jax import zoo as zoo_lib
from free_jax.fewshot import evaluation
from free_jax.fewshot import learners as learners_lib
from free_jax.fewshot import replay as replay_lib

__all__ = ["learners", "student"]  # What methods read of the config besides.


def title(config: Any, zoo: zoo_lib.Zoo | None) -> str:
    """What is trained from what."""
    return f"{config.algorithm}: {zoo.num_teachers if zoo else 0} teachers"


def recipe(section: Any, name: str = "inversion") -> inversion.Recipe:
    """The inversion that a section of the config describes."""
    return sections.read(inversion.Recipe, section, f"config.{name}")


def episode_options(config: Any, map_tasks: Callable) -> dict[str, Any]:
    """Keywords of `replay.episodic_gradients`, as section ``replay`` says."""
    section = config.replay
    return {
        "way": config.way,
        "shots": section.shots,
        "queries": section.queries,
        "episodes_per_update": section.episodes_per_update,
        "augment_images": section.augment,
        "split": section.split,
        "map_tasks": map_tasks,
    }


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
