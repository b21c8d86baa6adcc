"""Folders of PyTorch or safetensors teachers -> a zoo.

Two optional files of the folder complete the teachers': ``class_ids.json`` (file name
to list of class ids, for files that carry none) and ``log.tsv`` (columns ``id`` and
``held_out_accuracy``, and ``class_ids`` to cross-check; ``id`` is the last number in a
file's name).
"""

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from free_jax.errors import InputError
from free_jax.interop.sidecars import file_number, log_entry, read_log, read_sidecar
from free_jax.interop.torch_files import parse_class_ids, read_checkpoint
from free_jax.interop.torch_weights import detect, from_state_dict
from free_jax.types import Teachers
from free_jax.zoo import Zoo, ZooGroup
from free_jax.zoo.network import Network, make_network

_SUFFIXES = (".pth", ".pt", ".safetensors")


def teacher_files(path: Any) -> list[Any]:
    """The teacher files of a folder in natural order (model_2 before model_10).

    Args:
      path: folder holding ``model*.pth``, ``model*.pt`` or ``*.safetensors``.

    Returns:
      `etils.epath` paths.

    Raises:
      InputError: no such folder, or no teacher in it.
    """
    from etils import epath

    folder = epath.Path(path).expanduser()
    if not folder.is_dir():
        raise InputError(
            f"{folder}: no such folder of teachers; give one of .pth or .safetensors"
            " files, or a converted zoo"
        )
    files = [
        f
        for f in folder.iterdir()
        if f.suffix in _SUFFIXES
        and (f.name.startswith("model") or f.suffix == ".safetensors")
    ]
    if not files:
        raise InputError(
            f"{folder}: holds no teachers; expected files model*.pth or *.safetensors"
        )

    def natural(file):
        parts = re.split(r"(\d+)", file.name)
        return [(int(p), "") if p.isdigit() else (-1, p) for p in parts]

    return sorted(files, key=natural)


def _check_ids(ids: list[int] | None, way: int, num_classes: int, source: str) -> None:
    if ids is None:
        raise InputError(
            f"{source}: does not say which classes it was trained on; put "
            'class_ids.json beside it: {"<file name>": [one class an output], ...}'
        )
    if len(ids) != way or len(set(ids)) != way:
        raise InputError(
            f"{source}: class ids {ids} must be {way} distinct ids, one for each output"
        )
    bad = [i for i in ids if not 0 <= i < num_classes]
    if bad:
        raise InputError(
            f"{source}: class ids {bad} are out of range for {num_classes} class "
            "names; give the classes of the data set it was trained on"
        )


def _network(state, source, mean, std, image_size) -> Network:
    found = detect(state, source)
    size = image_size or found["image_size"]
    if size is None:
        raise InputError(
            f"{source}: the weights of a {found['name']} do not determine the "
            "image size; give image_size"
        )
    if found["grid"] and size // 16 != found["grid"]:
        raise InputError(
            f"{source}: its head fits images of about {found['image_size']} pixels, "
            f"not image_size={size}; correct image_size"
        )
    try:
        return make_network(
            found["name"],
            num_classes=found["way"],
            image_shape=(size, size, found["channels"]),
            mean=tuple(mean),
            std=tuple(std),
            **found["kwargs"],
        )
    except ValueError as error:
        raise InputError(f"{source}: {error}") from error


def convert_folder(
    path: Any,
    *,
    class_names: Sequence[str],
    mean: Sequence[float],
    std: Sequence[float],
    image_size: int | None = None,
    domain: str = "",
    limit: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Zoo:
    """Converts all teachers of a folder, grouped by architecture.

    Args:
      path: the folder; files are taken in natural order.
      class_names: names that the files' class ids index, for the data sets here the
        sorted names of the training classes.
      mean: per-channel means that normalised images in [0, 1] in their training.
      std: per-channel standard deviations.
      image_size: side of their images; needed for networks that pool globally,
        checked for the others.
      domain: name of their data.
      limit: convert only the first `limit` files.
      progress: called as ``progress(done, total)`` after each file.

    Returns:
      A zoo on the default device.

    Raises:
      InputError: naming the file that is at fault and the remedy.
    """
    files = teacher_files(path)[:limit]
    if not files:
        raise InputError(f"limit={limit} leaves no teachers; give at least 1")
    folder = files[0].parent
    log, sidecar = read_log(folder), read_sidecar(folder)
    pooled: dict[Network, list[tuple]] = {}
    for done, file in enumerate(files):
        source = str(file)
        state, ids, accuracy = read_checkpoint(file)
        if ids is None and file.name in sidecar:
            ids = parse_class_ids(sidecar[file.name], f"{folder}/class_ids.json")
        row = log.get(file_number(file.name))
        if row is not None:
            ids, logged = log_entry(row, ids, source)
            accuracy = logged if accuracy is None else accuracy
        network = _network(state, source, mean, std, image_size)
        first = next(iter(pooled), network)
        if network.num_classes != first.way:
            raise InputError(
                f"{source}: has {network.num_classes} outputs but {files[0].name} has "
                f"{first.way}; put them in different folders"
            )
        _check_ids(ids, network.num_classes, len(class_names), source)
        variables = from_state_dict(state, network, source)
        class_ids: Any = np.asarray(ids, np.int32)
        teacher = Teachers(variables, class_ids)
        pooled.setdefault(network, []).append(
            (teacher, math.nan if accuracy is None else accuracy)
        )
        if progress is not None:
            progress(done + 1, len(files))
    groups = []
    for network, members in pooled.items():
        teachers, accuracies = zip(*members, strict=True)
        stacked = jax.tree.map(lambda *leaves: jnp.asarray(np.stack(leaves)), *teachers)
        groups.append(
            ZooGroup(network, stacked, np.asarray(accuracies, np.float32), domain)
        )
    return Zoo(tuple(groups), tuple(class_names))
