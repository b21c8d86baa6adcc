"""The teachers of a config: loaded, chosen, placed."""

import dataclasses
import functools
import os
from collections.abc import Callable

import jax
import numpy as np
from etils import epath

from experiments.harness import hosts, progress
from experiments.inputs import conversion
from experiments.inputs.images import preset
from experiments.inputs.options import DataOptions, ZooOptions
from free_jax import nouns, rows
from free_jax import zoo as zoo_lib
from free_jax.errors import InputError
from free_jax.interop.hub import HubOptions
from free_jax.split import Split
from free_jax.zoo import attacks
from free_jax.zoo.attacks import AttackOptions
from free_jax.zoo.network import make_network

HOW_TO_GIVE_TEACHERS = (
    "give a folder of models (see experiments/inspect_zoo.py), a converted zoo, or the "
    "zoo folder that a pretrain run wrote; or a list of endpoints by config.zoo.apis"
)


def attacked(
    zoo: zoo_lib.Zoo, options: AttackOptions, seed: int, dtype: str = "float32"
) -> zoo_lib.Zoo:
    """The zoo, with a share of its teachers made hostile on purpose; says which.

    Args:
      zoo: of honest teachers, computing in `dtype`.
      options: see `AttackOptions`.
      seed: see `attacks.attack`.
      dtype: that stand-ins of another domain compute in too.
    """
    if not options.share:
        return zoo
    others = None
    if options.path:
        others = computing_in(zoo_lib.load_zoo(options.path), dtype)
    found = attacks.attack(zoo, options, seed, others)
    print(
        f"attacked ({options.kind}): {len(found.hostile)} of {zoo.num_teachers} "
        f"teachers, {', '.join(map(str, found.hostile))}",
        flush=True,
    )
    return found.zoo


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


def place_zoo(
    zoo: zoo_lib.Zoo, place: Callable, split: Split | None = None
) -> zoo_lib.Zoo:
    """The zoo with its arrays where the mesh expects them; files stay files.

    Args:
      zoo: teachers.
      place: copies arrays to every device.
      split: of the teachers, which are then left on the host: a device is sent its own
        when they are asked.
    """
    if split is not None:
        place = functools.partial(jax.tree.map, np.asarray)
    groups = [
        group
        if any(map(rows.in_files, jax.tree.leaves(group.teachers)))
        else dataclasses.replace(group, teachers=place(group.teachers))
        for group in zoo.groups
    ]
    return zoo_lib.Zoo(tuple(groups), zoo.class_names)


def load_zoo(options: ZooOptions, data: DataOptions) -> zoo_lib.Zoo:
    """Teachers from folders, converted on first use and cached afterwards.

    Args:
      options: ``path`` has the folders.
      data: whose images and classes they know, where it names a data set.

    Raises:
      InputError: they cannot be read, or are not as asked for.
    """
    zoos = [_load_one_zoo(path, options, data) for path in options.path.split(",")]
    return select(zoos[0] if len(zoos) == 1 else zoo_lib.merge(zoos), options)


def select(zoo: zoo_lib.Zoo, options: ZooOptions) -> zoo_lib.Zoo:
    """The teachers of a zoo that are asked for."""
    if options.num_teachers:
        zoo = zoo_lib.subset(zoo, options.num_teachers)
        print(
            f"{nouns.count(zoo.num_teachers, 'teacher')}: the first "
            f"{options.num_teachers} (at most) of each of "
            f"{nouns.count(len(zoo.groups), 'network')}",
            flush=True,
        )
    return zoo


def _load_one_zoo(path: str, options: ZooOptions, data: DataOptions) -> zoo_lib.Zoo:
    if (epath.Path(path).expanduser() / "zoo.json").exists():
        zoo = zoo_lib.load_zoo(epath.Path(path).expanduser())
        _check_domain(zoo, path, data)
        return zoo
    home = data.cache_dir or os.environ.get("FREE_JAX_CACHE", "~/.cache/free_jax")
    zoos = epath.Path(home).expanduser() / "zoos"
    # Teachers of the research codes say class ids, which index the data's classes; its
    # normalisation is theirs.  Everything else says so itself, or in its table.
    by_data = data.name and not options.table and conversion.is_released(path)
    chosen = preset(data) if by_data else None
    if chosen is None or not data.path:
        how = HubOptions(
            table=options.table or None,
            guess=options.guess,
            guess_by="--config.zoo.guess=True",
            trust_code=options.trust_code,
            progress=progress.counter("converting"),
            defaults={
                "size": [chosen.image_size, chosen.image_size],
                "mean": chosen.mean,
                "std": chosen.std,
            }
            if chosen
            else {},
        )
        return hosts.in_turn(lambda: conversion.cached_models(path, zoos, how))
    return hosts.in_turn(
        lambda: conversion.cached_zoo(
            path,
            zoos,
            # Only the names of the training classes are read, never their images.
            conversion.class_names_of(data.path),
            chosen.mean,
            chosen.std,
            chosen.image_size,
            data.name,
            progress=progress.counter("converting"),
        )
    )


def _check_domain(zoo: zoo_lib.Zoo, path: str, data: DataOptions) -> None:
    """Refuses a converted zoo that was made for another version of the data."""
    if not data.name:
        return
    size = preset(data).image_size
    for group in zoo.groups:
        if group.domain != data.name:
            continue  # Teachers of another domain may differ from the data.
        shape = group.network.image_shape
        if shape[0] != size:
            raise InputError(
                f"{path}: its {group.domain} teachers see images of {shape[0]} pixels, "
                f"the data has {size}; set --config.data.image_size={shape[0]}"
            )
        if data.path and len(zoo.groups) == 1:
            names = conversion.class_names_of(data.path)
            if names != zoo.class_names:
                raise InputError(
                    f"{path}: the zoo knows {zoo.num_classes} classes "
                    f"({', '.join(zoo.class_names[:3])}, ...) but {data.path}"
                    f"/train has {len(names)} ({', '.join(names[:3])}, ...); give the "
                    "data that the teachers were trained on"
                )
