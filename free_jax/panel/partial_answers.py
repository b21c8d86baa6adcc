"""Answers of some teachers about each image: who was asked, and what they said.

They take as much room as was asked, however many teachers there are: ``teachers``
[N, m] and ``logits`` [N, m, W], see `Answers`.  What looks at one teacher after the
other (`said_by`) need not know which kind of answers it has.
"""

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Bool, Int

from free_jax.panel import ragged
from free_jax.types import Answers


def from_entries(
    images: Int[np.ndarray, " e"],
    teachers: Int[np.ndarray, " e"],
    logits: Sequence[np.ndarray],
    columns: Int[np.ndarray, " t_plus_1"],
    num_images: int,
) -> Answers:
    """Answers in any order, sorted by image and teacher.

    >>> said = from_entries(
    ...     np.asarray([1, 0, 1]), np.asarray([1, 0, 0]),
    ...     [np.asarray([[5.0, 6.0, 7.0]]), np.asarray([[1.0, 2.0], [3.0, 4.0]])],
    ...     np.asarray([0, 2, 5]), 2)
    >>> said.teachers.tolist(), said.logits[1].tolist()
    ([[0, -1], [0, 1]], [[3.0, 4.0, nan], [5.0, 6.0, 7.0]])

    Args:
      images: each answer is about.
      teachers: who gave it.
      logits: parts of [e, w], each of teachers of one number of classes.
      columns: of all teachers' outputs.
      num_images: there are; some may have no answer.
    """
    widest = int(np.diff(columns).max())
    order = np.lexsort((teachers, images))
    image = images[order]
    counts = np.bincount(image, minlength=num_images)
    first = np.cumsum(counts) - counts
    slots = np.empty(len(order), int)
    slots[order] = np.arange(len(order)) - first[image]
    most = int(counts.max(initial=1))
    who = np.full((num_images, most), -1, np.int32)
    who[images, slots] = teachers
    said = np.full((num_images, most, widest), np.nan, np.float32)
    start = 0
    for part in logits:
        rows = slice(start, start + len(part))
        said[images[rows], slots[rows], : part.shape[1]] = part
        start += len(part)
    return Answers(said, np.asarray(columns), who)


def some_of(answers: Answers, voices: Int[np.ndarray, "n m"]) -> Answers:
    """What some teachers say about each image, of answers of all about all.

    Args:
      answers: of all teachers about all images.
      voices: whose are kept; -1: nobody's.
    """
    columns, logits = np.asarray(answers.columns), np.asarray(answers.logits)
    widest = int(np.diff(columns).max())
    voices = np.sort(np.where(voices < 0, len(columns), voices), axis=1)
    voices = np.where(voices == len(columns), -1, voices).astype(np.int32)
    outputs = columns[voices][..., None] + np.arange(widest)  # [n, m, W]
    own = (np.arange(widest) < np.diff(columns)[voices][..., None]) & (
        voices[..., None] >= 0
    )
    images = np.arange(len(logits))[:, None, None]
    said = logits[images, np.where(own, outputs, 0)]
    return Answers(np.where(own, said, np.nan), columns, voices)


def of_all(answers: Answers) -> Answers:
    """Whoever was asked, with a place for every teacher; NaN of the others."""
    if answers.teachers is None:
        return answers
    logits = np.full((len(answers.logits), int(answers.columns[-1])), np.nan)
    for t, (images, said) in enumerate(each(answers)):
        logits[images, answers.columns[t] : answers.columns[t + 1]] = said
    return Answers(logits.astype(answers.logits.dtype), answers.columns)


def each(answers: Answers) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Of one teacher after the other, the images it was asked about and its answers.

    Yields:
      Rows [n] of the images, increasing, and logits [n, w].
    """
    columns, who = np.asarray(answers.columns), answers.teachers
    if who is None:
        everything = np.arange(len(answers.logits))
        for start, stop in itertools.pairwise(columns):
            yield everything, np.ascontiguousarray(answers.logits[:, start:stop])
        return
    order = np.argsort(who, axis=None, kind="stable")
    ends = np.searchsorted(who.ravel()[order], np.arange(len(columns)))
    logits = answers.logits.reshape(-1, answers.logits.shape[-1])
    for t, width in enumerate(np.diff(columns)):
        entries = order[ends[t] : ends[t + 1]]
        yield entries // who.shape[1], logits[entries, :width]


def of_images(answers: Answers, index: np.ndarray) -> Answers:
    """The answers about some images."""
    who = answers.teachers
    return answers._replace(
        logits=answers.logits[index], teachers=None if who is None else who[index]
    )


def answers_of(answers: Answers, teachers: Int[np.ndarray, " n"]) -> Answers:
    """The answers of some teachers, renumbered in their order.

    Args:
      answers: of all.
      teachers: their rows, increasing where some only were asked about each image.
    """
    columns = ragged.columns_of(answers.columns, teachers)
    if answers.teachers is None:
        outputs = ragged.outputs_of(answers.columns, teachers)
        return Answers(ragged.side_by_side(answers.logits, outputs), columns)
    number = np.full(len(answers.columns), -1)
    number[teachers] = np.arange(len(teachers))
    who = number[answers.teachers]  # Nobody, -1, is the last: nobody.
    # Those that are left move to the front.
    order = np.argsort(who < 0, axis=1, kind="stable")
    most = max(int((who >= 0).sum(1).max(initial=0)), 1)
    order, widest = order[:, :most], int(np.diff(columns).max())
    who = np.take_along_axis(who, order, 1).astype(np.int32)
    said = np.take_along_axis(answers.logits, order[..., None], 1)[..., :widest]
    return Answers(np.where(who[..., None] >= 0, said, np.nan), columns, who)


def joined(parts: Sequence[Answers]) -> Answers:
    """Answers of the same teachers, about one set of images after the other.

    Raises:
      ValueError: their teachers differ in their numbers of classes.
    """
    columns = parts[0].columns
    if any(not np.array_equal(columns, other.columns) for other in parts):
        raise ValueError("answers of different teachers cannot be joined")
    if all(part.teachers is None for part in parts):
        return Answers(np.concatenate([part.logits for part in parts]), columns)
    parts = [
        part if part.teachers is not None else some_of(part, everyone(part))
        for part in parts
    ]
    most = max(part.teachers.shape[1] for part in parts if part.teachers is not None)
    logits, who = [], []
    for part in parts:
        assert part.teachers is not None
        room = most - part.teachers.shape[1]
        who.append(np.pad(part.teachers, ((0, 0), (0, room)), constant_values=-1))
        empty = ((0, 0), (0, room), (0, 0))
        logits.append(np.pad(part.logits, empty, constant_values=np.nan))
    return Answers(np.concatenate(logits), columns, np.concatenate(who))


def everyone(answers: Answers) -> Int[np.ndarray, "n t"]:
    """Who is asked about each image where all are."""
    count = len(answers.columns) - 1
    return np.broadcast_to(np.arange(count), (len(answers.logits), count))


def num_asked(answers: Answers) -> int:
    """Questions that were asked: one an image and teacher."""
    if answers.teachers is None:
        return len(answers.logits) * (len(answers.columns) - 1)
    return int((answers.teachers >= 0).sum())


def broken(answers: Answers) -> Bool[np.ndarray, " t"]:
    """Which teachers gave an answer that is not finite, or were never asked."""
    return np.asarray(
        [not np.isfinite(x).all() or not len(x) for _, x in each(answers)]
    )
