"""Reliability weights of teachers (one or zero), and the reason of each in words.

trust = judge(zoo, images, answers)
print(as_text(verdicts(trust, zoo.sources)))
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from free_jax import nouns
from free_jax.panel.agreement import MIN_IMAGES


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
      believed: [T] why it is one, in words; "" of the others.
    """

    weights: np.ndarray
    information: np.ndarray
    agreement: np.ndarray
    recognised: np.ndarray | None = None
    left_out: tuple[str, ...] = ()
    believed: tuple[str, ...] = ()


class Facts(NamedTuple):
    """What decided about each of T teachers, beside what `Trust` keeps.

    Attributes:
      asked: whether it was asked anything.
      finite: all its answers are numbers.
      informative: they tell enough about an image.
      compared: of how many images its agreement is the share.
      enough: whether those are many, and of two classes, to contradict it.
      agrees: it labels them better than by chance, or they are not enough.
      usual: nats that a teacher of as many classes usually tells.
      chance: one over its number of classes.
    """

    asked: np.ndarray
    finite: np.ndarray
    informative: np.ndarray
    compared: np.ndarray
    enough: np.ndarray
    agrees: np.ndarray
    usual: np.ndarray
    chance: np.ndarray


def explained(found: Trust, facts: Facts) -> Trust:
    """With why each teacher is left out, or believed, in words."""
    reasons = [_why(found, facts, t) for t in range(len(found.weights))]
    pairs = list(zip(reasons, found.weights > 0, strict=True))
    return found._replace(
        left_out=tuple("" if good else why for why, good in pairs),
        believed=tuple(why if good else "" for why, good in pairs),
    )


def _why(found: Trust, facts: Facts, t: int) -> str:
    if not facts.asked[t]:
        return "it was not asked"
    if not facts.finite[t]:
        return "an answer of it is not finite"
    tells = f"its answers tell {found.information[t]:.2g} nats about an image"
    usual = f"{facts.usual[t]:.2g}"
    if not facts.informative[t]:
        return f"{tells}, less than a quarter of what is usual ({usual})"
    if np.isnan(found.agreement[t]):
        return f"no image of the others shows its classes; {tells} (usual: {usual})"
    if not facts.enough[t]:
        few = "images" if facts.compared[t] < MIN_IMAGES else "classes in images"
        return (
            f"too few {few} of the others ({facts.compared[t]}) to contradict it; "
            f"{tells} (usual: {usual})"
        )
    told = (
        f"it takes {100 * found.agreement[t]:.0f} % of the others' images for what "
        f"they are, by chance {100 * facts.chance[t]:.0f} %"
    )
    known = np.nan if found.recognised is None else found.recognised[t]
    if not facts.agrees[t] and np.isfinite(known):
        told += f"; the others recognise {100 * known:.0f} % of its own"
    return told


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
      ``teacher``, ``source``, ``trusted``, ``information`` (nats), ``agreement`` and
      ``recognised`` (None where nobody else knows its classes) and ``reason`` of each.
    """
    rows = np.arange(len(trust.weights)) if rows is None else rows
    recognised = trust.recognised
    if recognised is None:
        recognised = np.full(len(rows), np.nan)
    return [
        {
            "teacher": int(row),
            "source": sources[row],
            "trusted": bool(trust.weights[i]),
            "information": round(float(trust.information[i]), 4),
            "agreement": _share(trust.agreement[i]),
            "recognised": _share(recognised[i]),
            "reason": trust.left_out[i] or trust.believed[i],
        }
        for i, row in enumerate(rows)
    ]


def _share(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), 4)


def as_text(found: Sequence[dict[str, Any]]) -> str:
    """A line on each teacher, those that are left out first.

    >>> said = {"teacher": 3, "source": "a", "trusted": True, "reason": "it agrees"}
    >>> print(as_text([said, said | {"source": "bcd", "trusted": False}]))
    left out  bcd  it agrees
    believed  a    it agrees
    1 of 2 teachers are believed
    """
    width = max((len(each["source"]) for each in found), default=0)
    order = sorted(found, key=lambda each: each["trusted"])
    lines = [
        f"{'believed' if each['trusted'] else 'left out'}  {each['source']:{width}s}  "
        f"{each['reason']}"
        for each in order
    ]
    good, verb = sum(each["trusted"] for each in found), "are"
    if len(found) == 1:
        verb = "is"
    told = f"{good} of {nouns.count(len(found), 'teacher')} {verb} believed"
    return "\n".join([*lines, told])
