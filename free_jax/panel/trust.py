"""Which teachers of a panel are believed."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from free_jax.panel import ragged
from free_jax.panel.verdicts import ENOUGH, Trust, reason
from free_jax.types import Answers, SyntheticImages

# As many passes as verdicts may need to stand: most need two.
REVISED = 10


def trust(
    answers: Answers,
    class_ids: Int[np.ndarray, " c"],
    images: SyntheticImages,
    asked: Bool[np.ndarray, "n t"] | None = None,
    passes: int = 1,
) -> Trust:
    """Finds constant, broken, mislabelled and random teachers by recovered images.

    Only what a teacher was asked about counts.  It is left out if an answer is not
    finite, if its answers carry less than a
    quarter of the panel's median information, or if it contradicts the others: neither
    does it recognise their images better than by chance nor they its own (by two
    standard errors; fewer than 30 images, or those of one class, tell nothing).
    With more than one pass whoever is left out does not testify: verdicts are revised
    by the others and their images until they stand, which clears honest teachers whom
    liars had contradicted.  Verdicts that come back to what they were before, in a
    circle, never stand: then those of the first pass count.
    Teachers of different numbers of classes are compared by the share of the maximum
    for their number, ``log W``.  A teacher counts fully or not at all: weights by
    information and agreement scored the same and left out honest teachers of hard
    tasks.

    Args:
      answers: of T teachers about each image.
      class_ids: [C] absolute classes of the outputs.
      images: what they were asked about; ``owners`` are rows of the T teachers that
        answered (see `rows_of`).
      asked: which teachers were asked about which image; None: all about all.
      passes: at most, 1 or more; 1 hears everyone, see `REVISED` for more.

    Returns:
      A `Trust`, on the host.
    """
    logits, class_ids = np.asarray(answers.logits), np.asarray(class_ids)
    classes, owners = np.asarray(images.classes), np.asarray(images.owners)
    widths = np.diff(answers.columns)
    finite = np.zeros(len(widths), bool)
    information = np.zeros(len(widths))
    labels = np.full((len(widths), len(logits)), -1, np.int32)
    asked = np.ones(labels.T.shape, bool) if asked is None else asked
    for rows, outputs in ragged.by_width(answers.columns):
        said = ragged.side_by_side(logits, outputs)  # [n, t, w]
        ids = class_ids[outputs]  # [t, w]
        heard_by = asked[:, rows]
        answered = np.isfinite(said).all(2)
        finite[rows] = (answered | ~heard_by).all(0) & heard_by.any(0)
        said = np.where(np.isfinite(said), said, 0.0)
        said = said - said.max(-1, keepdims=True)
        p = np.exp(said) / np.exp(said).sum(-1, keepdims=True)
        mutual = _entropy(_mean(p, heard_by)) - _mean(_entropy(p), heard_by)
        information[rows] = np.where(finite[rows], mutual, 0.0)
        taken = np.take_along_axis(ids, said.argmax(-1).T, 1)
        labels[rows] = np.where(heard_by.T, taken, -1)
    # One for teachers of equal numbers of classes.
    share = information / (np.log(widths) / np.log(widths.max()))
    usual = np.median(share[finite]) if finite.any() else 0.0
    informative = share > max(usual / 4, 1e-6)
    shown = _recognised(labels, classes, owners)
    evidence = _Evidence(labels, classes, owners, answers.columns, class_ids, shown)
    heard, believed = _settled(evidence, asked, finite, informative, passes)
    relative = share / max(usual, 1e-12)
    facts = (finite, informative, *heard, relative, 1 / widths)
    # As Python's own numbers.
    each = zip(*(np.asarray(fact).tolist() for fact in facts), strict=True)
    reasons = tuple(reason(*told) for told in each)
    return Trust(believed.astype(np.float32), information, heard.agreement, reasons)


class _Evidence(NamedTuple):
    """What teachers take images for.

    Attributes:
      labels: [T, n] the class that each teacher takes each image for; -1 where it was
        not asked.
      classes: [n] the class that each image was recovered as.
      owners: [n] rows of the teachers; T for one that was not asked, -1 for none.
      columns: [T + 1] of the teachers' outputs.
      class_ids: [C] absolute classes of the outputs.
      shown: [n] bool, see `_recognised`.
    """

    labels: np.ndarray
    classes: np.ndarray
    owners: np.ndarray
    columns: np.ndarray
    class_ids: np.ndarray
    shown: np.ndarray

    def known(self, teacher: int | np.integer) -> np.ndarray:
        """The classes of a teacher."""
        return self.class_ids[self.columns[teacher] : self.columns[teacher + 1]]

    @property
    def unheard(self) -> np.ndarray:
        """[n] bool, images of teachers that were not asked: nobody spoke of them."""
        return self.owners >= len(self.labels)


class _Heard(NamedTuple):
    """What is said of each of T teachers.

    Attributes:
      agreement: see `Trust`.
      judged: images of others by which it was judged.
      told: whether those may contradict it: they are enough, and of two classes.
      agrees: it names others' images better than by chance, as far as was told.
      known_by: the others so name its images.
    """

    agreement: np.ndarray
    judged: np.ndarray
    told: np.ndarray
    agrees: np.ndarray
    known_by: np.ndarray


def _settled(
    evidence: _Evidence,
    asked: np.ndarray,
    finite: np.ndarray,
    informative: np.ndarray,
    passes: int,
) -> tuple[_Heard, np.ndarray]:
    """What is said in the end, and [T] who is believed, see `trust`."""
    count = len(finite)
    no, yes = np.zeros(count, bool), np.ones(count, bool)
    heard = _Heard(np.full(count, np.nan), np.zeros(count, int), no, yes, yes)
    found, former = [], [yes]
    for _ in range(passes):
        heard = _heard_out(evidence, asked, finite, former[-1], heard)
        believed = finite & informative & (heard.agrees | heard.known_by)
        found.append((heard, believed))
        if (believed == former[-1]).all() or not believed.any():
            break
        if any((believed == before).all() for before in former):
            return found[0]  # A circle.
        former.append(believed)
    return found[-1]


def _heard_out(
    evidence: _Evidence,
    asked: np.ndarray,
    finite: np.ndarray,
    witnesses: np.ndarray,
    before: _Heard,
) -> _Heard:
    """What believed teachers and their images say of each teacher.

    Args:
      evidence: of all.
      asked: [n, T] which teachers were asked about which image.
      finite: [T] whose answers all are.
      witnesses: [T] who is believed so far.
      before: what was found before, which stands where too little is left.
    """
    labels, classes, owners = evidence.labels, evidence.classes, evidence.owners
    testify = evidence.shown & (
        evidence.unheard | np.isin(owners, np.flatnonzero(witnesses))
    )
    agreement, count, told, agrees = (np.array(x) for x in before[:4])
    for t in np.flatnonzero(finite):
        known = evidence.known(t)
        judged = np.isin(classes, known) & (owners != t) & testify & asked[:, t]
        # Two classes at least: whoever prefers one is not contradicted by it alone.
        enough = judged.sum() >= ENOUGH and len(np.unique(classes[judged])) > 1
        if told[t] and not enough:
            continue
        count[t], told[t] = judged.sum(), enough
        agreement[t] = np.nan
        if judged.any():
            agreement[t] = (labels[t, judged] == classes[judged]).mean()
        if enough:
            chance = 1.0 / len(known)
            error = np.sqrt(chance * (1 - chance) / judged.sum())
            agrees[t] = agreement[t] > chance + 2 * error
    known_by = _known_by(evidence, finite, witnesses, before.known_by)
    return _Heard(agreement, count, told, agrees, known_by)


def _known_by(
    evidence: _Evidence,
    finite: np.ndarray,
    witnesses: np.ndarray,
    before: np.ndarray,
) -> np.ndarray:
    """[T] whose images the witnesses recognise better than by chance.

    The other direction of agreement: a teacher that is shown nothing but what others'
    inversions failed to show is not mislabelled if they know its own images.
    """
    labels, classes, owners = evidence.labels, evidence.classes, evidence.owners
    found = np.zeros(len(labels), bool)
    for t in range(len(labels)):
        mine = np.flatnonzero((owners == t) & (labels[t] == classes))
        if not mine.size:
            continue
        # By image: how many judge it, rightly, and how many would by chance.
        judges, right, expected = np.zeros((3, len(classes)))
        for other in np.flatnonzero(finite & witnesses):
            known = evidence.known(other)
            judged = mine[np.isin(classes[mine], known) & (labels[other, mine] >= 0)]
            if other == t or not judged.size:
                continue
            judges[judged] += 1
            right[judged] += labels[other, judged] == classes[judged]
            expected[judged] += 1.0 / len(known)
        seen = np.flatnonzero(judges)
        if seen.size < ENOUGH or len(np.unique(classes[seen])) < 2:
            found[t] = before[t] and not witnesses.all()
            continue
        share, chance = (np.mean(x[seen] / judges[seen]) for x in (right, expected))
        found[t] = share > chance + 2 * np.sqrt(chance * (1 - chance) / seen.size)
    return found


def _recognised(
    labels: np.ndarray, classes: np.ndarray, owners: np.ndarray
) -> np.ndarray:
    """Which images show their class: those that their own teacher recognises.

    An inversion that failed, or lost its class in another size, speaks against nobody.
    Of owners that were not asked nothing is known, and theirs count.

    Args:
      labels: [T, n] the class that each teacher takes each image for.
      classes: [n] the class that each image was recovered as.
      owners: [n] rows of the teachers; T for one that was not asked, -1 for none.
    """
    asked = (owners >= 0) & (owners < len(labels))
    own = labels[np.where(asked, owners, 0), np.arange(len(classes))]
    return np.where(asked, own == classes, owners >= 0)


def _mean(values: np.ndarray, of: np.ndarray) -> np.ndarray:
    """Mean over the first axis of [n, t, ...], of those of `of` [n, t]."""
    if of.all():
        return values.mean(0)
    of = of.reshape(*of.shape, *[1] * (values.ndim - 2))
    return (values * of).sum(0) / np.maximum(of.sum(0), 1)


def _entropy(p: np.ndarray) -> np.ndarray:
    return -(p * np.log(p + 1e-12)).sum(-1)


def rows_of(
    owners: Int[np.ndarray, " n"], asked: Int[np.ndarray, " t"]
) -> Int[np.ndarray, " n"]:
    """Owners of images as rows of the teachers that were asked.

    Images of teachers that were not asked still show whether those that were can be
    trusted, so that their owners must not become -1.

    Args:
      owners: the teacher each image was recovered from, of all; negative: none.
      asked: which teachers the rows stand for.

    Returns:
      [n] the owner's row in `asked`; T where it was not asked; -1 for no teacher.

    >>> rows_of(np.asarray([0, 2, 5, -1]), np.asarray([2, 5])).tolist()
    [2, 0, 1, -1]
    """
    owners = np.asarray(owners)
    same = owners[:, None] == np.asarray(asked)
    rows = np.where(same.any(1), same.argmax(1), same.shape[1])
    return np.where(owners < 0, -1, rows)
