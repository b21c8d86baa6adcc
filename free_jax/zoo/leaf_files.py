"""A tree of arrays as a file each, whose rows are read when they are asked for."""

import os
import pathlib
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from free_jax.rows import FileRows
from free_jax.types import PyTree


def write(folder: os.PathLike, tree: PyTree, *, at_once: int = 256) -> None:
    """Writes every leaf as ``<path>.npy``, some rows at a time.

    Args:
      folder: local; created.
      tree: nested dicts of arrays [T, ...], in memory or in files.
      at_once: rows.
    """
    folder = pathlib.Path(os.fspath(folder))
    folder.mkdir(parents=True)
    flat: Any = traverse_util.flatten_dict(tree, sep=".")
    for name, leaf in flat.items():
        with open(folder / f"{name}.npy", "wb") as file:
            header = {"descr": np.lib.format.dtype_to_descr(np.dtype(leaf.dtype)),
                      "fortran_order": False, "shape": tuple(leaf.shape)}  # fmt: skip
            np.lib.format.write_array_header_1_0(file, header)
            for start in range(0, leaf.shape[0], at_once):
                rows = np.asarray(leaf[start : start + at_once])
                file.write(np.ascontiguousarray(rows).tobytes())


def read(folder: os.PathLike, wanted: PyTree) -> PyTree:
    """The leaves that `write` wrote; only their headers are read.

    Args:
      folder: local.
      wanted: a tree of shapes and types.

    Raises:
      ValueError: a leaf has another shape or type, or a file is damaged.
      OSError: a file is missing.
    """
    folder = pathlib.Path(os.fspath(folder))
    flat: Any = traverse_util.flatten_dict(wanted, sep=".")
    found = {name: _open(folder / f"{name}.npy", leaf) for name, leaf in flat.items()}
    return traverse_util.unflatten_dict(found, sep=".")


def _open(file: pathlib.Path, wanted: jax.ShapeDtypeStruct) -> FileRows:
    with open(file, "rb") as opened:
        np.lib.format.read_magic(opened)
        shape, columns_first, dtype = np.lib.format.read_array_header_1_0(opened)
        start = opened.tell()
    rows = FileRows(file, start, dtype, shape)
    if columns_first or shape != wanted.shape or dtype != wanted.dtype:
        raise ValueError(f"{file.name}: {shape} {dtype}, not {wanted}")
    if file.stat().st_size != start + rows.nbytes:
        raise ValueError(f"{file.name} is of another length than it says")
    return rows
