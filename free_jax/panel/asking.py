"""What all teachers answer about images; forward queries only."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Int, UInt8

from free_jax import images as images_lib
from free_jax import jobs as jobs_lib
from free_jax import parallel
from free_jax import zoo as zoo_lib
from free_jax.errors import InputError
from free_jax.panel.describe import compiled_describer
from free_jax.types import Answers, PyTree, Teachers
from free_jax.zoo.network import Network


def ask_zoo(
    zoo: zoo_lib.Zoo,
    images: UInt8[np.ndarray, "n h w c"],
    run: jobs_lib.Run = jobs_lib.in_memory,
    *,
    voices: Bool[np.ndarray, "n t"] | None = None,
    chunk: int = 500,
    at_once: int = 250,
    map_tasks: Callable = parallel.map_tasks,
) -> Answers:
    """All teachers' answers about images; forward queries only.

    Args:
      zoo: teachers.
      images: to ask about.
      run: does the jobs of the stage "described".
      voices: whom to ask about which image; None: all about all.
      chunk: see `ask_jobs`.
      at_once: see `ask_jobs`.
      map_tasks: how teachers are spread, see `parallel.map_tasks`.

    Returns:
      Answers; NaN where nobody asked or a service gave none.  Once it is exhausted no
      more images are asked about, so that there may be fewer answers than images.

    Raises:
      InputError: a service is to be asked about some images by some teachers.
    """
    service, found = zoo.service, []
    if voices is None or voices.all():
        jobs = ask_jobs(zoo, images, chunk=chunk, at_once=at_once, map_tasks=map_tasks)
    elif service is not None:
        raise InputError(
            "panel.asked_per_image: teachers behind endpoints are asked about all "
            "images; set it to 0"
        )
    else:
        jobs = ask_some_jobs(zoo, images, voices, chunk=chunk, map_tasks=map_tasks)
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
    images: UInt8[np.ndarray, "n h w c"],
    *,
    chunk: int = 500,
    at_once: int = 250,
    map_tasks: Callable = parallel.map_tasks,
) -> list[jobs_lib.Job]:
    """All teachers' answers about images; one job for `chunk` images.

    Args:
      zoo: teachers.
      images: to ask about.
      chunk: images a job.
      at_once: images that a teacher sees in one batch, so few that their maps stay
        in a CPU's cache; a service is sent a whole chunk.
      map_tasks: how teachers are spread, see `parallel.map_tasks`.

    Returns:
      Jobs whose results hold ``logits`` [n, C] and ``columns``, see `Answers`; where a
      service answers, also ``complete``, whether all answers came.

    Raises:
      ValueError: a number of images is not positive.
    """
    if chunk < 1 or at_once < 1:
        raise ValueError(f"chunk={chunk} and at_once={at_once} must be at least 1")
    run = compiled_describer(
        zoo.networks, output="logits", mirror=False, map_tasks=map_tasks
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
        jobs_lib.Job(f"images-{start:06d}", lambda start=start: ask(start))
        for start in range(0, len(images), chunk)
    ]


def ask_some_jobs(
    zoo: zoo_lib.Zoo,
    images: UInt8[np.ndarray, "n h w c"],
    voices: Bool[np.ndarray, "n t"],
    *,
    chunk: int = 500,
    map_tasks: Callable = parallel.map_tasks,
) -> list[jobs_lib.Job]:
    """Some teachers' answers about each image; one job for `chunk` images.

    Args:
      zoo: teachers in memory.
      images: to ask about.
      voices: whom to ask about which.
      chunk: images a job.
      map_tasks: how teachers are spread, see `parallel.map_tasks`.

    Returns:
      Jobs whose results hold ``logits`` [n, C], NaN where nobody asked, and
      ``columns``, see `Answers`; ``asked`` [n, T] says that it was so.
    """
    starts = range(0, len(images), chunk)
    programs = {
        network: jax.jit(_answerer(network, map_tasks)) for network in zoo.networks
    }
    # A teacher is asked in blocks: it may hear many images of a chunk, its own, or few.
    size = int(np.clip(chunk * voices.mean() / 4, 8, 250))
    ends = np.cumsum([stack.class_ids.shape[0] for stack in zoo.teachers])
    # One shape, one compilation: as many blocks as in the chunk that takes most.
    most = [
        max(len(_blocks(part, size)[0]) for part in parts)
        for parts in zip(
            *(np.split(voices[i : i + chunk], ends[:-1], axis=1) for i in starts),
            strict=True,
        )
    ]

    def ask(start: int) -> dict[str, np.ndarray]:
        count = min(chunk, len(images) - start)
        missing = min(chunk, len(images)) - count
        part, asked = (x[start : start + count] for x in (images, voices))
        # The last chunk is padded by images that nobody is asked about.
        part = np.pad(part, ((0, missing), (0, 0), (0, 0), (0, 0)))
        parts = []
        for number, heard in enumerate(np.split(asked, ends[:-1], axis=1)):
            network, stack = zoo.networks[number], zoo.teachers[number]
            teachers, rows = _blocks(heard, size, most[number])
            said = np.asarray(programs[network](stack, part, (teachers, rows)))
            logits = np.full((*heard.shape, network.num_classes), np.nan, said.dtype)
            kept = rows >= 0
            # What is not finite was answered all the same.
            logits[rows[kept], np.repeat(teachers, size)[kept.ravel()]] = np.where(
                np.isfinite(said[kept]), said[kept], np.inf
            )
            parts.append(logits.reshape(count, -1))
        logits = np.concatenate(parts, 1)
        return {"logits": logits, "columns": zoo.columns, "asked": asked}

    return [
        jobs_lib.Job(f"images-{start:06d}", lambda start=start: ask(start))
        for start in starts
    ]


def _blocks(
    heard: Bool[np.ndarray, "n t"], size: int, count: int = 0
) -> tuple[Int[np.ndarray, " b"], Int[np.ndarray, "b size"]]:
    """Who is asked about which images, in equal blocks of one teacher's.

    >>> _blocks(np.asarray([[True, False], [True, True], [True, True]]), 2)
    (array([0, 0, 1]), array([[ 0,  1],
           [ 2, -1],
           [ 1,  2]]))

    Args:
      heard: who is asked about which image.
      size: images of a block.
      count: of blocks, at least; those that are added ask nothing.

    Returns:
      The teacher of each block, and its images; -1: none.
    """
    teachers, rows = [], []
    for teacher, mine in enumerate(heard.T):
        found = np.flatnonzero(mine)
        blocks = -(-len(found) // size)
        padded = np.pad(found, (0, blocks * size - len(found)), constant_values=-1)
        rows.append(padded.reshape(blocks, size))
        teachers += [teacher] * blocks
    missing = max(count - len(teachers), 0)
    rows.append(np.full((missing, size), -1))
    return np.asarray(teachers + [0] * missing, int), np.concatenate(rows)


def _answerer(network: Network, map_tasks: Callable) -> Callable:
    """``(teachers, images [n, ...], blocks) -> logits [b, size, W]``, see `_blocks`."""

    def one(shared: PyTree, task: PyTree) -> jax.Array:
        (stack, images), (teacher, rows) = shared, task
        views = images_lib.fit_to(
            images_lib.to_float(images[rows]), network.image_shape
        )
        return network.apply(zoo_lib.take(stack, teacher).variables, views)

    def answer(stack: Teachers, images: jax.Array, blocks: PyTree) -> jax.Array:
        run = map_tasks(one, local="map", everywhere=True)
        return run((stack, jnp.asarray(images)), jax.tree.map(jnp.asarray, blocks))

    return answer


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
