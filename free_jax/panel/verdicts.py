"""What is said of each teacher of a panel: whether it is believed, and why.

trust = judge(zoo, images, answers)
print(as_text(verdicts(trust, zoo.sources)))
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

# Images by which a teacher may be found to contradict the others.
ENOUGH = 30


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


def reason(
    finite: bool,
    informative: bool,
    agreement: float,
    judged: int,
    told: bool,
    agrees: bool,
    known_by: bool,
    information: float,
    chance: float,
) -> str:
    """Why a teacher is believed, or not, in words.

    Args:
      finite: all its answers are numbers.
      informative: they tell enough about an image.
      agreement: see `Trust`; nan where no image was there.
      judged: of how many images that is the share.
      told: whether those are enough, and of two classes, to contradict it.
      agrees: it names them better than by chance, as far as was told.
      known_by: the others so name its own.
      information: as a share of the panel's median.
      chance: one over its number of classes.
    """
    if not finite:
        return "left out: it gives answers that are not numbers, or was not asked"
    tells = f"{100 * information:.0f} % of the panel's median"
    if not informative:
        return f"left out: its answers tell little about an image, {tells}"
    if np.isnan(agreement):
        return (
            f"believed: no believed teacher shows its classes; its answers tell {tells}"
        )
    if not told:
        few = "too few images" if judged < ENOUGH else "too few classes in images"
        return f"believed: {few} ({judged}) to contradict it; its answers tell {tells}"
    alike = f"{100 * agreement:.0f} % of {judged} of others' images"
    if agrees:
        return f"believed: it names {alike} as they do (chance: {100 * chance:.0f} %)"
    if known_by:
        return f"believed: others know its images, though it names only {alike} alike"
    return (
        f"left out: it names {alike} as they do (chance: {100 * chance:.0f} %), nor do "
        "they know its own"
    )


def verdicts(
    trust: Trust,
    sources: Sequence[str],
    rows: Int[np.ndarray, " t"] | None = None,
) -> list[dict[str, Any]]:
    """A verdict on each teacher that was asked, ready for JSON.

    Args:
      trust: in T teachers.
      sources: where each teacher of the zoo came from.
      rows: the teachers' numbers in the zoo; None: all were asked, in order.

    Returns:
      ``teacher``, ``source``, ``trusted``, ``information`` (nats), ``agreement`` (None
      where nobody else knows its classes) and ``reason`` of each.
    """
    rows = np.arange(len(trust.weights)) if rows is None else rows
    return [
        {
            "teacher": int(row),
            "source": sources[row],
            "trusted": bool(trust.weights[i]),
            "information": round(float(trust.information[i]), 4),
            "agreement": (
                None
                if np.isnan(trust.agreement[i])
                else round(float(trust.agreement[i]), 4)
            ),
            "reason": trust.reasons[i],
        }
        for i, row in enumerate(rows)
    ]


def as_text(found: Sequence[dict[str, Any]]) -> str:
    """A line on each teacher, those that are left out first.

    >>> said = {"teacher": 3, "source": "a", "trusted": True, "reason": "believed: x"}
    >>> print(as_text([said, said | {"source": "bcd", "trusted": False}]))
    -  bcd  believed: x
    +  a    believed: x
    1 of 2 teachers are believed
    """
    width = max((len(each["source"]) for each in found), default=0)
    order = sorted(found, key=lambda each: each["trusted"])
    lines = [
        f"{'+' if each['trusted'] else '-'}  {each['source']:{width}s}  "
        f"{each['reason']}"
        for each in order
    ]
    good = sum(each["trusted"] for each in found)
    return "\n".join([*lines, f"{good} of {len(found)} teachers are believed"])
