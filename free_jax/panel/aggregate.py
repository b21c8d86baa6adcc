"""All teachers' answers as those of one teacher of all classes, robust to some liars.

Where heads are shared by class, whoever lies about a class pulls its one output.  Here
a class's output is instead what the teachers that know it say in the middle.

Example::

    one = aggregated(answers, zoo.class_ids, form="median")
    one.answers.logits  # [N, classes that anybody knows]
"""

from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Int

from free_jax.panel import ragged
from free_jax.types import Answers

Form = Literal["mean", "median", "trimmed"]


class Aggregated(NamedTuple):
    """One teacher's answers in place of many.

    Attributes:
      answers: of the one.
      class_ids: [K] absolute classes of its outputs, increasing.
    """

    answers: Answers
    class_ids: np.ndarray


def aggregated(
    answers: Answers,
    class_ids: Int[np.ndarray, " c"],
    *,
    form: Form = "median",
    trim: float = 0.25,
    weights: np.ndarray | None = None,
) -> Aggregated:
    """The middle of what teachers say of each class.

    A teacher's logits are compared after subtracting their mean over its own classes,
    which leaves its softmax as it is; what it says of a class is how much more it
    thinks of it than of its others.

    Args:
      answers: of T teachers; NaN of those that were not asked.
      class_ids: [C] absolute classes of the outputs.
      form: "mean", "median", or the mean without the `trim` largest and smallest.
      trim: share left out at each end, in [0, 0.5).
      weights: [T], 0 leaves a teacher out; None: all count.

    Returns:
      `Aggregated`; a class is 0, as if nothing were said, where nobody was asked.

    Raises:
      ValueError: `trim` is out of range, or nobody is left.

    >>> rows = np.asarray([[2.0, 0.0, 4.0, 0.0, -8.0, 8.0]])
    >>> said = Answers(rows, np.asarray([0, 2, 4, 6]))
    >>> aggregated(said, np.asarray([0, 1, 0, 1, 0, 1])).answers.logits.tolist()
    [[1.0, -1.0]]
    """
    if not 0 <= trim < 0.5:
        raise ValueError(f"trim={trim} must be at least 0 and below 0.5")
    centred = np.array(answers.logits, np.float64)
    for _, outputs in ragged.by_width(answers.columns):
        said = ragged.side_by_side(centred, outputs)
        centred[:, outputs] = said - said.mean(-1, keepdims=True)
    owners = np.repeat(np.arange(len(answers.columns) - 1), np.diff(answers.columns))
    counts = np.ones(len(owners), bool) if weights is None else weights[owners] > 0
    ids = np.unique(np.asarray(class_ids)[counts])
    if not ids.size:
        raise ValueError("no teacher is left whose answers could be aggregated")
    logits = np.zeros((len(centred), len(ids)), np.float32)
    for column, known in enumerate(ids):
        votes = centred[:, counts & (np.asarray(class_ids) == known)]
        logits[:, column] = _middle(votes, form, trim)
    return Aggregated(Answers(logits, np.asarray([0, len(ids)], np.int32)), ids)


def _middle(votes: np.ndarray, form: Form, trim: float) -> np.ndarray:
    """[n] of votes [n, t], some of which may be NaN."""
    heard = np.isfinite(votes)
    count = heard.sum(1)
    ordered = np.sort(np.where(heard, votes, np.inf), axis=1)
    cut = np.floor(trim * count) if form == "trimmed" else np.zeros(len(votes))
    if form == "median":
        cut = np.maximum((count - 1) // 2, 0)
    place = np.arange(votes.shape[1])
    kept = (place >= cut[:, None]) & (place < (count - cut)[:, None])
    total = np.where(kept, np.where(kept, ordered, 0.0), 0.0).sum(1)
    return total / np.maximum(kept.sum(1), 1)


def vote(
    answers: Answers, class_ids: Int[np.ndarray, " c"], num_classes: int
) -> Int[np.ndarray, " n"]:
    """The class that the teachers which know it together find likeliest.

    A teacher spreads its belief over its own classes only, so that one alone may take
    anything for its nearest class; the mean of several logarithms is high only where
    none objects.

    Args:
      answers: of teachers about each image; NaN of those that were not asked.
      class_ids: [C] absolute classes of the outputs.
      num_classes: of the zoo; one that no teacher knows gets no image.

    Returns:
      [n] int32 absolute class ids; -1 where nobody was asked.

    >>> logits = np.log([[0.9, 0.1, 0.2, 0.8]])
    >>> vote(Answers(logits, np.asarray([0, 2, 4])), np.asarray([0, 1, 0, 2]), 4)
    array([2], dtype=int32)
    """
    logits, class_ids = np.asarray(answers.logits, np.float64), np.asarray(class_ids)
    silent = np.isnan(logits)
    logits, log_p = np.where(silent, 0.0, logits), np.empty_like(logits)
    for _, outputs in ragged.by_width(answers.columns):
        said = ragged.side_by_side(logits, outputs)  # [n, t, w]
        said = said - np.logaddexp.reduce(said, axis=-1, keepdims=True)
        log_p[:, outputs] = said
    known, total = np.zeros((2, len(logits), num_classes))
    for start, stop in zip(answers.columns[:-1], answers.columns[1:], strict=True):
        voted = ~silent[:, start:stop]
        total[:, class_ids[start:stop]] += np.where(voted, log_p[:, start:stop], 0.0)
        known[:, class_ids[start:stop]] += voted
    mean = np.where(known, total / np.maximum(known, 1), -np.inf)
    return np.where(known.any(-1), mean.argmax(-1), -1).astype(np.int32)
