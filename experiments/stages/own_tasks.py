"""Each teacher's own images and its answers about them, kept in a run's folder."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.harness.run import Run
from experiments.stages import recover, reuse
from experiments.stages.options import Recovery
from free_jax import jobs as jobs_lib
from free_jax import panel
from free_jax import rows as rows_lib
from free_jax.algorithms import recovered_tasks
from free_jax.algorithms.recovered_tasks import OwnTaskOptions, RecoveredTasks
from free_jax.errors import InputError
from free_jax.panel import partial_answers
from free_jax.types import Answers, SyntheticImages
from free_jax.zoo import Zoo


class Own(NamedTuple):
    """The tasks of the teachers that take part.

    Attributes:
      tasks: see `RecoveredTasks`.
      rows: the teachers' numbers in the whole zoo.
      answers: of single images that this takes, of owners alone.
    """

    tasks: RecoveredTasks
    rows: np.ndarray
    answers: int


def check(section: Recovery) -> None:
    """Refuses keys of a recovery that make no tasks.

    Raises:
      InputError: names the key and the remedy.
    """
    if section.anew.dead_leaves:
        raise InputError(
            f"config.recover.dead_leaves={section.anew.dead_leaves}: they are no "
            "teacher's and make no tasks; set it to 0"
        )
    if section.anew.image_size:
        raise InputError(
            "config.recover.image_size: tasks are of the meta-model's own size; set "
            "config.data.image_size"
        )
    if section.against:
        raise InputError(
            "config.recover.against: there is no panel's model to be new to; leave it "
            "unset"
        )


def check_teachers(zoo: Zoo, section: Recovery, options: OwnTaskOptions) -> None:
    """Refuses teachers that cannot be asked about their own images alone.

    Raises:
      InputError: they answer through a service.
    """
    if zoo.service is not None and (not section.reuse or options.views > 1):
        raise InputError(
            "config.zoo.apis: teachers behind endpoints are asked about all images; "
            "take those of a panel run (config.recover.reuse) with config.tasks.views=1"
        )


def recovered(
    zoo: Zoo,
    run: Run,
    wanted: panel.RecoverOptions,
    options: OwnTaskOptions,
    *,
    way: int,
    begun: recover.Beginning,
) -> Own:
    """Recovers images from every teacher, and asks it about its own.

    Args:
      zoo: teachers.
      run: keeps the parts.
      wanted: which images.
      options: see `OwnTaskOptions`.
      way: classes of a task.
      begun: `recover.beginning` of the same.

    Raises:
      Stopped: stop was requested; finished parts are kept.
      InputError: no teacher has enough images.
    """

    def key_of(number: int) -> jax.Array:
        return run.key("task versions", number)

    if begun.known:
        found, answers = begun.known
        own = (found.owners >= 0) & (found.owners < zoo.num_teachers)
        found = SyntheticImages(*(rows_lib.chosen(x, own) for x in found))
        versions = [(found, partial_answers.of_images(answers, own))]
        more = recovered_tasks.moved_versions(key_of, found, options)[1:]
    else:
        everyone = np.arange(zoo.num_teachers)
        reuse.sign(run.workdir, zoo, everyone, reuse.recipe(wanted, run.seed))
        found = panel.recover_zoo(
            run.key("recover"),
            zoo,
            wanted,
            recover.telling(run),
            map_tasks=run.map_tasks,
        )
        versions = []
        more = recovered_tasks.moved_versions(key_of, found, options)
    if more:
        versions += _asked(zoo, run, more)
    tasks, rows, left_out = recovered_tasks.from_answers(
        versions,
        zoo.class_ids,
        way=way,
        per_class=options.per_class,
        names=zoo.sources,
    )
    for line in left_out[:5]:
        print(f"left out: {line}", flush=True)
    if len(left_out) > 5:
        print(f"left out: {len(left_out) - 5} more for the like", flush=True)
    return Own(tasks, rows, len(versions) * len(found.images))


def _asked(
    zoo: Zoo, run: Run, versions: list[SyntheticImages]
) -> list[tuple[SyntheticImages, Answers]]:
    """Every version with its owners' answers; forward queries only."""
    count = len(versions[0].images)
    owners = np.asarray(versions[0].owners, np.int32)

    def kept(stage: str, jobs: Sequence[jobs_lib.Job]) -> Iterator[dict[str, Any]]:
        del stage  # These are no panel's answers, which others might take for such.
        return recover.telling(run)("own_answers", jobs)

    answers = panel.ask_zoo(
        zoo,
        rows_lib.joined([version.images for version in versions]),
        kept,
        voices=np.tile(owners, len(versions))[:, None],
        map_tasks=run.map_tasks,
    )
    return [
        (
            version,
            partial_answers.of_images(answers, np.arange(i * count, (i + 1) * count)),
        )
        for i, version in enumerate(versions)
    ]
