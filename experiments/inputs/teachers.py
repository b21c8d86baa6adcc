"""The teachers of a config: loaded, chosen, placed."""

import dataclasses
import os
from collections.abc import Callable
from typing import Any

from etils import epath

from experiments.harness import hosts
from experiments.inputs import conversion, corrupt
from experiments.inputs.images import preset
from free_jax import zoo as zoo_lib
from free_jax.errors import InputError
from free_jax.zoo.network import make_network

HOW_TO_GIVE_TEACHERS = (
    "give a folder of .pth or .safetensors teachers, a converted zoo, or the zoo "
    "folder that a pretrain run wrote; or a list of endpoints by config.zoo.apis"
)


def sabotaged(config: Any, zoo: zoo_lib.Zoo) -> zoo_lib.Zoo:
    """The zoo, with the configured share of its teachers broken on purpose."""
    share = config.zoo.sabotage
    return corrupt.sabotage(zoo, share, config.seed) if share else zoo


def computing_in(zoo: zoo_lib.Zoo, dtype: str) -> zoo_lib.Zoo:
    """The same teachers, whose activations are of another type."""
    if dtype == "float32":
        return zoo
    groups = []
    for group in zoo.groups:
        network = group.network
        if network.service is None:  # Else it computes elsewhere, in its own way.
            network = make_network(**{**network.as_dict(), "dtype": dtype})
        groups.append(dataclasses.replace(group, network=network))
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
        lambda: conversion.cached_zoo(
            path,
            zoos,
            # Only the names of the training classes are read, never their images.
            conversion.class_names_of(config.data.path),
            chosen.mean,
            chosen.std,
            chosen.image_size,
            config.data.name,
            progress=conversion.show_progress,
        )
    )


def _check_domain(config: Any, zoo: zoo_lib.Zoo, path: str) -> None:
    """Refuses a converted zoo that was made for another version of the data."""
    size = preset(config).image_size
    for group in zoo.groups:
        if group.domain != config.data.name:
            continue  # Teachers of another domain may differ from the data.
        shape = group.network.image_shape
        if shape[0] != size:
            raise InputError(
                f"{path}: its {group.domain} teachers see images of {shape[0]} pixels, "
                f"the data has {size}; set --config.data.image_size={shape[0]}"
            )
        if config.data.path and len(zoo.groups) == 1:
            names = conversion.class_names_of(config.data.path)
            if names != zoo.class_names:
                raise InputError(
                    f"{path}: the zoo knows {zoo.num_classes} classes "
                    f"({', '.join(zoo.class_names[:3])}, ...) but {config.data.path}"
                    f"/train has {len(names)} ({', '.join(names[:3])}, ...); give the "
                    "data that the teachers were trained on"
                )
