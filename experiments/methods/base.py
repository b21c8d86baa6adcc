"""The parts of a method that several share."""

from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from experiments import inputs
from experiments.evaluation.subject import Subject
from experiments.harness.run import Run
from experiments.inputs import networks
from experiments.inputs.networks import learners
from experiments.methods.options import Common
from experiments.stages import own_tasks, recover
from experiments.stages.options import Recovery
from free_jax import nouns, panel, rows
from free_jax import zoo as zoo_lib
from free_jax.algorithm import Algorithm
from free_jax.algorithms.recovered_tasks import OwnTaskOptions
from free_jax.errors import InputError
from free_jax.fewshot import evaluation
from free_jax.fewshot import learners as learners_lib
from free_jax.fewshot import replay as replay_lib
from free_jax.fewshot.replay import EpisodeOptions, ReplayOptions
from free_jax.inversion import Recipe, invertible
from free_jax.zoo import tasks as task_lib
from free_jax.zoo.network import Network

__all__ = ["learners"]  # What methods read of a config besides.


def title(algorithm: str, zoo: zoo_lib.Zoo | None) -> str:
    """What is trained from what."""
    return f"{algorithm}: {nouns.count(zoo.num_teachers if zoo else 0, 'teacher')}"


def student(common: Common, outputs: int, zoo: zoo_lib.Zoo | None = None) -> Network:
    """The meta-model with so many outputs, for images as the teachers see them."""
    return networks.student(common.student, outputs, common.data, common.dtype, zoo)


class Tasks(NamedTuple):
    """The teachers that tasks are made of, see `free_jax.zoo.tasks`.

    Attributes:
      zoo: of those that can take part.
      networks: one a group, narrowed to the classes of a task.
      rows: their numbers in the whole zoo; None: all take part.
    """

    zoo: zoo_lib.Zoo
    networks: tuple[Network, ...]
    rows: np.ndarray | None


# What is asked of a network that is differentiated.
GRADIENTS = ("gradients",)


def able(
    algorithm: str, zoo: zoo_lib.Zoo, way: int, needs: Collection[str] = ()
) -> task_lib.Able:
    """The teachers that a method can make tasks of.

    Args:
      algorithm: the method's name.
      zoo: all teachers.
      way: classes of a task.
      needs: what the method asks of a network besides answers.

    Raises:
      InputError: no teacher can take part.
    """
    try:
        return task_lib.able(zoo, way, needs)
    except InputError as error:
        raise InputError(
            f"{algorithm} makes tasks of {way} classes (config.way): {error}; lower "
            "config.way, or use the panel (experiments/configs/panel.py), which takes "
            "teachers of any kind"
        ) from None


def tasks(able: task_lib.Able, way: int, respond: Callable | None = None) -> Tasks:
    """Tasks of the teachers that a method can use; says who is left out, and why.

    Args:
      able: see `able`.
      way: classes of a task.
      respond: see `zoo.tasks.narrowed`.
    """
    for line in able.left_out:
        print(f"left out: {line}; the panel would use it", flush=True)
    networks = tuple(
        task_lib.narrowed(network, way, respond) for network in able.zoo.networks
    )
    return Tasks(able.zoo, networks, able.rows if able.left_out else None)


def taught_by(algorithm: Algorithm, zoo: zoo_lib.Zoo) -> dict[str, Any]:
    """``algorithm`` and ``data`` of a `Method` whose steps draw teachers.

    Those of a zoo in files are read when a step draws them, and fed to it; others are
    on the device from the start.
    """
    if not any(map(rows.in_files, jax.tree.leaves(zoo.teachers))):
        return {"algorithm": algorithm._replace(feed=None), "data": zoo.teachers}

    def on_host(leaf: Any) -> Any:
        return leaf if rows.in_files(leaf) else np.asarray(leaf)

    return {"algorithm": algorithm, "data": jax.tree.map(on_host, zoo.teachers)}


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


