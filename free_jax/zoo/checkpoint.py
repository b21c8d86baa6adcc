"""Zoos on disk: converted once, read without torch.

A zoo is a folder with ``zoo.json`` (what the teachers are) and one Orbax checkpoint
(their arrays), or, of a zoo too large for a device, a file for each array whose rows
are read when they are asked for.  ``zoo.json`` is written last and names them, so that
an interrupted save leaves the former zoo readable.
"""

import functools
import json
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from free_jax.errors import InputError
from free_jax.types import PyTree, Teachers
from free_jax.zoo import leaf_files
from free_jax.zoo.network import Network, make_network
from free_jax.zoo.pool import TEXTS, Zoo, ZooGroup

_FORMAT, _VERSION, _IN_FILES = "free_jax zoo", 1, 2
# Bytes of weights from which on they are kept as files of rows.
LARGE = 1 << 30


def _folder(path) -> Any:
    from etils import epath

    return epath.Path(path).expanduser()


def save_zoo(zoo: Zoo, path: Any, *, in_files: bool | None = None) -> None:
    """Writes a zoo to a folder (local or e.g. ``gs://``), replacing a former one.

    With several processes, one of them calls, with arrays it holds whole.

    Args:
      zoo: what to write.
      path: the folder; created where missing.
      in_files: whether weights are read a teacher at a time when the zoo is used, which
        takes a local folder; None: where they are more than a gigabyte.

    Raises:
      InputError: the path is a file, or a network could not be made again by its name.
    """
    folder = _folder(path)
    if in_files is None:
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(zoo.teachers))
        in_files = size > LARGE and "://" not in str(path)
    elif in_files and "://" in str(path):
        raise InputError(
            f"{path}: weights that are read by the teacher need a local folder; give "
            "one, or in_files=False"
        )
    for network in zoo.networks:
        if network.family is not None:
            raise InputError(
                f"a zoo of {network.name} cannot be saved: its network is made by a "
                "function that no file can name; save networks of "
                "free_jax.models.model_names()"
            )
    if folder.exists() and not folder.is_dir():
        raise InputError(f"cannot save a zoo to {folder}: it is a file; give a folder")
    folder.mkdir(parents=True, exist_ok=True)
    former = [p.name.removeprefix("arrays_") for p in folder.glob("arrays_*")]
    numbers = [int(suffix) for suffix in former if suffix.isdigit()]
    arrays = f"arrays_{max(numbers, default=-1) + 1}"
    metadata = {
        "format": _FORMAT,
        "version": _IN_FILES if in_files else _VERSION,
        "arrays": arrays,
        "class_names": list(zoo.class_names),
        "groups": [
            {
                "architecture": group.network.as_dict(),
                "domain": group.domain,
                "num_teachers": group.num_teachers,
                # JSON has no nan.
                "accuracy": [
                    float(a) if math.isfinite(a) else None for a in group.accuracy
                ],
                **{what: list(getattr(group, what)) for what in TEXTS},
            }
            for group in zoo.groups
        ],
    }
    tree = _as_tree(zoo.teachers)
    if in_files:
        leaf_files.write(folder / arrays, tree)
    else:
        # NumPy: Orbax refuses arrays of one process's devices where there are several.
        tree = jax.tree.map(np.asarray, tree)
        with _checkpointer() as checkpointer:
            checkpointer.save(_absolute(folder / arrays), tree)
    partial = folder / "zoo.json.partial"
    partial.write_text(json.dumps(metadata, indent=1) + "\n")
    partial.replace(folder / "zoo.json")
    # Also removes what interrupted saves left behind.
    for old in folder.glob("arrays_*"):
        if old.name != arrays:
            old.rmtree()


def _checkpointer() -> Any:
    """Works for this process alone, without waiting for others."""
    import orbax.checkpoint as ocp

    me = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(
        primary_host=me, active_processes={me}, barrier_sync_key_prefix=f"zoo{me}"
    )
    return ocp.StandardCheckpointer(multiprocessing_options=alone)


def _absolute(path: Any) -> Any:
    # Orbax refuses relative paths; remote ones are absolute already.
    return path if "://" in str(path) else path.resolve()


def _as_tree(stacks: Sequence[Teachers]) -> PyTree:
    return {str(i): teachers._asdict() for i, teachers in enumerate(stacks)}


def _network(description: dict[str, Any]) -> Network:
    fields: dict[str, Any] = {}
    for name, value in description.items():
        # JSON turned the tuples into lists, which do not hash.
        fields[name] = tuple(value) if isinstance(value, list) else value
    return make_network(**fields)


def load_zoo(path: Any) -> Zoo:
    """Reads a zoo that `save_zoo` wrote, bit for bit, onto the first local device.

    Weights of a large zoo stay in its files, see `rows.FileRows`.

    Args:
      path: its folder (local or e.g. ``gs://``).

    Raises:
      InputError: there is no zoo, or it is damaged or of another format version.
    """
    folder = _folder(path)
    if not (folder / "zoo.json").exists():
        raise InputError(
            f"{folder} is not a converted zoo (no zoo.json); make one with "
            "experiments/convert_zoo.py, or correct the path"
        )
    try:
        metadata = json.loads((folder / "zoo.json").read_text())
        found = metadata["format"], metadata["version"]
        if found not in ((_FORMAT, _VERSION), (_FORMAT, _IN_FILES)):
            raise InputError(
                f"{folder}/zoo.json has format {found}, this version reads "
                f"{(_FORMAT, _VERSION)}; convert the teachers again"
            )
        entries = metadata["groups"]
        networks = [_network(e["architecture"]) for e in entries]
        counts = [int(e["num_teachers"]) for e in entries]
        accuracies = [[math.nan if a is None else a for a in e["accuracy"]]
                      for e in entries]  # fmt: skip
        domains = [str(e["domain"]) for e in entries]
        # Zoos written before do not say where their teachers came from.
        origins = [
            {what: tuple(map(str, e.get(what, ()))) for what in TEXTS} for e in entries
        ]
        class_names = tuple(map(str, metadata["class_names"]))
        arrays = folder / metadata["arrays"]
    except InputError:
        raise
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{folder}/zoo.json is damaged ({type(error).__name__}: {error}); convert "
            "the teachers again"
        ) from error
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])

    def abstract(network: Network, count: int) -> Teachers:
        leaf = functools.partial(jax.ShapeDtypeStruct, sharding=device)
        variables = jax.tree.map(
            lambda x: leaf((count, *x.shape), x.dtype), network.shapes
        )
        class_ids: Any = leaf((count, network.num_classes), jnp.int32)
        return Teachers(variables, class_ids)

    wanted = _as_tree([abstract(*pair) for pair in zip(networks, counts, strict=True)])
    try:
        if found[1] == _IN_FILES:
            tree: Any = leaf_files.read(arrays, wanted)
            for stack in tree.values():  # Small, and looked at by everyone.
                stack["class_ids"] = jnp.asarray(np.asarray(stack["class_ids"]))
        else:
            with _checkpointer() as checkpointer:
                tree = checkpointer.restore(_absolute(arrays), wanted)
    except (ValueError, KeyError, OSError) as error:
        raise InputError(
            f"the arrays in {arrays} are missing or damaged "
            f"({str(error).splitlines()[0][:200]}); convert the teachers again"
        ) from error
    groups = [
        ZooGroup(
            network, Teachers(**tree[str(i)]), np.asarray(accuracy), domain, **origin
        )
        for i, (network, accuracy, domain, origin) in enumerate(
            zip(networks, accuracies, domains, origins, strict=True)
        )
    ]
    return Zoo(tuple(groups), class_names)
