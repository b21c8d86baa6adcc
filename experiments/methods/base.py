"""The parts of a method that several share."""

from collections.abc import Callable
from typing import Any

import optax

from experiments import inputs
from experiments.inputs import networks
from experiments.inputs.networks import learners
from experiments.methods.options import Common
from experiments.stages.options import Recovery
from free_jax import panel
from free_jax import zoo as zoo_lib
from free_jax.fewshot import evaluation
from free_jax.fewshot import learners as learners_lib
from free_jax.fewshot import replay as replay_lib
from free_jax.fewshot.replay import EpisodeOptions, ReplayOptions
from free_jax.zoo.network import Network

__all__ = ["learners"]  # What methods read of a config besides.


def title(algorithm: str, zoo: zoo_lib.Zoo | None) -> str:
    """What is trained from what."""
    return f"{algorithm}: {zoo.num_teachers if zoo else 0} teachers"


def student(common: Common, outputs: int) -> Network:
    """The meta-model with so many outputs."""
    return networks.student(common.student, outputs, common.data, common.dtype)


def episode_options(
    section: EpisodeOptions | ReplayOptions, way: int, map_tasks: Callable
) -> dict[str, Any]:
    """Keywords of `replay.episodic_gradients`."""
    return {
        "way": way,
        "shots": section.shots,
        "queries": section.queries,
        "episodes_per_update": section.episodes_per_update,
        "augment_images": section.augment,
        "split": section.split,
        "map_tasks": map_tasks,
    }


def images_wanted(section: Recovery, common: Common) -> panel.RecoverOptions:
    """What is recovered, in the size of the data."""
    size = inputs.preset(common.data).image_size
    return section.anew._replace(image_size=size)


def images_recovered(wanted: panel.RecoverOptions, zoo: zoo_lib.Zoo) -> int:
    """How many images that makes."""
    return zoo.num_teachers * zoo.way * wanted.images_per_class


def episodic_update(
    section: EpisodeOptions | ReplayOptions,
    way: int,
    learner: learners_lib.MetaLearner,
    tx: optax.GradientTransformation,
    map_tasks: Callable,
) -> Callable:
    """One meta-update on episodes."""
    options = episode_options(section, way, map_tasks)
    return replay_lib.episodic_update(learner, tx, **options)


def adapted(
    algorithm: str, kind: str, learner: learners_lib.MetaLearner
) -> dict[str, evaluation.Classify]:
    """The one predictor of a meta-learner: adapt it to the episode."""
    return {f"{algorithm} ({kind})": evaluation.learner_classifier(learner)}