def images_wanted(
    section: Recovery, common: Common, zoo: zoo_lib.Zoo | None = None
) -> panel.RecoverOptions:
    """What is recovered, in the size of the meta-model's images unless it says one."""
    wanted = section.anew
    if wanted.image_size:
        return wanted
    return wanted._replace(image_size=inputs.preset(common.data, zoo).image_size)


def needs_of(recipe: Recipe) -> tuple[str, ...]:
    """What a network must give for images to be recovered from it."""
    estimator = recipe.estimator
    white = estimator is None or estimator.teachers == "none"
    return GRADIENTS if white else ()


def images_recovered(wanted: panel.RecoverOptions, zoo: zoo_lib.Zoo) -> int:
    """How many images that makes."""
    quota = panel.quota_of(wanted)
    able = [g for g in zoo.groups if invertible(wanted.inversion, g.network)]
    return sum(
        group.num_teachers * quota.images(group.network.num_classes) for group in able
    )


def spent_before(
    section: Recovery, run: Run, wanted: panel.RecoverOptions, zoo: zoo_lib.Zoo
) -> dict[str, Any]:
    """What `Meters` say of images that are there before the first step."""
    images = images_recovered(wanted, zoo)
    spent = recover.spent(section.reuse or run.workdir, images)
    return {
        "images_before": images,
        "gradients": recover.gradients(section.reuse, images, wanted),
        "seconds_before": spent.before,
        "making_images": spent.making_images,
    }


def check_own_images(
    section: Recovery,
    options: OwnTaskOptions,
    zoo: zoo_lib.Zoo,
    wanted: panel.RecoverOptions,
    way: int,
) -> None:
    """Refuses to recover for minutes what makes no tasks of single teachers.

    Raises:
      InputError: no teacher gets enough images of enough classes, or none can be asked.
    """
    own_tasks.check_teachers(zoo, section, options)
    quota, most = panel.quota_of(wanted), 0
    for group in zoo.groups:
        classes = group.network.num_classes
        if classes >= way and invertible(wanted.inversion, group.network):
            most = max(most, quota.images(classes) // classes)
    if most < options.per_class:
        raise InputError(
            f"config.tasks.per_class={options.per_class} images are taken of each of "
            f"{way} classes of a teacher, but config.recover (images_per_class="
            f"{wanted.images_per_class}, at most images_per_teacher="
            f"{wanted.images_per_teacher} in all) makes at most {most}; recover more "
            "or take fewer"
        )


def images_of_classes(wanted: panel.RecoverOptions, zoo: zoo_lib.Zoo) -> np.ndarray:
    """[C] how many images are recovered of each class; of those drawn, on average."""
    quota, counts = panel.quota_of(wanted), np.zeros(zoo.num_classes)
    for group in zoo.groups:
        if invertible(wanted.inversion, group.network):
            classes = group.network.num_classes
            ids = np.asarray(group.teachers.class_ids).ravel()
            np.add.at(counts, ids, quota.images(classes) / classes)
    return counts


def check_episodes(
    zoo: zoo_lib.Zoo, wanted: panel.RecoverOptions, way: int, needed: int
) -> None:
    """Refuses to recover for minutes what makes no episodes."""
    counts = images_of_classes(wanted, zoo)
    if (counts >= needed).sum() < way:
        raise InputError(
            f"config.replay needs {needed} images a class (shots + queries) but "
            f"recover.images_per_class={wanted.images_per_class} (and at most "
            f"images_per_teacher={wanted.images_per_teacher} in all) recovers at "
            f"most {counts.max():g}; ask for more images or fewer queries"
        )


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
    algorithm: str, kind: str, learner: learners_lib.MetaLearner, **rest: Any
) -> Subject:
    """A meta-learner has one predictor: adapt it to the episode.

    Args:
      algorithm: its name, for the row of the table.
      kind: of the learner.
      learner: as it adapts at test time.
      **rest: of `Subject`.
    """
    row = f"{algorithm} ({kind})"
    predictors = {row: evaluation.learner_classifier(learner)}
    return Subject(predictors, learner, **rest)
