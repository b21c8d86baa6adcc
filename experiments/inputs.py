"""From a config to data, teachers and devices."""

import dataclasses
import functools
import os
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from etils import epath

from experiments import convert_zoo, hosts, sabotage
from experiments.data import Preset, Split, require
from experiments.data import load_split as _load_split
from experiments.data import preset as _preset
from free_jax import memory, parallel
from free_jax import zoo as zoo_lib
from free_jax.architecture import architecture
from free_jax.errors import InputError
from free_jax.types import ImageBank

HOW_TO_GIVE_TEACHERS = (
    "give a folder of .pth or .safetensors teachers, a converted zoo, or the zoo "
    "folder that a pretrain run wrote; or a list of endpoints by config.zoo.apis"
)


def preset(config: Any) -> Preset:
    """The data set's image size and normalisation."""
    chosen = _preset(config.data.name)
    size = config.data.get("image_size", 0)
    return chosen._replace(image_size=size) if size else chosen


def load_split(config: Any, split: str) -> Split:
    """One split of the configured data set."""
    return hosts.in_turn(
        lambda: _load_split(
            config.data.name,
            split,
            path=config.data.path or None,
            image_size=preset(config).image_size,
            cache_dir=config.data.cache_dir or None,
        )
    )


def evaluation_bank(config: Any, split: str) -> ImageBank:
    """A split checked to be large enough for the configured episodes."""
    images = load_split(config, split)
    most = max(config.eval.shots) + config.eval.queries
    what = f"the {split} split in {config.data.path or config.data.name}"
    require(images, way=config.way, images_per_class=most, what=what)
    return memory.from_arrays(images.images, images.counts)


def placement(config: Any) -> tuple[Callable, Callable]:
    """Where arrays live and how tasks are spread.

    Returns:
      ``place(tree)`` copies arrays to every device of the mesh; ``map_tasks(fn)``.

    Raises:
      InputError: the mesh does not fit the devices.
    """
    if config.mesh.task == 1 and hosts.are_many():
        raise InputError(
            f"config.mesh.task=1 is one device, but {jax.process_count()} processes "
            "run; set --config.mesh.task=-1 for all devices"
        )
    if config.mesh.task == 1:
        local = functools.partial(parallel.map_tasks, local=config.mesh.local)
        return jax.device_put, local
    try:
        mesh = parallel.make_mesh({"task": config.mesh.task})
    except ValueError as error:
        raise InputError(f"config.mesh.task={config.mesh.task}: {error}") from None
    everywhere = jax.sharding.NamedSharding(mesh, jax.P())
    spread = functools.partial(parallel.map_tasks, mesh=mesh, local=config.mesh.local)

    def place(tree: Any) -> Any:
        if not hosts.are_many():
            return jax.device_put(tree, everywhere)

        def put(x: Any) -> jax.Array:
            if isinstance(x, jax.Array) and not x.is_fully_addressable:
                return jax.device_put(x, everywhere)
            # Every process has the same values; device_put would compare them all.
            x = np.asarray(x)
            return jax.make_array_from_process_local_data(everywhere, x, x.shape)

        return jax.tree.map(put, tree)

    return place, spread


def sabotaged(config: Any, zoo: zoo_lib.Zoo) -> zoo_lib.Zoo:
    """The zoo, with the configured share of its teachers broken on purpose."""
    share = config.zoo.get("sabotage", 0.0)
    return sabotage.sabotage(zoo, share, config.seed) if share else zoo


def computing_in(zoo: zoo_lib.Zoo, dtype: str) -> zoo_lib.Zoo:
    """The same teachers, whose activations are of another type."""
    if dtype == "float32":
        return zoo
    groups = []
    for group in zoo.groups:
        named = group.architecture.as_dict()
        if not group.architecture.remote:  # It computes elsewhere, in its own way.
            named["dtype"] = dtype
        groups.append(dataclasses.replace(group, architecture=architecture(**named)))
    return zoo_lib.Zoo(tuple(groups), zoo.class_names)


def place_zoo(zoo: zoo_lib.Zoo, place: Callable) -> zoo_lib.Zoo:
    """The zoo with its arrays where the mesh expects them."""
    groups = [
        dataclasses.replace(group, teachers=place(group.teachers))
        for group in zoo.groups
    ]
    return zoo_lib.Zoo(tuple(groups), zoo.class_names)


def load_zoo(config: Any) -> zoo_lib.Zoo:
    """The configured teachers, converted on first use and cached afterwards."""
    zoos = [_load_one_zoo(config, path) for path in config.zoo.path.split(",")]
    return select(config, zoos[0] if len(zoos) == 1 else zoo_lib.merge(zoos))


def select(config: Any, zoo: zoo_lib.Zoo) -> zoo_lib.Zoo:
    """The teachers of a zoo that the config asks for."""
    if config.zoo.num_teachers:
        zoo = zoo_lib.subset(zoo, config.zoo.num_teachers)
    if zoo.way != config.way:
        raise InputError(
            f"config.way={config.way} but the teachers in "
            f"{config.zoo.path or config.zoo.apis} are "
            f"{zoo.way}-way; set --config.way={zoo.way}"
        )
    return zoo


def _load_one_zoo(config: Any, path: str) -> zoo_lib.Zoo:
    if (epath.Path(path).expanduser() / "zoo.json").exists():
        zoo = zoo_lib.load_zoo(epath.Path(path).expanduser())
        _check_domain(config, zoo, path)
        return zoo
    chosen = preset(config)
    if not config.data.path:
        raise InputError(
            "config.data.path is empty; class ids of PyTorch teachers index the sorted "
            "names of its train folder, so it is needed to convert them"
        )
    home = config.data.cache_dir or os.environ.get(
        "FREE_JAX_CACHE", "~/.cache/free_jax"
    )
    zoos = epath.Path(home).expanduser() / "zoos"
    return hosts.in_turn(
        lambda: convert_zoo.cached_zoo(
            path,
            zoos,
            # Only the names of the training classes are read, never their images.
            convert_zoo.class_names_of(config.data.path),
            chosen.mean,
            chosen.std,
            chosen.image_size,
            config.data.name,
            progress=convert_zoo.show_progress,
        )
    )


def _check_domain(config: Any, zoo: zoo_lib.Zoo, path: str) -> None:
    """Refuses a converted zoo that was made for another version of the data."""
    size = preset(config).image_size
    for group in zoo.groups:
        if group.domain != config.data.name:
            continue  # Teachers of another domain may differ from the data.
        shape = group.architecture.image_shape
        if shape[0] != size:
            raise InputError(
                f"{path}: its {group.domain} teachers see images of {shape[0]} pixels, "
                f"the data has {size}; set --config.data.image_size={shape[0]}"
            )
        if config.data.path and len(zoo.groups) == 1:
            names = convert_zoo.class_names_of(config.data.path)
            if names != zoo.class_names:
                raise InputError(
                    f"{path}: the zoo knows {zoo.num_classes} classes "
                    f"({', '.join(zoo.class_names[:3])}, ...) but {config.data.path}"
                    f"/train has {len(names)} ({', '.join(names[:3])}, ...); give the "
                    "data that the teachers were trained on"
                )
