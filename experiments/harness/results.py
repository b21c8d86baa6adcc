"""``result.json``: written once when a run is finished, and read in any format so far.

Format 2 differs from 1 in names only, see `FORMER_ROWS` and `_from_format_1`.
"""

import json
import sys
from collections.abc import Mapping
from importlib import metadata
from typing import Any

import jax
from etils import epath

from experiments.harness import files

FORMAT = 2
RESULT_FILE = "result.json"

# Rows of a table as format 1 called them -> their names today.
FORMER_ROWS = {
    "panel distilled, ridge / rounds": "panel distilled, ridge / soft k-means",
    "panel of all teachers, ridge / rounds": (
        "panel of all teachers, ridge / soft k-means"
    ),
    "panel of all teachers, whitened, ridge / rounds": (
        "panel of all teachers, whitened, ridge / soft k-means"
    ),
}


def write_result(
    workdir: epath.PathLike, result: Mapping[str, Any], config: Any = None
) -> dict[str, Any]:
    """Writes ``<workdir>/result.json`` atomically and returns what it holds."""
    record = {
        "format": FORMAT,
        "versions": versions(),
        "backend": jax.default_backend(),
        "device_count": jax.device_count(),
        "config_hash": None if config is None else files.config_hash(config),
    } | files.to_plain(result)
    if jax.process_index() == 0:
        files.write_json(epath.Path(workdir) / RESULT_FILE, record)
    return record


def read_result(path: epath.PathLike) -> dict[str, Any]:
    """A result of any format, with the names of today.

    Args:
      path: a ``result.json``, or the working directory that holds it.

    Raises:
      OSError: it cannot be read.
      ValueError: it is not a result, or one of a later version.
    """
    file = epath.Path(path)
    if file.suffix != ".json":
        file = file / RESULT_FILE
    record = json.loads(file.read_text())
    if not isinstance(record, dict):
        raise ValueError(f"{file} holds no result of a run")
    found = record.get("format", 1)
    if found not in (1, FORMAT):
        raise ValueError(f"{file} has format {found}; this version reads 1 to {FORMAT}")
    return _from_format_1(record) if found == 1 else record


def row_name(name: str) -> str:
    """The name today of a row, also of one after its cell's, as in ``cell: row``.

    >>> row_name("panel: panel distilled, ridge / rounds")
    'panel: panel distilled, ridge / soft k-means'
    """
    cell, separator, row = name.rpartition(": ")
    return cell + separator + FORMER_ROWS.get(row, row)


def _from_format_1(record: dict[str, Any]) -> dict[str, Any]:
    """Rows and keys renamed; what it does not hold stays missing."""
    found = {key: value for key, value in record.items() if key != "schema_version"}
    found["format"] = FORMAT
    if found.get("algorithm") == "yardsticks":
        found["algorithm"] = "baselines"
    if isinstance(found.get("results"), dict):
        rows = found["results"].items()
        found["results"] = {row_name(name): cells for name, cells in rows}
    if isinstance(found.get("rows"), list):  # of a comparison
        found["rows"] = [
            row | {"method": row_name(row["method"])} if "method" in row else row
            for row in found["rows"]
        ]
    queries = found.get("queries")
    if isinstance(queries, dict) and "queries" in queries:  # of endpoints
        total = {"total": queries["queries"]}
        rest = {key: value for key, value in queries.items() if key != "queries"}
        found["queries"] = total | rest
    return found


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide the numbers."""
    found = {"python": sys.version.split()[0]}
    for name in ("jax", "jaxlib", "flax", "optax", "numpy", "orbax-checkpoint"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "missing"
    return found
