"""What all teachers answer about images; forward queries only."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Int, UInt8

from free_jax import jobs as jobs_lib
from free_jax import parallel
from free_jax import zoo as zoo_lib
from free_jax.errors import InputError
from free_jax.panel.embed import compiled_embedder
from free_jax.panel.partial_asking import answers_in, ask_some_jobs
from free_jax.rows import Rows
from free_jax.split import Split
from free_jax.types import Answers


def ask_zoo(
    zoo: zoo_lib.Zoo,
    images: Rows | UInt8[np.ndarray, "n h w c"],
    run: jobs_lib.Run = jobs_lib.in_memory,
    *,
    voices: Int[np.ndarray, "n m"] | None = None,
    chunk: int = 500,
    at_once: int = 250,
    map_tasks: Callable = parallel.map_tasks,
    split: Split | None = None,
) -> Answers:
    """All teachers' answers about images; forward queries only.

    Args:
      zoo: teachers.
      images: to ask about.
      run: does the jobs of the stage "described".
      voices: whom to ask about which image, -1: nobody; None: all about all.
      chunk: see `ask_jobs`.
      at_once: see `ask_jobs`.
      map_tasks: how teachers are spread, see `parallel.map_tasks`.
      split: of the teachers, where all are asked about all, see `compiled_embedder`.

    Returns:
      Answers; NaN where a service gave none.  Once it is exhausted no more images are
      asked about, so that there may be fewer answers than images.

    Raises:
      InputError: a service is to be asked about some images by some teachers.
    """
    service, found = zoo.service, []
    if voices is not None:
        if service is not None:
            raise InputError(
                "panel.asked_per_image: teachers behind endpoints are asked about all "
                "images; set it to 0"
            )
        jobs = ask_some_jobs(zoo, images, voices, map_tasks=map_tasks)
        return answers_in(list(run("described", jobs)))
    jobs = ask_jobs(
        zoo, images, chunk=chunk, at_once=at_once, map_tasks=map_tasks, split=split
    )
    for part in run("described", jobs):
        # Kept by an earlier version, answers have an axis for the teachers.
        found.append(part["logits"].reshape(len(part["logits"]), -1))
        if service is None or not np.isnan(found[-1]).any():
            continue
        if service.exhausted():
            break
    return Answers(np.concatenate(found), zoo.columns)


def ask_jobs(
    zoo: zoo_lib.Zoo,
    images: Rows | UInt8[np.ndarray, "n h w c"],
    *,
    chunk: int = 500,
    at_once: int = 250,
    map_tasks: Callable = parallel.map_tasks,
    split: Split | None = None,
) -> list[jobs_lib.Job]:
    """All teachers' answers about images; one job for `chunk` images.

    Args:
      zoo: teachers.
      images: to ask about.
      chunk: images a job.
      at_once: images that a teacher sees in one batch, so few that their maps stay
        in a CPU's cache; a service is sent a whole chunk.
      map_tasks: how teachers are spread, see `parallel.map_tasks`.
      split: of the teachers, see `compiled_embedder`.

    Returns:
      Jobs whose results hold ``logits`` [n, C] and ``columns``, see `Answers`; where a
      service answers, also ``complete``, whether all answers came.

    Raises:
      ValueError: a number of images is not positive.
    """
    if chunk < 1 or at_once < 1:
        raise ValueError(f"chunk={chunk} and at_once={at_once} must be at least 1")
    run = compiled_embedder(
        zoo.networks, output="logits", mirror=False, map_tasks=map_tasks, split=split
    )
    service = zoo.service

    def ask(start: int) -> dict[str, np.ndarray]:
        part = images[start : start + chunk]
        # The last chunk is padded: one shape, one compilation.  A service is not asked
        # about padding.
        count = len(part)
        missing = 0 if service else chunk - count
        part = np.pad(part, ((0, missing), (0, 0), (0, 0), (0, 0)))
        size = len(part) if service else at_once
        said = np.concatenate(
            [
                np.asarray(run(zoo.teachers, part[first : first + size]))
                for first in range(0, len(part), size)
            ]
        )
        result = {"logits": said[:count], "columns": zoo.columns}
        if service:
            service.raise_if_broken()
            result["complete"] = np.asarray(np.isfinite(said).all())
        return result

    return [
        jobs_lib.Job(
            f"images-{start:06d}", lambda start=start: ask(start), service is not None
        )
        for start in range(0, len(images), chunk)
    ]


def answered_images(answers: Answers) -> Int[np.ndarray, " k"]:
    """Which images to use so that most answers are.

    Teachers whose budget ended, or that were given up, answered the first images only;
    others answered all but one or two.  A teacher counts if it answered all images that
    are used.

    Args:
      answers: NaN where there is none.

    >>> logits = np.asarray([[0, np.nan, 0], [0, 0, 0], [0, 0, np.nan], [0, 0, 0]])
    >>> answered_images(Answers(logits, np.asarray([0, 1, 2, 3])))
    array([1, 3])
    """
    silent = np.logical_or.reduceat(
        np.isnan(answers.logits), answers.columns[:-1], axis=1
    )
    # With one more teacher at a time, the most talkative first.
    order = np.argsort(silent.sum(0), kind="stable")
    lost = np.logical_or.accumulate(silent[:, order], axis=1)
    teachers = np.arange(1, len(order) + 1)
    worth = (~lost).sum(0) * teachers
    most = len(order) - 1 - worth[::-1].argmax()  # Of equal ones, more teachers.
    return np.flatnonzero(~lost[:, most])


def most_answers(answers: Answers) -> int:
    """How many of the first images to use so that most answers are.

    Like `answered_images`, but without leaving any out in between.

    Args:
      answers: NaN where there is none.

    >>> logits = np.asarray([[0, 0], [0, 0], [0, np.nan]])
    >>> most_answers(Answers(logits, np.asarray([0, 1, 2])))
    2
    """
    silent = np.logical_or.reduceat(
        np.isnan(answers.logits), answers.columns[:-1], axis=1
    )
    answered = np.where(silent.any(0), silent.argmax(0), len(silent))
    counts = np.unique(answered)
    return int(max(counts, key=lambda n: n * (answered >= n).sum()))
