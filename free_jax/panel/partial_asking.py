"""Some teachers asked about each image: one job for some of the teachers.

A job takes its teachers' weights and the images that they hear, and nothing else, so
that a zoo and its images need not be in memory, and asking costs what is asked.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int, UInt8

from free_jax import images as images_lib
from free_jax import jobs as jobs_lib
from free_jax import parallel
from free_jax import zoo as zoo_lib
from free_jax.errors import InputError
from free_jax.panel.partial_answers import from_entries
from free_jax.rows import Rows
from free_jax.types import Answers, PyTree, Teachers
from free_jax.zoo.network import Network

# What a job holds at most, unless one teacher hears more.
_ANSWERS, _TEACHERS = 20000, 64


def ask_some_jobs(
    zoo: zoo_lib.Zoo,
    images: Rows | UInt8[np.ndarray, "n h w c"],
    voices: Int[np.ndarray, "n m"],
    *,
    at_once: int = _ANSWERS,
    map_tasks: Callable = parallel.map_tasks,
) -> list[jobs_lib.Job]:
    """Some teachers' answers about each image; one job for some of the teachers.

    Args:
      zoo: teachers, none behind a service.
      images: to ask about.
      voices: whom to ask about which image, -1: nobody.
      at_once: answers a job, about.
      map_tasks: how a job's blocks are spread, see `parallel.map_tasks`.

    Returns:
      Jobs whose results hold ``images`` [e], ``teachers`` [e] and ``logits`` [e, w], of
      every question, and ``columns``, ``num_images`` and ``num_answers`` of all jobs
      together.  See `answers_in`.
    """
    order = np.argsort(voices, axis=None, kind="stable")
    teachers = np.arange(zoo.num_teachers + 1)
    ends = np.searchsorted(voices.ravel()[order], teachers)
    about = order // voices.shape[1]
    heard = [about[ends[t] : ends[t + 1]] for t in teachers[:-1]]
    jobs, first, total = [], 0, np.asarray((voices >= 0).sum())
    for number, group in enumerate(zoo.groups):
        mine = heard[first : first + group.num_teachers]
        ask = _asker(zoo, group, first, images, mine, at_once, map_tasks)
        jobs += [
            jobs_lib.Job(
                f"group{number}-{rows[0]:05d}",
                lambda ask=ask, r=rows: {**ask(r), "num_answers": total},
            )
            for rows in _parts(mine, at_once)
        ]
        first += group.num_teachers
    return jobs


def answers_in(results: list[dict[str, np.ndarray]]) -> Answers:
    """The answers that all jobs of `ask_some_jobs` found.

    Raises:
      InputError: some of the jobs are missing.
    """
    found = sum(len(part["images"]) for part in results)
    if found < (wanted := int(results[0].get("num_answers", found))):
        raise InputError(f"{found} of {wanted} answers are there")
    return from_entries(
        np.concatenate([part["images"] for part in results]),
        np.concatenate([part["teachers"] for part in results]),
        [part["logits"] for part in results],
        results[0]["columns"],
        int(results[0]["num_images"]),
    )


def _parts(heard: list[np.ndarray], at_once: int) -> list[np.ndarray]:
    """Rows of the teachers of each job, the same number but for the last."""
    usual = max(sum(map(len, heard)) / len(heard), 1.0)
    count = int(np.clip(at_once // usual, 1, _TEACHERS))
    return np.split(np.arange(len(heard)), np.arange(count, len(heard), count))


class Blocks(NamedTuple):
    """Who is asked about which images, in equal blocks of one teacher's.

    Attributes:
      teachers: [b] of each block.
      rows: [b, size] the images; -1: none.
    """

    teachers: np.ndarray
    rows: np.ndarray


def blocks(heard: list[np.ndarray], size: int, count: int = 0) -> Blocks:
    """What each of some teachers hears, in blocks.

    >>> blocks([np.asarray([0, 1, 2]), np.asarray([1, 2])], 2)
    Blocks(teachers=array([0, 0, 1]), rows=array([[ 0,  1],
           [ 2, -1],
           [ 1,  2]]))

    Args:
      heard: images of each teacher.
      size: images of a block.
      count: of blocks, at least; those that are added ask nothing.
    """
    teachers, rows = [], []
    for teacher, found in enumerate(heard):
        number = -(-len(found) // size)
        padded = np.pad(found, (0, number * size - len(found)), constant_values=-1)
        rows.append(padded.reshape(number, size))
        teachers += [teacher] * number
    missing = max(count - len(teachers), 0)
    rows.append(np.full((missing, size), -1))
    return Blocks(np.asarray(teachers + [0] * missing, int), np.concatenate(rows))


def _asker(
    zoo: zoo_lib.Zoo,
    group: zoo_lib.ZooGroup,
    first: int,
    images: Rows | np.ndarray,
    heard: list[np.ndarray],
    at_once: int,
    map_tasks: Callable,
) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """``rows of the group -> a job's result``, by one program."""
    program = jax.jit(_answerer(group.network, map_tasks))
    parts = _parts(heard, at_once)
    # A teacher hears many images, its own, or few.
    usual = sum(map(len, heard)) / max(len(heard), 1)
    size = int(np.clip(usual / 4, 8, 250))
    # One shape, one compilation: as many blocks as in the job that takes most.
    most = max(len(blocks([heard[t] for t in part], size).teachers) for part in parts)

    def ask(rows: np.ndarray) -> dict[str, np.ndarray]:
        mine = [heard[t] for t in rows]
        found = blocks(mine, size, most)
        padded = np.pad(rows, (0, len(parts[0]) - len(rows)), mode="edge")
        shown = images[np.maximum(found.rows, 0).ravel()]
        shown = shown.reshape(*found.rows.shape, *shown.shape[1:])
        stack = zoo_lib.take(group.teachers, padded)
        said = np.asarray(program(stack, (found.teachers, shown)))
        kept = found.rows >= 0
        owners = np.repeat(first + rows, list(map(len, mine)))
        return {
            "images": found.rows[kept].astype(np.int32),
            "teachers": owners.astype(np.int32),
            "logits": said[kept],
            "columns": zoo.columns,
            "num_images": np.asarray(len(images)),
        }

    return ask


def _answerer(network: Network, map_tasks: Callable) -> Callable:
    """``(teachers, (rows [b], images [b, size, ...])) -> logits [b, size, W]``."""

    def one(stack: Teachers, task: PyTree) -> jax.Array:
        teacher, images = task
        views = images_lib.fit_to(images_lib.to_float(images), network.image_shape)
        return network.apply(zoo_lib.take(stack, teacher).variables, views)

    def answer(stack: Teachers, tasks: PyTree) -> jax.Array:
        run = map_tasks(one, local="map", everywhere=True)
        return run(stack, jax.tree.map(jnp.asarray, tasks))

    return answer
