"""Which teachers of a panel are believed."""

import numpy as np
from jaxtyping import Int

from free_jax import zoo as zoo_lib
from free_jax.panel.agreement import (
    Agreement,
    HardLabels,
    PanelLabels,
    agreement_among,
    no_agreement,
)
from free_jax.panel.partial_answers import each
from free_jax.panel.ragged import outputs_of
from free_jax.panel.verdicts import Facts, Trust, explained
from free_jax.types import Answers, SyntheticImages

NONE_INFORMATIVE = "no teacher of the zoo answers anything that depends on the image"
# As many passes as verdicts may need to stand: most need two.
REVISED = 10


def trust(
    answers: Answers,
    class_ids: Int[np.ndarray, " c"],
    images: SyntheticImages,
    passes: int = 1,
) -> Trust:
    """Finds constant, broken, mislabelled and random teachers by recovered images.

    Only what a teacher was asked about counts.  It is left out if an answer is not
    finite, if its answers carry less than a
    quarter of the panel's median information, or if it contradicts the others: neither
    does it recognise their images better than by chance nor they its own (by two
    standard errors; fewer than 30 images, or those of one class, tell nothing).
    With more than one pass whoever is left out rates nobody: verdicts are revised
    by the others and their images until they stand, which clears honest teachers whom
    mislabelled ones had contradicted.  Verdicts that come back to what they were
    before, in a circle, never stand: then those of the first pass count.
    Teachers of different numbers of classes are compared by the share of the maximum
    for their number, ``log W``.  A teacher counts fully or not at all: weights by
    information and agreement scored the same and left out honest teachers of hard
    tasks.

    Args:
      answers: of T teachers about each image, or of some of them.
      class_ids: [C] absolute classes of the outputs.
      images: what they were asked about; ``owners`` are rows of the T teachers that
        answered (see `rows_of`).
      passes: at most, 1 or more; 1 counts everyone, see `REVISED` for more.

    Returns:
      A `Trust`, on the host.
    """
    class_ids = np.asarray(class_ids)
    classes, owners = np.asarray(images.classes), np.asarray(images.owners)
    widths = np.diff(answers.columns)
    finite, information = np.zeros(len(widths), bool), np.zeros(len(widths))
    known = np.split(class_ids, answers.columns[1:-1])
    hard = []
    for t, (rows, said) in enumerate(each(answers)):
        answered = np.isfinite(said)
        finite[t] = len(rows) and answered.all()
        said = np.where(answered, said, 0.0)
        said = said - said.max(-1, keepdims=True)
        if finite[t]:
            p = np.exp(said) / np.exp(said).sum(-1, keepdims=True)
            information[t] = _entropy(p.mean(0)) - _entropy(p).mean()
        hard.append(HardLabels(rows, known[t][said.argmax(-1)]))
    # One for teachers of equal numbers of classes.
    relative = np.log(widths) / np.log(widths.max())
    share = information / relative
    usual = np.median(share[finite]) if finite.any() else 0.0
    informative = share > max(usual / 4, 1e-6)
    labelled = PanelLabels(hard, classes, owners, known, finite)
    agreed, believed = _settled(labelled, finite & informative, passes)
    asked = np.asarray([bool(rows.size) for rows, _ in hard])
    facts = Facts(
        asked,
        finite,
        informative,
        agreed.compared,
        agreed.enough,
        agreed.agrees,
        usual * relative,
        1.0 / widths,
    )
    weights = believed.astype(np.float32)
    found = Trust(weights, information, agreed.agreement, agreed.recognised)
    return explained(found, facts)


def _settled(
    labelled: PanelLabels, able: np.ndarray, passes: int
) -> tuple[Agreement, np.ndarray]:
    """How they agree in the end, and [T] who of those `able` is believed."""
    agreed, found = no_agreement(len(able)), []
    former = [np.ones(len(able), bool)]
    for _ in range(passes):
        agreed = agreement_among(labelled, former[-1], agreed)
        believed = able & (agreed.agrees | agreed.known_by)
        found.append((agreed, believed))
        if (believed == former[-1]).all() or not believed.any():
            break
        if any((believed == before).all() for before in former):
            return found[0]  # A circle.
        former.append(believed)
    return found[-1]


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
    passes: int = 1,
) -> Trust:
    """How far the teachers that were asked are trusted, see `trust`.

    Args:
      zoo: all teachers, of which `images` are owned.
      images: what they were asked about.
      answers: of those that were asked.
      asked: their rows in the zoo; None: all were.
      passes: see `trust`.
    """
    rows = np.arange(zoo.num_teachers) if asked is None else asked
    ids = zoo.class_ids[outputs_of(zoo.columns, rows)]
    owned = images._replace(owners=rows_of(images.owners, rows))
    return trust(answers, ids, owned, passes)
