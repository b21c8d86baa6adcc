"""Names of classes in what an ONNX file says about itself."""

import ast
import json
from collections.abc import Mapping
from typing import Any

KEYS = (
    *("names", "class_names", "classes", "labels", "id2label", "categories"),
    *("class_labels", "label_names", "label", "label2id", "class_to_idx"),
)
_CAP = 1 << 20


def class_names(metadata: Mapping[str, str]) -> tuple[tuple[str, ...] | None, str]:
    """The names by output, and the key that they stand under; (None, "") without.

    Args:
      metadata: of the file, keys in lower case; values are JSON, a Python literal (as
        ultralytics writes), or lines or words between commas.
    """
    for key in KEYS:
        if key in metadata:
            names = parse_names(metadata[key])
            if names is not None:
                return names, key
    return None, ""


def parse_names(text: str) -> tuple[str, ...] | None:
    """Names in order of outputs, or None if the text is no such list.

    >>> parse_names("{1: 'dog', 0: 'cat'}")
    ('cat', 'dog')
    >>> parse_names('["cat", "dog"]')
    ('cat', 'dog')
    >>> parse_names("cat, dog")
    ('cat', 'dog')
    """
    if len(text) > _CAP:
        return None
    value = _literal(text)
    if value is None:
        stripped = text.strip()
        if not stripped or stripped[0] in "{[(":
            return None
        separator = "\n" if "\n" in stripped else "," if "," in stripped else None
        if separator is None:
            return None
        value = [part.strip() for part in stripped.split(separator)]
        value = value[:-1] if value[-1] == "" else value
    if isinstance(value, dict):
        value = _by_number(value)
    if not isinstance(value, list | tuple) or len(value) < 2:
        return None
    if not all(isinstance(name, str | int) and str(name) for name in value):
        return None
    return tuple(str(name) for name in value)


def _literal(text: str) -> Any:
    for read in (json.loads, ast.literal_eval):
        try:
            return read(text)
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            continue
    return None


def _by_number(value: dict[Any, Any]) -> list[Any] | None:
    """{0: name, ..}, {"0": name, ..} or {name: 0, ..} in order of the numbers."""
    for numbers, names in (
        (value.keys(), value.values()),
        (value.values(), value.keys()),
    ):
        try:
            places = [int(str(number)) for number in numbers]
        except ValueError:
            continue
        if sorted(places) == list(range(len(places))):
            return [name for _, name in sorted(zip(places, names, strict=True))]
    return None
