"""Which outputs of different teachers mean the same class, by their names.

Equal names are one class, whatever their case, Unicode form and separators, and
whatever follows the first comma: "Palm tree", "palm_tree" and "palm-tree, palm".
Nothing cleverer, because a wrong merge is worse than none.  Two outputs of one teacher
never merge, and an output without a name is a class of its own.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from free_jax.errors import InputError


class Labels(NamedTuple):
    """What one teacher calls its outputs.

    Attributes:
      source: the teacher, distinct, such as its path in a folder of models.
      names: of its outputs; None where it does not say.
    """

    source: str
    names: tuple[str | None, ...]


class ClassTable(NamedTuple):
    """The classes of many teachers.

    Attributes:
      names: of all classes, distinct, as first spelt.
      ids: of each teacher's outputs, [W] int32 each; they index `names`.
      merged: for each class with more than one output, the (source, name) of them.
    """

    names: tuple[str, ...]
    ids: tuple[np.ndarray, ...]
    merged: dict[str, list[tuple[str, str]]]


def key_of(name: str) -> str:
    """What names of one class have in common.

    >>> key_of("Palm_tree, palm") == key_of("palm-tree") == "palm tree"
    True
    """
    return _plain(name.split(",")[0])


def _plain(name: str) -> str:
    folded = unicodedata.normalize("NFKC", name).casefold()
    return re.sub(r"[\s_-]+", " ", folded).strip()


def unify(
    teachers: Sequence[Labels], classes: Mapping[str, Sequence[str]] | None = None
) -> ClassTable:
    """Gives all teachers' outputs absolute classes.

    Args:
      teachers: what each calls its outputs.
      classes: corrections, ``{class: [names that mean it]}``; a name may be said of one
        teacher alone, "source#name" or, by its position, "source#3".

    Returns:
      The table; its order is that of the teachers and their outputs.

    Raises:
      InputError: a correction speaks of no output, of two outputs of one teacher, or
        of one name twice.

    >>> table = unify([Labels("a", ("Bus", "oak")), Labels("b", (None, "bus"))])
    >>> table.names, table.ids[1].tolist()
    (('Bus', 'oak', 'b#0'), [2, 0])
    """
    corrected = _corrections(classes or {})
    used: set[str] = set()
    position: dict[str, int] = {}  # key -> class id
    names: list[str] = []
    ids, members = [], {}
    for labels in teachers:
        row = []
        for key, shown in _keys(labels, corrected, used):
            if key not in position:
                position[key] = len(names)
                names.append(shown)
            number = position[key]
            row.append(number)
            name = labels.names[len(row) - 1]
            members.setdefault(number, []).append((labels.source, name or shown))
        twice = [names[i] for i, count in Counter(row).items() if count > 1]
        if twice:
            raise InputError(
                f"classes: two outputs of {labels.source} would both be {twice[0]!r}; "
                "two outputs of one teacher are two classes"
            )
        ids.append(np.asarray(row, np.int32))
    unused = sorted(set(corrected) - used)
    if unused:
        raise InputError(
            f"classes: no teacher has an output {unused[0]!r}; write a name as the "
            "teachers do, or source#name"
        )
    merged = {names[i]: found for i, found in members.items() if len(found) > 1}
    return ClassTable(_distinct(names), tuple(ids), merged)


def _corrections(classes: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """``{name as said: class}``."""
    corrected: dict[str, str] = {}
    for meaning, spellings in classes.items():
        for spelling in spellings:
            source, mark, name = str(spelling).rpartition("#")
            said = f"{source}#{_plain(name)}" if mark else key_of(str(spelling))
            if corrected.setdefault(said, str(meaning)) != str(meaning):
                raise InputError(
                    f"classes: {spelling!r} is said to be both {corrected[said]!r} and "
                    f"{meaning!r}; keep one"
                )
    return corrected


def _keys(
    labels: Labels, corrected: Mapping[str, str], used: set[str]
) -> list[tuple[str, str]]:
    """(what decides the class, how it is shown) of each output of one teacher."""
    short = Counter(key_of(name) for name in labels.names if name)
    full = Counter(_plain(name) for name in labels.names if name)
    found = []
    for number, name in enumerate(labels.names):
        own = f"{labels.source}#{number}"
        said = [own]
        if name:
            said += [f"{labels.source}#{_plain(name)}", key_of(name)]
        meaning = next((s for s in said if s in corrected), None)
        if meaning is not None:
            used.add(meaning)
            shown = corrected[meaning]
            found.append((key_of(shown), shown))
        elif not name or not key_of(name):
            found.append((f"#{own}", own))
        elif short[key_of(name)] == 1:
            found.append((key_of(name), name.split(",")[0].strip()))
        elif full[_plain(name)] == 1:
            # "crane, bird" and "crane, machine": the whole name tells them apart.
            found.append((f",{_plain(name)}", name.strip()))
        else:
            found.append((f"#{own}", f"{name.split(',')[0].strip()} ({own})"))
    return found


def _distinct(names: Sequence[str]) -> tuple[str, ...]:
    """The names, numbered where two classes are shown alike."""
    seen: Counter[str] = Counter()
    found = []
    for name in names:
        seen[name] += 1
        found.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return tuple(found)
