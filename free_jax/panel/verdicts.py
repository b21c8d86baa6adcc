"""What is said of each teacher of a panel: whether it is believed, and why.

trust = judge(zoo, images, answers)
print(as_text(verdicts(trust, zoo.sources)))
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from free_jax.panel.trust import Trust


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
