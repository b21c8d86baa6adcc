"""What keys of a config point to, known by what it holds and not by where it is.

A run may be moved: another disk, another folder name.  What is noted of a run are
signatures, so that a copy is accepted and another content under the same path is not.
"""

import types
from collections.abc import Mapping
from typing import Any, NamedTuple

from experiments.harness import files
from free_jax.errors import InputError


class Content(NamedTuple):
    """What some keys point to.

    Attributes:
      keys: dotted, which say where it is; they may change while it is the same.
      parts: name of each part to a signature of what it holds; None: not known yet,
        to be told by `Run.confirm`.
      needed: the parts that results depend on.
    """

    keys: tuple[str, ...]
    parts: Mapping[str, str] | None = None
    needed: tuple[str, ...] = ()


# Name of a content, as a reader calls it -> what it is; as JSON in files.
Contents = Mapping[str, Content]
Noted = Mapping[str, Mapping[str, Any]]
NOTHING: Contents = types.MappingProxyType({})


def noted(before: Noted, now: Contents) -> dict[str, Any]:
    """What is known after a use of a run, as plain JSON."""
    found = {name: dict(content) for name, content in before.items()}
    for name, content in now.items():
        if content.parts is not None:
            parts = dict(found.get(name, {}).get("parts", {})) | dict(content.parts)
            found[name] = {
                "keys": list(content.keys),
                "parts": parts,
                "needed": list(content.needed),
            }
    return found


def free_keys(
    before: Noted, now: Contents, config: Any = None, place: Any = ""
) -> tuple[str, ...]:
    """The keys that may change, because what they point to is known to be the same.

    Args:
      before: as noted when the run was used last; what is not noted is compared by its
        path, as every other key.
      now: what the keys point to.
      config: of this use, for what is said.
      place: of the run, for what is said.

    Raises:
      InputError: what results depend on is another.
    """
    found: tuple[str, ...] = ()
    flat = files.flatten(config or {})
    for name, content in now.items():
        if name not in before:
            continue
        known, parts = before[name]["parts"], content.parts
        if parts is None:  # Compared when it is known.
            found += content.keys
            continue
        if any(part not in known or part not in parts for part in content.needed):
            continue  # There was nothing then, or is now: the paths say it.
        other = [part for part in content.needed if known[part] != parts[part]]
        if other:
            said = [
                f"config.{key}={flat[key]}" for key in content.keys if flat.get(key)
            ]
            told = ", ".join(f"{p}: {known[p]} -> {parts[p]}" for p in other)
            raise InputError(
                f"the content of the {name} has changed since {place} was started "
                f"({', '.join(said)}; {told}), and its results depend on it; give what "
                "it was started with, or use another --workdir"
            )
        found += content.keys
    return found


def is_same(before: Noted, name: str, content: Content) -> bool:
    """Whether all that is known of a content was noted just so."""
    known = before.get(name, {}).get("parts", {})
    return bool(content.parts) and all(
        known.get(part) == value for part, value in content.parts.items()
    )


def contradict(before: Noted, now: Noted, *, needed: bool = True) -> list[str]:
    """Parts that two notes both know, and know otherwise: "name/part: a -> b".

    Args:
      before: a note.
      now: another.
      needed: only those that results depend on.
    """
    found = []
    for name in sorted(before.keys() & now.keys()):
        old, new = before[name]["parts"], now[name]["parts"]
        for part in sorted(old.keys() & new.keys()):
            if old[part] != new[part]:
                if not needed or part in before[name]["needed"]:
                    found.append(f"{name}/{part}: {old[part]} -> {new[part]}")
    return found
