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

from free_jax.panel import partial_answers
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
      answers: of T teachers about each image, or of some of them.
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
    ids = np.split(np.asarray(class_ids), answers.columns[1:-1])
    counts = np.ones(len(ids)) if weights is None else np.asarray(weights)
    if not counts.any():
        raise ValueError("no teacher is left whose answers could be aggregated")
    classes = np.unique(np.concatenate([ids[t] for t in np.flatnonzero(counts)]))
    # Of each class, the images about which a teacher was asked, and what it said.
    said: dict[int, list[tuple[np.ndarray, np.ndarray]]]
    said = {known: [] for known in classes.tolist()}
    for t, (rows, logits) in enumerate(partial_answers.each(answers)):
        if not counts[t]:
            continue
        centred = np.asarray(logits, np.float64)
        centred = centred - centred.mean(-1, keepdims=True)
        for column, known in enumerate(ids[t].tolist()):
            said[known].append((rows, centred[:, column]))
    logits = np.zeros((len(answers.logits), len(classes)), np.float32)
    for column, of in enumerate(said.values()):
        votes = np.full((len(logits), len(of)), np.nan)
        for voter, (rows, vote) in enumerate(of):
            votes[rows, voter] = vote
        logits[:, column] = _middle(votes, form, trim)
    columns = np.asarray([0, len(classes)], np.int32)
    return Aggregated(Answers(logits, columns), classes)


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
