"""One call for every kind of weight file."""

import pathlib
from typing import Any

import numpy as np

from free_jax.errors import InputError
from free_jax.interop.tensors.opening import (
    open_within,
    refuse_foreign,
    sniff,
    within,
)
from free_jax.interop.tensors.record import Checkpoint
from free_jax.interop.tensors.safetensors_file import read_safetensors
from free_jax.interop.tensors.shards import check_shards, shard_files
from free_jax.interop.tensors.torch_pickle import load_torch
from free_jax.interop.tensors.wrappers import Weights, strip_prefixes, unwrap


def read_tensors(
    path: Any, *, inside: Any = None, weights: Weights = None
) -> Checkpoint:
    """Reads one weight file, or the files of an index; never runs code.

    Args:
      path: ``.safetensors``; ``.pth``, ``.pt``, ``.bin``, ``.ckpt``, ``.pth.tar``
        (these need torch); or ``*.index.json`` of shards.  What a file is decides its
        content, not its name.
      inside: the folder that must not be left; None: that of the file.
      weights: "ema" or "model" where a file holds both; None: "ema".

    Raises:
      InputError: one line saying what is wrong and what to do.
    """
    path = pathlib.Path(path)
    inside = path.parent if inside is None else inside
    if path.name.endswith(".index.json"):
        return _read_shards(path, inside)
    found = open_within(path, inside)
    return _read_one(found, path.name, weights)


def _read_one(found: pathlib.Path, name: str, weights: Weights) -> Checkpoint:
    kind = sniff(found)
    if kind == "safetensors":
        state, metadata = read_safetensors(found)
        state, prefix = strip_prefixes(state)
        if not state:
            raise InputError(f"{name}: holds no tensors")
        return Checkpoint(state, "", prefix, {"metadata": metadata} if metadata else {})
    refuse_foreign(kind, name)
    if name.endswith(".safetensors"):
        raise InputError(
            f"{name}: cannot be read (no header of safetensors); it is truncated, "
            "damaged or no weight file - copy it again or remove it"
        )
    return unwrap(load_torch(found), name, found.stat().st_size, weights)


def _read_shards(index: pathlib.Path, inside: Any) -> Checkpoint:
    files = shard_files(within(index, inside), inside)
    state: dict[str, np.ndarray] = {}
    for file in files:
        if sniff(file) == "safetensors":
            part = read_safetensors(file)[0]
        else:
            one = unwrap(load_torch(file), file.name, file.stat().st_size)
            part = {one.prefix + key: value for key, value in one.state.items()}
        state.update(part)
    check_shards(index.name, files, set(state))
    state, prefix = strip_prefixes(state)
    return Checkpoint(state, "", prefix)
