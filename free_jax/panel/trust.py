"""Which teachers of a panel are believed."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from free_jax import zoo as zoo_lib
from free_jax.panel.ragged import outputs_of
from free_jax.panel.some import each
from free_jax.types import Answers, SyntheticImages

NOBODY = "no teacher of the zoo answers anything that depends on the image"

# Images by which a teacher may be found to contradict the others.
_ENOUGH = 30


class Trust(NamedTuple):
    """How far each teacher of a panel is believed, judged without data.

    Attributes:
      weights: [T] one, or zero for a teacher that is left out.
      information: [T] nats, entropy of the mean prediction minus mean entropy: what
        an answer tells about the image; zero for constant teachers.
      agreement: [T] share of images of the teacher's classes, recovered from OTHER
        teachers and recognised by them, that it labels alike, in [0, 1]; nan where
        there are none.
      recognised: [T] share of the images recovered from a teacher, and recognised by
        it, that the OTHER teachers label alike, in [0, 1]; nan where none can.
      left_out: [T] why a teacher's weight is zero, in words; "" of the others.
    """

    weights: np.ndarray
    information: np.ndarray
    agreement: np.ndarray
    recognised: np.ndarray | None = None
    left_out: tuple[str, ...] = ()


def trust(
    answers: Answers, class_ids: Int[np.ndarray, " c"], images: SyntheticImages
) -> Trust:
    """Finds constant, broken, mislabelled and random teachers by recovered images.

    Only what a teacher was asked about counts.  It is left out if an answer is not
    finite, if its answers carry less than a
    quarter of the panel's median information, or if it contradicts the others: neither
    does it recognise their images better than by chance nor they its own (by two
    standard errors; fewer than 30 images, or those of one class, tell nothing).
    Teachers of different numbers of classes are compared by the share of the maximum
    for their number, ``log W``.  A teacher counts fully or not at all: weights by
    information and agreement scored the same and left out honest teachers of hard
    tasks.

    Args:
      answers: of T teachers about each image, or of some of them.
      class_ids: [C] absolute classes of the outputs.
      images: what they were asked about; ``owners`` are rows of the T teachers that
        answered (see `rows_of`).

    Returns:
      A `Trust`, on the host.
    """
    class_ids = np.asarray(class_ids)
    classes, owners = np.asarray(images.classes), np.asarray(images.owners)
    widths = np.diff(answers.columns)
    finite = np.zeros(len(widths), bool)
    information, agreement = np.zeros(len(widths)), np.full(len(widths), np.nan)
    # Where no other teacher knows its classes its information alone decides.
    agrees = np.ones(len(widths), bool)
    known = np.split(class_ids, answers.columns[1:-1])
    taken = []
    for t, (rows, said) in enumerate(each(answers)):
        answered = np.isfinite(said)
        finite[t] = len(rows) and answered.all()
        said = np.where(answered, said, 0.0)
        said = said - said.max(-1, keepdims=True)
        if finite[t]:
            p = np.exp(said) / np.exp(said).sum(-1, keepdims=True)
            information[t] = _entropy(p.mean(0)) - _entropy(p).mean()
        taken.append(Taken(rows, known[t][said.argmax(-1)]))
    shown = _recognised(taken, classes, owners)
    for t in np.flatnonzero(finite):
        rows, labels = taken[t]
        about = np.isin(classes[rows], known[t]) & (owners[rows] != t) & shown[rows]
        judged, right = classes[rows][about], labels[about] == classes[rows][about]
        if judged.size:
            agreement[t] = right.mean()
        # Two classes at least: whoever prefers one is not contradicted by it alone.
        if len(np.unique(judged)) > 1 and judged.size >= _ENOUGH:
            chance = 1.0 / len(known[t])
            error = np.sqrt(chance * (1 - chance) / judged.size)
            agrees[t] = agreement[t] > chance + 2 * error
    believed, recognised = _believed(taken, classes, owners, known, finite)
    agrees |= believed
    # One for teachers of equal numbers of classes.
    share = information / (np.log(widths) / np.log(widths.max()))
    usual = np.median(share[finite]) if finite.any() else 0.0
    informative = share > max(usual / 4, 1e-6)
    weights = (finite & informative & agrees).astype(np.float32)
    found = Trust(weights, information, agreement, recognised)
    relative = np.log(widths) / np.log(widths.max())
    reasons = [
        ""
        if weights[t]
        else "it was not asked"
        if not taken[t].images.size
        else "an answer of it is not finite"
        if not finite[t]
        else _told_little(found, t, usual * relative[t])
        if not informative[t]
        else _contradicted(found, t, int(widths[t]))
        for t in range(len(widths))
    ]
    return found._replace(left_out=tuple(reasons))


def _told_little(found: Trust, t: int, usual: float) -> str:
    return (
        f"its answers tell {found.information[t]:.2g} nats about an image, less than a "
        f"quarter of what is usual ({usual:.2g})"
    )


def _contradicted(found: Trust, t: int, way: int) -> str:
    told = (
        f"it takes {100 * found.agreement[t]:.0f} % of the others' images for what "
        f"they are, by chance {100 / way:.0f} %"
    )
    if found.recognised is not None and np.isfinite(found.recognised[t]):
        told += f"; the others recognise {100 * found.recognised[t]:.0f} % of its own"
    return told


class Taken(NamedTuple):
    """What one teacher takes images for.

    Attributes:
      images: [n] rows of the images that it was asked about, increasing.
      labels: [n] the absolute class that it takes each for.
    """

    images: np.ndarray
    labels: np.ndarray


def _believed(
    taken: list[Taken],
    classes: np.ndarray,
    owners: np.ndarray,
    known: list[np.ndarray],
    finite: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """[T] whose images the others recognise better than by chance, and [T] how often.

    The other direction of agreement: a teacher that is shown nothing but what others'
    inversions failed to show is not mislabelled if they know its own images.

    Args:
      taken: by each teacher.
      classes: [n] the class that each image was recovered as.
      owners: [n] rows of the teachers.
      known: the absolute classes of each teacher.
      finite: [T] whose answers all are.
    """
    found, often = np.zeros(len(taken), bool), np.full(len(taken), np.nan)
    own = _by_owner(taken, classes, owners) & (owners >= 0) & (owners < len(taken))
    # By image: how many judge it, rightly, and how many would by chance.
    judges, right, expected = np.zeros((3, len(classes)))
    for other in np.flatnonzero(finite):
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
        often[t] = share
        if mine.size < _ENOUGH or len(np.unique(classes[mine])) < 2:
            continue
        found[t] = share > chance + 2 * np.sqrt(chance * (1 - chance) / mine.size)
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


def _entropy(p: np.ndarray) -> np.ndarray | np.floating:
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


def judge(
    zoo: zoo_lib.Zoo,
    images: SyntheticImages,
    answers: Answers,
    asked: Int[np.ndarray, " t"] | None = None,
) -> Trust:
    """How far the teachers that were asked are trusted, see `trust`.

    Args:
      zoo: all teachers, of which `images` are owned.
      images: what they were asked about.
      answers: of those that were asked.
      asked: their rows in the zoo; None: all were.
    """
    rows = np.arange(zoo.num_teachers) if asked is None else asked
    ids = zoo.class_ids[outputs_of(zoo.columns, rows)]
    owned = images._replace(owners=rows_of(images.owners, rows))
    return trust(answers, ids, owned)
