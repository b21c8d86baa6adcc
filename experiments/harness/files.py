"""Plain JSON from configs and scalars, in files that are never seen half-written."""

import contextlib
import errno
import hashlib
import json
import math
import os
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from etils import epath

from free_jax.errors import InputError


def to_plain(value: Any) -> Any:
    """Turns configs, records, tuples, NumPy and JAX scalars into plain JSON values.

    Non-finite numbers become the strings "nan", "inf" and "-inf": JSON has no such
    numbers, and a reader should meet them rather than a gap.
    """
    if hasattr(value, "to_dict"):  # ml_collections.ConfigDict, without importing it
        value = value.to_dict()
    if hasattr(value, "_asdict"):  # A record: by the names of its fields.
        value = value._asdict()
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        items = sorted(value) if isinstance(value, (set, frozenset)) else value
        return [to_plain(item) for item in items]
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        return to_plain(np.asarray(value).tolist())
    return str(value)


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Flattens nested dicts to ``{"a.b": leaf}``; lists are leaves.

    >>> flatten({"a": {"b": 1}, "c": (2, 3)})
    {'a.b': 1, 'c': [2, 3]}
    """
    value = to_plain(value)
    if not isinstance(value, dict) or (prefix and not value):
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, item in value.items():
        flat.update(flatten(item, f"{prefix}.{key}" if prefix else key))
    return flat


def nested(flat: dict[str, Any]) -> dict[str, Any]:
    """The inverse of `flatten`.

    >>> nested({"a.b": 1, "c": [2, 3]})
    {'a': {'b': 1}, 'c': [2, 3]}
    """
    found: dict[str, Any] = {}
    for key, value in flat.items():
        *path, last = key.split(".")
        section = found
        for name in path:
            section = section.setdefault(name, {})
        section[last] = value
    return found


def config_hash(config: Any) -> str:
    """Returns 12 hex digits that name a config, whatever the order of its keys."""
    text = json.dumps(to_plain(config), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def write_text(path: epath.PathLike, text: str) -> None:
    """Writes a text file whole or not at all."""
    write_bytes(path, text.encode())


def write_bytes(path: epath.PathLike, data: bytes) -> None:
    """Writes a file whole or not at all: a reader sees the old content or the new."""
    if "://" in os.fspath(path):  # object stores replace whole objects already
        epath.Path(path).write_bytes(data)
        return
    folder, name = os.path.split(os.path.abspath(path))
    handle, temporary = tempfile.mkstemp(dir=folder, prefix=f".{name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)  # mkstemp makes files that only the owner can read
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def write_json(path: epath.PathLike, value: Any) -> None:
    """Writes indented JSON atomically."""
    write_text(path, json.dumps(to_plain(value), indent=2) + "\n")


@contextlib.contextmanager
def refused_in_words(path: epath.Path) -> Iterator[None]:
    """Says in one line what the file system says of a working directory.

    Raises:
      InputError: within, a file or folder could not be made or written.
    """
    try:
        yield
    except (FileExistsError, NotADirectoryError):
        raise InputError(
            f"workdir {path} is not a folder (or lies under a file); "
            "use another --workdir"
        ) from None
    except OSError as error:
        remedy = (
            "free some space"
            if error.errno in (errno.ENOSPC, errno.EDQUOT)
            else "make it writable"
        )
        raise InputError(
            f"workdir {path} cannot be written ({error.strerror or error}); "
            f"{remedy}, or use another --workdir"
        ) from None
