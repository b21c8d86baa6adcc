"""``result.json``: written once when a run is finished, and read in any format so far.

Format 2 differs from 1 in names only, which are those of the science.
"""

import json
import pathlib
import shlex
import sys
from collections.abc import Callable, Mapping
from importlib import metadata
from types import MappingProxyType
from typing import Any

import jax
from etils import epath

from experiments.harness import files

FORMAT = 2
RESULT_FILE = "result.json"


def write_result(
    workdir: epath.PathLike,
    result: Mapping[str, Any],
    config: Any = None,
    told: Mapping[str, Any] = MappingProxyType({}),
) -> dict[str, Any]:
    """Writes ``<workdir>/result.json`` atomically and returns what it holds.

    Args:
      workdir: run directory.
      result: entries that every run has.
      config: what the run is known by, of which a digest is written.
      told: a method's own entries.

    Raises:
      ValueError: a method's own entry has the name of one that every run has.
    """
    record = {
        "format": FORMAT,
        "versions": versions(),
        "backend": jax.default_backend(),
        "device_count": jax.device_count(),
        "config_hash": None if config is None else files.config_hash(config),
        "command": command(),
    } | files.to_plain(result)
    if taken := record.keys() & told.keys():
        raise ValueError(f"a method tells {sorted(taken)}, which every result has")
    record |= files.to_plain(told)
    if jax.process_index() == 0:
        files.write_json(epath.Path(workdir) / RESULT_FILE, record)
    return record


def read_result(
    path: epath.PathLike,
    from_format_1: Callable[[dict[str, Any]], dict[str, Any]] = dict,
) -> dict[str, Any]:
    """A result of any format.

    Args:
      path: a ``result.json``, or the working directory that holds it.
      from_format_1: gives a result of format 1 the names of today.

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
    return from_format_1(record) if found == 1 else record


def command() -> str | None:
    """The command line of this process; None where it is none of this folder's."""
    program = pathlib.Path(sys.argv[0] or ".")
    folder = pathlib.Path(__file__).resolve().parents[1]
    if program.suffix != ".py" or program.resolve().parent != folder:
        return None  # A test, or another program.
    return shlex.join(["python", f"{folder.name}/{program.name}", *sys.argv[1:]])


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide the numbers."""
    found = {"python": sys.version.split()[0]}
    for name in ("jax", "jaxlib", "flax", "optax", "numpy", "orbax-checkpoint"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "missing"
    return found
