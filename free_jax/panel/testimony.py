"""Pairwise agreement of teachers: hard labels, and what they say of one another.

Images recovered from a teacher speak for it or against it twice: by what it takes those
of others for, and by what the others take its own for.
"""

from typing import NamedTuple

import numpy as np

# Images by which a teacher may be found to contradict the others.
ENOUGH = 30


class Taken(NamedTuple):
    """What one teacher takes images for.

    Attributes:
      images: [n] rows of the images that it was asked about, increasing.
      labels: [n] the absolute class that it takes each for.
    """

    images: np.ndarray
    labels: np.ndarray


class Evidence(NamedTuple):
    """What T teachers take N images for.

    Attributes:
      taken: by each teacher.
      classes: [N] the class that each image was recovered as.
      owners: [N] rows of the teachers; T for one that was not asked, -1 for none.
      known: the absolute classes of each teacher.
      finite: [T] whose answers all are.
    """

    taken: list[Taken]
    classes: np.ndarray
    owners: np.ndarray
    known: list[np.ndarray]
    finite: np.ndarray


class Heard(NamedTuple):
    """What is said of each of T teachers.

    Attributes:
      agreement: see `Trust`, as the next.
      recognised: share of its own images that the others label alike.
      judged: images of others by which it was judged.
      told: whether those may contradict it: they are enough, and of two classes.
      agrees: it labels others' images better than by chance, as far as was told.
      known_by: the others so label its images.
    """

    agreement: np.ndarray
    recognised: np.ndarray
    judged: np.ndarray
    told: np.ndarray
    agrees: np.ndarray
    known_by: np.ndarray


def unheard(count: int) -> Heard:
    """Before anybody speaks: where nothing is said information alone decides."""
    nan, no = np.full(count, np.nan), np.zeros(count, bool)
    return Heard(nan, nan, np.zeros(count, int), no, np.ones(count, bool), no)


def heard_out(evidence: Evidence, witnesses: np.ndarray, before: Heard) -> Heard:
    """What some teachers and their images say of each teacher.

    Args:
      evidence: of all.
      witnesses: [T] who may speak.
      before: what was found before, which stands where too little is left.
    """
    taken, classes, owners, known, finite = evidence
    agreement, judged, told, agrees = (
        np.array(x)
        for x in (before.agreement, before.judged, before.told, before.agrees)
    )
    # Of teachers that were not asked nothing is known, and their images count.
    speaks = np.append(witnesses, True)
    shown = _recognised(taken, classes, owners) & speaks[np.minimum(owners, len(taken))]
    for t in np.flatnonzero(finite):
        rows, labels = taken[t]
        about = np.isin(classes[rows], known[t]) & (owners[rows] != t) & shown[rows]
        called, right = classes[rows][about], labels[about] == classes[rows][about]
        # Two classes at least: whoever prefers one is not contradicted by it alone.
        enough = len(np.unique(called)) > 1 and called.size >= ENOUGH
        if told[t] and not enough:
            continue
        judged[t], told[t] = called.size, enough
        agreement[t] = right.mean() if called.size else np.nan
        if enough:
            chance = 1.0 / len(known[t])
            error = np.sqrt(chance * (1 - chance) / called.size)
            agrees[t] = agreement[t] > chance + 2 * error
    known_by, recognised = _known_by(evidence, witnesses, before)
    return Heard(agreement, recognised, judged, told, agrees, known_by)


def _known_by(
    evidence: Evidence, witnesses: np.ndarray, before: Heard
) -> tuple[np.ndarray, np.ndarray]:
    """[T] whose images the witnesses recognise better than by chance, and how often.

    The other direction of agreement: a teacher that is shown nothing but what others'
    inversions failed to show is not mislabelled if they know its own images.
    """
    taken, classes, owners, known, finite = evidence
    found, often = np.array(before.known_by), np.array(before.recognised)
    own = _by_owner(taken, classes, owners) & (owners >= 0) & (owners < len(taken))
    # By image: how many judge it, rightly, and how many would by chance.
    judges, right, expected = np.zeros((3, len(classes)))
    for other in np.flatnonzero(finite & witnesses):
        rows, labels = taken[other]
        about = own[rows] & (owners[rows] != other)
        about &= np.isin(classes[rows], known[other])
        judged = rows[about]
        judges[judged] += 1
        right[judged] += labels[about] == classes[judged]
        expected[judged] += 1.0 / len(known[other])
    seen = np.flatnonzero(own & (judges > 0))
    order = seen[np.argsort(owners[seen], kind="stable")]
    ends = np.searchsorted(owners[order], np.arange(len(taken) + 1))
    for t in range(len(taken)):
        mine = order[ends[t] : ends[t + 1]]
        if not mine.size:
            continue
        share, chance = (np.mean(x[mine] / judges[mine]) for x in (right, expected))
        enough = mine.size >= ENOUGH and len(np.unique(classes[mine])) > 1
        if enough or np.isnan(often[t]):
            often[t] = share
        if enough:
            error = np.sqrt(chance * (1 - chance) / mine.size)
            found[t] = share > chance + 2 * error
    return found, often


def _recognised(
    taken: list[Taken], classes: np.ndarray, owners: np.ndarray
) -> np.ndarray:
    """Which images show their class: those that their own teacher recognises.

    An inversion that failed, or lost its class in another size, speaks against nobody.
    Of owners that were not asked nothing is known, and theirs count.

    Args:
      taken: by each teacher.
      classes: [n] the class that each image was recovered as.
      owners: [n] rows of the teachers; T for one that was not asked, -1 for none.
    """
    asked = (owners >= 0) & (owners < len(taken))
    return np.where(asked, _by_owner(taken, classes, owners), owners >= 0)


def _by_owner(
    taken: list[Taken], classes: np.ndarray, owners: np.ndarray
) -> np.ndarray:
    """[n] whether an image's own teacher takes it for what it was recovered as."""
    own = np.zeros(len(classes), bool)
    for t, (rows, labels) in enumerate(taken):
        mine = owners[rows] == t
        own[rows[mine]] = labels[mine] == classes[rows[mine]]
    return own
