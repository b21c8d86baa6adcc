"""Which teachers of a panel are believed, and what they believe together."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from free_jax.panel import ragged
from free_jax.types import Answers, SyntheticImages


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


# Images by which a teacher may be found to contradict the others.
_ENOUGH = 30
# How often verdicts are revised by those who are believed; most need two passes.
_PASSES = 10


class Trust(NamedTuple):
    """How far each teacher of a panel is believed, judged without data.

    Attributes:
      weights: [T] one, or zero for a teacher that is left out.
      information: [T] nats, entropy of the mean prediction minus mean entropy: what
        an answer tells about the image; zero for constant teachers.
      agreement: [T] share of images of the teacher's classes, recovered from OTHER
        teachers and recognised by them, that it labels alike, in [0, 1]; nan where
        there are none.
      reasons: a line on each: why it is believed, or not.
    """

    weights: np.ndarray
    information: np.ndarray
    agreement: np.ndarray
    reasons: tuple[str, ...] = ()


def trust(
    answers: Answers,
    class_ids: Int[np.ndarray, " c"],
    images: SyntheticImages,
    asked: Bool[np.ndarray, "n t"] | None = None,
) -> Trust:
    """Finds constant, broken, mislabelled and random teachers by recovered images.

    Only what a teacher was asked about counts.  It is left out if an answer is not
    finite, if its answers carry less than a
    quarter of the panel's median information, or if it contradicts the others: neither
    does it recognise their images better than by chance nor they its own (by two
    standard errors; fewer than 30 images, or those of one class, tell nothing).
    Whoever is left out does not testify: verdicts are revised by the others and their
    images until they stand, which clears the honest whom liars had contradicted.
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

    Returns:
      A `Trust`, on the host.
    """
    logits, class_ids = np.asarray(answers.logits), np.asarray(class_ids)
    classes, owners = np.asarray(images.classes), np.asarray(images.owners)
    widths = np.diff(answers.columns)
    finite = np.zeros(len(widths), bool)
    information, agreement = np.zeros(len(widths)), np.full(len(widths), np.nan)
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
    agrees, known_by = np.ones((2, len(widths)), bool)
    evidence = _Evidence(labels, classes, owners, answers.columns, class_ids, shown)
    believed = np.ones(len(widths), bool)
    for _ in range(_PASSES):
        agreement, agrees, known_by = _heard_out(
            evidence, asked, finite, believed, agrees, known_by
        )
        before, believed = believed, finite & informative & (agrees | known_by)
        if (believed == before).all() or not believed.any():
            break
    weights = believed.astype(np.float32)
    relative = share / max(usual, 1e-12)
    facts = (finite, informative, agrees, known_by, relative, agreement, 1 / widths)
    # As Python's own numbers.
    each = zip(*(np.asarray(fact).tolist() for fact in facts), strict=True)
    reasons = tuple(_reason(*told) for told in each)
    return Trust(weights, information, agreement, reasons)


def _reason(
    finite: bool,
    informative: bool,
    agrees: bool,
    known_by: bool,
    information: float,
    agreement: float,
    chance: float,
) -> str:
    """Why a teacher is believed, or not, in words."""
    if not finite:
        return "left out: it gives answers that are not numbers, or was not asked"
    tells = f"{100 * information:.0f} % of the panel's median"
    if not informative:
        return f"left out: its answers tell little about an image, {tells}"
    alike = f"{100 * agreement:.0f} % of others' images"
    if np.isnan(agreement):
        return f"believed: nobody else knows its classes; its answers tell {tells}"
    if agrees:
        return f"believed: it names {alike} as they do (chance: {100 * chance:.0f} %)"
    if known_by:
        return f"believed: others know its images, though it names only {alike} alike"
    return (
        f"left out: it names {alike} as they do (chance: {100 * chance:.0f} %), nor do "
        "they know its own"
    )


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


def _heard_out(
    evidence: _Evidence,
    asked: np.ndarray,
    finite: np.ndarray,
    witnesses: np.ndarray,
    agreed: np.ndarray,
    known_before: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What believed teachers and their images say of each teacher.

    Args:
      evidence: of all.
      asked: [n, T] which teachers were asked about which image.
      finite: [T] whose answers all are.
      witnesses: [T] who is believed so far.
      agreed: [T] what was found before, which stands where too little is left.
      known_before: [T] likewise.

    Returns:
      `Trust.agreement`; who names others' images better than by chance; whose images
      the others do.
    """
    labels, classes, owners = evidence.labels, evidence.classes, evidence.owners
    testify = evidence.shown & (
        evidence.unheard | np.isin(owners, np.flatnonzero(witnesses))
    )
    agreement, agrees = np.full(len(labels), np.nan), agreed.copy()
    for t in np.flatnonzero(finite):
        known = evidence.known(t)
        judged = np.isin(classes, known) & (owners != t) & testify & asked[:, t]
        if judged.any():
            agreement[t] = (labels[t, judged] == classes[judged]).mean()
        # Two classes at least: whoever prefers one is not contradicted by it alone.
        if len(np.unique(classes[judged])) > 1 and judged.sum() >= _ENOUGH:
            chance = 1.0 / len(known)
            error = np.sqrt(chance * (1 - chance) / judged.sum())
            agrees[t] = agreement[t] > chance + 2 * error
    return agreement, agrees, _known_by(evidence, finite, witnesses, known_before)


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
        if seen.size < _ENOUGH or len(np.unique(classes[seen])) < 2:
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
