"""What a trained meta-model has to beat, under the same episodes."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from free_jax import evaluation, heads, initialization, metalearning, panel
from free_jax import zoo as zoo_lib
from free_jax.architecture import Architecture
from free_jax.evaluation import Accuracy
from free_jax.types import ImageBank

Scores = dict[str, Accuracy]


class Setting(NamedTuple):
    """One evaluation: the episodes every method sees.

    Attributes:
      key: the same key gives every method the same episodes.
      bank: images of the classes to evaluate on.
      way, shots, queries, num_episodes: of the episodes.
      map_tasks: how episodes are spread over devices.
    """

    key: jax.Array
    bank: ImageBank
    way: int
    shots: int
    queries: int
    num_episodes: int
    map_tasks: Callable


class NotApplicable(Exception):
    """A yardstick that this zoo cannot give; the message says why."""


def evaluate(setting: Setting, classify: Callable, params: Any, bank=None) -> Scores:
    """Accuracy of a classifier on the setting's episodes."""
    run = evaluation.evaluator(
        classify,
        way=setting.way,
        shots=setting.shots,
        queries=setting.queries,
        num_episodes=setting.num_episodes,
        map_tasks=setting.map_tasks,
    )
    return run(setting.key, params, setting.bank if bank is None else bank)


def meta_model(
    setting: Setting, learner: metalearning.MetaLearner, params: Any
) -> Scores:
    """A meta-model, adapted to each episode."""
    return evaluate(setting, evaluation.learner_classifier(learner), params)


def random_initialisation(
    setting: Setting, learner: metalearning.MetaLearner, seed: int
) -> Scores:
    """The same model and adaptation from random weights."""
    return meta_model(setting, learner, learner.init(jax.random.key(seed)))


def teacher_average(
    setting: Setting,
    learner: metalearning.MetaLearner,
    student: Architecture,
    zoo: zoo_lib.Zoo,
) -> Scores:
    """The same model and adaptation from the arithmetic mean of all teachers."""
    return meta_model(setting, learner, average_params(student, zoo))


def average_params(student: Architecture, zoo: zoo_lib.Zoo) -> Any:
    """Mean of the teachers' parameters.

    Raises:
      NotApplicable: a teacher is not of the meta-model's architecture.
    """
    others = [arch.name for arch in zoo.architectures if arch != student]
    if others:
        raise NotApplicable(
            f"weights of {', '.join(others)} and {student.name} cannot be averaged"
        )
    stacks = [teachers.variables["params"] for teachers in zoo.teachers]
    return jax.tree.map(lambda *x: np.concatenate(x).mean(0), *stacks)


def one_teacher(setting: Setting, zoo: zoo_lib.Zoo, num_teachers: int = 5) -> Scores:
    """Nearest centroid on one teacher's features, mean over a few teachers."""
    arch, teachers = zoo.architectures[0], zoo.teachers[0]
    num_teachers = min(num_teachers, zoo.groups[0].num_teachers)
    classify = evaluation.centroid_classifier(setting.way)
    describe = panel.describer((arch,), output="features", mirror=False)
    found: list[Scores] = []
    for i in range(num_teachers):
        one = jax.tree.map(lambda x, i=i: x[i : i + 1], teachers)
        described = panel.describe_bank(
            functools.partial(describe, (one,)), setting.bank
        )
        found.append(evaluate(setting, classify, None, described))
    return _mean_over_teachers(found)


def fine_tuned_teacher(
    setting: Setting,
    learner: metalearning.MetaLearner,
    student: Architecture,
    zoo: zoo_lib.Zoo,
    num_teachers: int = 3,
) -> Scores:
    """One teacher with a new head, adapted like a meta-model; mean over a few."""
    if zoo.architectures[0] != student:
        raise NotApplicable(
            f"teachers are {zoo.architectures[0].name}, the meta-model another network"
        )
    found = [
        meta_model(
            setting,
            learner,
            initialization.from_teachers(zoo.teachers[0], "teacher", i),
        )
        for i in range(min(num_teachers, zoo.groups[0].num_teachers))
    ]
    return _mean_over_teachers(found)


def _mean_over_teachers(found: list[Scores]) -> Scores:
    # Teachers are averaged within each episode, so the interval is that of episodes.
    return {
        name: evaluation.summarize(
            np.mean([scores[name].per_episode for scores in found], axis=0) / 100
        )
        for name in found[0]
    }


def whole_panel(setting: Setting, described: ImageBank) -> Scores:
    """Nearest centroid on what all teachers say about an image, see `panel`."""
    classify = evaluation.centroid_classifier(setting.way)
    return evaluate(setting, classify, None, described)


def panel_heads(setting: Setting, described: ImageBank) -> Scores:
    """The same descriptions with the strongest head of each protocol.

    Inductive: ridge regression on the support set. Transductive: centroids refined by
    the queries' own soft assignments.
    """
    classify = evaluation.head_classifier(
        lambda params, x: x,
        heads.centered(heads.ridge(setting.way), "none"),
        heads.centered(heads.transductive_centroids(setting.way), "episode"),
    )
    return evaluate(setting, classify, None, described)
