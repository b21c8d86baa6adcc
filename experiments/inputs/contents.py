"""What data, teachers and files of a config hold, signed: a run may move."""

import hashlib
import json
import pathlib
import random
from collections.abc import Sequence

import jax
import numpy as np
from etils import epath

from experiments import data as data_lib
from experiments.data import folder
from experiments.data.base import SPLITS
from experiments.harness.contents import Content
from experiments.inputs.options import DataOptions
from free_jax import zoo as zoo_lib
from free_jax.rows import in_files

# Images of a split whose bytes are looked at.
_SAMPLE = 64
_ROWS = 256
_ZOO_KEYS = ("zoo.path", "zoo.apis", "zoo.table", "zoo.guess", "zoo.trust_code")


def of_data(
    data: DataOptions, needed: Sequence[str] = (), splits: Sequence[str] = SPLITS
) -> Content:
    """The splits of a data folder.

    Args:
      data: where they are; a data set that is made and not read has no content.
      needed: splits that the model depends on; the others only measure it.
      splits: those that are looked at, where they are there.
    """
    parts = {}
    if data.path and not data_lib.needs_no_path(data.name):
        for split in splits:
            path = pathlib.Path(data.path).expanduser() / split
            if path.is_dir():
                parts[split] = of_split(path)
    return Content(("data.path",), parts, tuple(needed))


def of_split(path: pathlib.Path) -> str:
    """Twelve hex digits that name the images of a folder of class folders.

    Cheap, whatever the size: the names of classes, the names and sizes of their files
    (so their counts), and the bytes of 64 files that a seeded draw chooses.  It does
    not see another picture of the same name and the same size outside of those 64, nor
    times, nor where the folder is.

    Args:
      path: a split.
    """
    classes = folder.list_classes(path).files
    files = [file for found in classes.values() for file in found]
    digest = hashlib.sha256()
    for name, found in classes.items():
        sizes = [(file.name, file.stat().st_size) for file in found]
        digest.update(json.dumps([name, sizes]).encode())
    drawn = random.Random(0).sample(range(len(files)), min(_SAMPLE, len(files)))
    for number in sorted(drawn):
        digest.update(hashlib.sha256(files[number].read_bytes()).digest())
    return digest.hexdigest()[:12]


def of_teachers(zoo: zoo_lib.Zoo | None = None) -> Content:
    """The teachers of a run; not known before they are loaded.

    Args:
      zoo: as chosen, before anything was done to it.
    """
    parts = None if zoo is None else {"weights": fingerprint(zoo)}
    return Content(_ZOO_KEYS, parts, ("weights",))


def of_file(key: str, path: str) -> Content:
    """A file that a key names, if it is there."""
    parts = {}
    if path:
        found = epath.Path(path).expanduser()
        if found.is_dir():
            found = found / "model.npz"
        if found.exists():
            parts = {"bytes": hashlib.sha256(found.read_bytes()).hexdigest()[:12]}
    return Content((key,), parts, ("bytes",))


def fingerprint(zoo: zoo_lib.Zoo) -> str:
    """Twelve hex digits that name the teachers: networks, weights and classes."""
    digest = hashlib.sha256()
    for group in zoo.groups:
        named = group.network.as_dict()
        # As it was when the first fingerprints were taken, which must stay the same.
        named = {"way" if k == "num_classes" else k: v for k, v in named.items()}
        # The type that a teacher computes in changes its answers by rounding only.
        named.pop("dtype", None)
        if group.network.service is not None:  # Known by the names of its teachers.
            named["hub"] = group.network.service.names
        described = json.dumps(named)
        digest.update(described.encode())
        for leaf in jax.tree.leaves(group.teachers):
            # Of weights in files some rows at a time: the same bytes.
            size = _ROWS if in_files(leaf) else max(len(leaf), 1)
            for start in range(0, len(leaf), size):
                part = leaf[start : start + size] if in_files(leaf) else leaf
                digest.update(np.ascontiguousarray(part).tobytes())
    return digest.hexdigest()[:12]
