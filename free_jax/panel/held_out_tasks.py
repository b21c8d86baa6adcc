"""Few-shot tasks from held-out teachers: pseudo-labelled images to judge a model by.

The model is judged without data, by teachers that it was not distilled from.
A teacher that is held out makes few-shot tasks of images that it did not make: they are
sorted by what it takes them for, and the most confident of each of its classes are the
class.  A model that tells such classes apart by a few of their images describes what
that teacher sees, which nobody told it.
"""

import jax
import numpy as np
from jaxtyping import Float, Int, UInt8

from free_jax.fewshot import banks
from free_jax.panel.partial_answers import answers_of, each
from free_jax.rows import Rows, chosen
from free_jax.types import Answers, ImageBank


def bank_of_answers(
    images: Rows | UInt8[np.ndarray, "n h w c"],
    logits: Float[np.ndarray, "n k"],
    per_class: int,
    num_classes: int = 0,
) -> ImageBank:
    """The images that a teacher is surest about, by what it takes them for.

    Args:
      images: that it did not make.
      logits: its answers; images it gave none about (NaN) are left out.
      per_class: at most so many of each of its classes.
      num_classes: rows of the bank, empty beyond its own; 0: as many as it has.

    Returns:
      A row of each of its K classes, the surest image first; classes that it sees
      less often hold fewer.
    """
    answered = np.flatnonzero(np.isfinite(logits).all(1))
    shares = np.asarray(jax.nn.softmax(logits[answered], axis=1))
    taken, sure = shares.argmax(1), shares.max(1)
    order = np.argsort(-sure, kind="stable")
    count = num_classes or logits.shape[1]
    found = np.zeros((count, per_class, *images.shape[1:]), np.uint8)
    counts = np.zeros(count, np.int32)
    for known in range(logits.shape[1]):
        rows = answered[order[taken[order] == known]][:per_class]
        found[known, : len(rows)], counts[known] = images[rows], len(rows)
    return banks.from_arrays(found, counts)


def task_banks(
    images: Rows | UInt8[np.ndarray, "n h w c"],
    answers: Answers,
    judges: Int[np.ndarray, " j"],
    per_class: int,
) -> tuple[ImageBank, ...]:
    """`bank_of_answers` of each judge, all of one shape: one program measures them.

    Args:
      images: that none of them made.
      answers: theirs and others'.
      judges: their rows among those that answered.
      per_class: see `bank_of_answers`.
    """
    most = int(np.diff(answers.columns)[judges].max())
    return tuple(
        bank_of_answers(chosen(images, rows), logits, per_class, most)
        for rows, logits in each(answers_of(answers, judges))
    )
