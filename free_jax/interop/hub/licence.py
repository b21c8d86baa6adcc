"""The licence of a model as its own files state it, unjudged.

Fields alone are read: ``license`` of a config.json, and of the YAML front matter of a
model's README.md.  What a README says in words is no statement of this kind.
"""

import itertools
import pathlib
from collections.abc import Mapping
from typing import Any

from free_jax.errors import InputError
from free_jax.interop.hub.facts import Fact
from free_jax.interop.tensors.opening import open_within

_README, _LONGEST, _MOST_LINES, _LARGEST = "README.md", 100, 2000, 4 << 20


def licence_of(folder: pathlib.Path, config: Any, root: pathlib.Path) -> Fact | None:
    """What files in a model's folder state; None where none does.

    Args:
      folder: of the model.
      config: content of its config.json, if it has one.
      root: the folder of models, which is not left.
    """
    front = _front_matter(folder, root)
    inner = config.get("pretrained_cfg") if isinstance(config, Mapping) else None
    for table, source in (
        (front, _README),
        (config, "config.json"),
        (inner, "config.json:pretrained_cfg"),
    ):
        text = _stated(table)
        if text:
            return Fact(text, f"{source}:license")
    return None


def _stated(table: Any) -> str:
    """The field as text; several licences side by side."""
    if not isinstance(table, Mapping):
        return ""
    value = table.get("license")
    if value == "other" and isinstance(table.get("license_name"), str):
        value = table["license_name"]
    several = value if isinstance(value, list) else [value]
    named = [text.strip() for text in several[:8] if isinstance(text, str)]
    return ", ".join(filter(None, named))[:_LONGEST]


def _front_matter(folder: pathlib.Path, root: pathlib.Path) -> Any:
    """The table at the head of a README.md; None where there is none."""
    import yaml

    try:
        file = open_within(folder / _README, root, _LARGEST)
        with file.open(encoding="utf-8-sig", errors="replace") as lines:
            if next(lines, "").strip() != "---":
                return None
            read = list(itertools.islice(lines, _MOST_LINES))
    except (InputError, OSError):
        return None
    ends = [i for i, line in enumerate(read) if line.strip() == "---"]
    if not ends:
        return None
    try:
        return yaml.safe_load("".join(read[: ends[0]]))
    # A front matter that cannot be read states nothing.
    except (yaml.YAMLError, ValueError, RecursionError):
        return None
