"""Pairwise agreement of teachers: by the hard labels that they give.

Images recovered from teachers compare them twice: a teacher labels those of the others,
and the others label its own.
"""

from typing import NamedTuple

import numpy as np

# Images by which a teacher may be found to contradict the others.
MIN_IMAGES = 30


class HardLabels(NamedTuple):
    """The classes that one teacher labels images as.

    Attributes:
      images: [n] rows of the images that it was asked about, increasing.
      labels: [n] the absolute class that it labels each as.
    """

    images: np.ndarray
    labels: np.ndarray


class PanelLabels(NamedTuple):
    """The classes that T teachers label N images as.

    Attributes:
      hard: labels of each teacher.
      classes: [N] the class that each image was recovered as.
      owners: [N] rows of the teachers; T for one that was not asked, -1 for none.
      known: the absolute classes of each teacher.
      finite: [T] whose answers all are.
    """

    hard: list[HardLabels]
    classes: np.ndarray
    owners: np.ndarray
    known: list[np.ndarray]
    finite: np.ndarray


class Agreement(NamedTuple):
    """How each of T teachers agrees with the others.

    Attributes:
      agreement: see `Trust`, as the next.
      recognised: share of its own images that the others label alike.
      compared: how many images of others that is the share of.
      enough: whether those may contradict it: they are many, and of two classes.
      agrees: it labels them better than by chance, or they are not enough.
      known_by: the others so label its images.
    """

    agreement: np.ndarray
    recognised: np.ndarray
    compared: np.ndarray
    enough: np.ndarray
    agrees: np.ndarray
    known_by: np.ndarray


def no_agreement(count: int) -> Agreement:
    """Before any comparison: information alone decides."""
    nan, no = np.full(count, np.nan), np.zeros(count, bool)
    return Agreement(nan, nan, np.zeros(count, int), no, np.ones(count, bool), no)


def agreement_among(
    labelled: PanelLabels, raters: np.ndarray, before: Agreement
) -> Agreement:
    """How each teacher agrees with some teachers and their images.

    Args:
      labelled: by all.
      raters: [T] whose labels and images count.
      before: what was found before, which stands where too little is left.
    """
    hard, classes, owners, known, finite = labelled
    agreement, compared, enough, agrees = (
        np.array(x)
        for x in (before.agreement, before.compared, before.enough, before.agrees)
    )
    # Of teachers that were not asked nothing is known, and their images count.
    counts = np.append(raters, True)
    shown = _recognised(hard, classes, owners) & counts[np.minimum(owners, len(hard))]
    for t in np.flatnonzero(finite):
        rows, labels = hard[t]
        about = np.isin(classes[rows], known[t]) & (owners[rows] != t) & shown[rows]
        called, right = classes[rows][about], labels[about] == classes[rows][about]
        # Two classes at least: whoever prefers one is not contradicted by it alone.
        many = len(np.unique(called)) > 1 and called.size >= MIN_IMAGES
        if enough[t] and not many:
            continue
        compared[t], enough[t] = called.size, many
        agreement[t] = right.mean() if called.size else np.nan
        if many:
            chance = 1.0 / len(known[t])
            error = np.sqrt(chance * (1 - chance) / called.size)
            agrees[t] = agreement[t] > chance + 2 * error
    known_by, recognised = _known_by(labelled, raters, before)
    return Agreement(agreement, recognised, compared, enough, agrees, known_by)


def _known_by(
    labelled: PanelLabels, raters: np.ndarray, before: Agreement
) -> tuple[np.ndarray, np.ndarray]:
    """[T] whose images the raters recognise better than by chance, and how often.

    The other direction of agreement: a teacher that is shown nothing but what others'
    inversions failed to show is not mislabelled if they know its own images.
    """
    hard, classes, owners, known, finite = labelled
    found, often = np.array(before.known_by), np.array(before.recognised)
    own = _by_owner(hard, classes, owners) & (owners >= 0) & (owners < len(hard))
    # By image: how many rate it, rightly, and how many would by chance.
    rated, right, expected = np.zeros((3, len(classes)))
    for other in np.flatnonzero(finite & raters):
        rows, labels = hard[other]
        about = own[rows] & (owners[rows] != other)
        about &= np.isin(classes[rows], known[other])
        about_rows = rows[about]
        rated[about_rows] += 1
        right[about_rows] += labels[about] == classes[about_rows]
        expected[about_rows] += 1.0 / len(known[other])
    seen = np.flatnonzero(own & (rated > 0))
    order = seen[np.argsort(owners[seen], kind="stable")]
    ends = np.searchsorted(owners[order], np.arange(len(hard) + 1))
    for t in range(len(hard)):
        mine = order[ends[t] : ends[t + 1]]
        if not mine.size:
            continue
        share, chance = (np.mean(x[mine] / rated[mine]) for x in (right, expected))
        enough = mine.size >= MIN_IMAGES and len(np.unique(classes[mine])) > 1
        if enough or np.isnan(often[t]):
            often[t] = share
        if enough:
            error = np.sqrt(chance * (1 - chance) / mine.size)
            found[t] = share > chance + 2 * error
    return found, often


def _recognised(
    hard: list[HardLabels], classes: np.ndarray, owners: np.ndarray
) -> np.ndarray:
    """Which images show their class: those that their own teacher recognises.

    An inversion that failed, or lost its class in another size, contradicts nobody.
    Of owners that were not asked nothing is known, and theirs count.

    Args:
      hard: labels of each teacher.
      classes: [n] the class that each image was recovered as.
      owners: [n] rows of the teachers; T for one that was not asked, -1 for none.
    """
    asked = (owners >= 0) & (owners < len(hard))
    return np.where(asked, _by_owner(hard, classes, owners), owners >= 0)


def _by_owner(
    hard: list[HardLabels], classes: np.ndarray, owners: np.ndarray
) -> np.ndarray:
    """[n] whether an image's own teacher takes it for what it was recovered as."""
    own = np.zeros(len(classes), bool)
    for t, (rows, labels) in enumerate(hard):
        mine = owners[rows] == t
        own[rows[mine]] = labels[mine] == classes[rows[mine]]
    return own
