"""Weights in several files, with an index that says which key is in which."""

import pathlib
from typing import Any

from free_jax.errors import InputError
from free_jax.interop.tensors.opening import read_json, within

_MOST_SHARDS = 1000


def shard_files(index: pathlib.Path, inside: Any) -> dict[pathlib.Path, list[str]]:
    """Files of an index, in order, and the keys that it puts there.

    Args:
      index: e.g. ``model.safetensors.index.json``; its files lie beside it.
      inside: the folder that must not be left.

    Raises:
      InputError: the index is damaged, names files elsewhere, or files are missing.
    """
    content = read_json(index, inside)
    table = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(table, dict) or not table:
        raise InputError(f"{index.name}: has no weight_map from keys to files")
    files: dict[str, list[str]] = {}
    for key, name in table.items():
        plain = isinstance(name, str) and name not in ("", ".", "..")
        if not plain or pathlib.PurePath(name).name != name or "\\" in name:
            raise InputError(
                f"{index.name}: says that {key[:80]!r} is in {str(name)[:80]!r}; only "
                "files beside the index are read"
            )
        files.setdefault(name, []).append(key)
    if len(files) > _MOST_SHARDS:
        raise InputError(f"{index.name}: names {len(files)} files")
    missing = [name for name in files if not (index.parent / name).exists()]
    if missing:
        raise InputError(
            f"{index.name}: {len(missing)} of {len(files)} files are missing "
            f"({', '.join(missing[:3])}); copy them beside the index"
        )
    return {within(index.parent / n, inside): keys for n, keys in files.items()}


def check_shards(
    index: str, expected: dict[pathlib.Path, list[str]], found: set[str]
) -> None:
    """InputError where keys of the index are in none of its files."""
    lacking = [k for keys in expected.values() for k in keys if k not in found]
    if lacking:
        raise InputError(
            f"{index}: {lacking[0][:80]!r} and {len(lacking) - 1} other keys are not "
            "in the files it names; the shards belong to another model"
        )
