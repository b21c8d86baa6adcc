"""Files beside teachers of the released layouts: ``class_ids.json`` and ``log.tsv``."""

import csv
import io
import json
import re
from collections.abc import Mapping
from typing import Any

from free_jax.errors import InputError


def file_number(name: str) -> int:
    """The last number in a file's name, by which ``log.tsv`` calls it; -1: none."""
    digits = re.findall(r"\d+", name.rsplit(".", 1)[0])
    return int(digits[-1]) if digits else -1


def read_log(folder: Any) -> dict[int, dict[str, str]]:
    """Lines of ``log.tsv`` by their id; none where there is no such file.

    Raises:
      InputError: it has no column id of distinct whole numbers.
    """
    path = folder / "log.tsv"
    if not path.exists():
        return {}
    try:
        rows = list(csv.DictReader(io.StringIO(path.read_text()), delimiter="\t"))
        found = {int(row["id"]): row for row in rows}
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise InputError(
            f"{path}: needs a column id of whole numbers; correct or remove the file"
        ) from error
    if len(found) != len(rows):
        raise InputError(f"{path}: an id appears twice; correct or remove the file")
    return found


def log_entry(
    row: Mapping[str, str], ids: list[int] | None, source: str
) -> tuple[list[int] | None, float | None]:
    """Class ids and accuracy of one file by its line of ``log.tsv``.

    Raises:
      InputError: the line cannot be read, contradicts the file, or its accuracy is not
        in [0, 1].
    """
    try:
        logged = row.get("class_ids")
        logged = [int(i) for i in logged.split(",")] if logged else None
        accuracy = row.get("held_out_accuracy")
        accuracy = float(accuracy) if accuracy else None
    except (ValueError, AttributeError) as error:
        raise InputError(
            f"log.tsv beside {source}: line {dict(row)} cannot be read; correct or "
            "remove log.tsv"
        ) from error
    if accuracy is not None and not 0 <= accuracy <= 1:
        raise InputError(
            f"log.tsv beside {source}: held_out_accuracy {accuracy} is not in [0, 1]; "
            "write fractions, not per cent"
        )
    if ids is not None and logged is not None and ids != logged:
        raise InputError(
            f"{source}: classes {ids}, but log.tsv has {logged}; the log belongs to "
            "other files - remove it"
        )
    return (logged if ids is None else ids), accuracy


def read_sidecar(folder: Any) -> dict[str, Any]:
    """``class_ids.json``: file name to class ids; empty where there is none.

    Raises:
      InputError: it is no JSON, or no such table.
    """
    path = folder / "class_ids.json"
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: is no valid JSON ({error})") from error
    if not isinstance(content, dict):
        raise InputError(
            f'{path}: must map file names to lists, {{"model_0.pth": [3]}}'
        )
    return content
