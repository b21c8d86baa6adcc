"""What some methods need before their first step: recovered images, all answers."""

import pathlib
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from experiments import checkpointing, inputs, jsonio, pictures, recovering
from free_jax import memory, panel
from free_jax import zoo as zoo_lib
from free_jax.algorithms import Described
from free_jax.errors import InputError
from free_jax.types import ImageBank


def described(
    config: Any,
    zoo: zoo_lib.Zoo,
    asked: zoo_lib.Zoo,
    map_tasks: Callable,
    workdir: str,
    stop: checkpointing.StopRequest,
) -> Described:
    """Recovers images, asks teachers about them, and judges the teachers.

    Args:
      config: of the run.
      zoo: teachers that images are recovered from.
      asked: teachers that describe every image.
      map_tasks: how the teachers of a chunk are spread.
      workdir: run directory.
      stop: polled between chunks.

    Writes ``recovered.png`` and ``teachers.json`` (what each teacher is trusted).

    Raises:
      Stopped: stop was requested; finished chunks are kept.
      InputError: no teacher is left to believe.
    """
    folder = pathlib.Path(workdir)
    size = inputs.preset(config).image_size
    if config.recover.reuse:
        columns = _columns(zoo, asked)
        pool, logits = recovering.reuse(config, config.recover.reuse, columns)
    else:
        shape = (size, size, 3)
        pool = recovering.recover(config, zoo, shape, map_tasks, workdir, stop)
        logits = recovering.ask(config, asked, pool.images, workdir, stop)
    _draw(folder / "recovered.png", pool, zoo)
    class_ids = np.concatenate([np.asarray(t.class_ids) for t in asked.teachers])
    weights = np.isfinite(logits).all((0, 2)).astype(np.float32)
    if config.panel.trust:
        trust = panel.trust(logits, class_ids, pool.classes, pool.owners)
        weights = trust.weights
        jsonio.write_json(folder / "teachers.json", trust._asdict())
        doubted = np.flatnonzero(weights == 0)
        if doubted.size:
            print(
                f"{doubted.size} of {len(weights)} teachers tell little or contradict "
                f"the others and are left out: {doubted[:20].tolist()}; see "
                f"{folder / 'teachers.json'}",
                flush=True,
            )
    if not weights.any():
        raise InputError(
            "no teacher of the zoo answers anything that depends on the image; see "
            f"{folder / 'teachers.json'}"
        )
    return Described(
        images=jnp.asarray(pool.images),
        logits=jnp.asarray(np.where(np.isfinite(logits), logits, 0.0)),
        weights=jnp.asarray(weights),
    )


def pre_inverted(
    config: Any,
    zoo: zoo_lib.Zoo,
    map_tasks: Callable,
    workdir: str,
    stop: checkpointing.StopRequest,
) -> ImageBank:
    """A memory of the images recovered from every teacher, by absolute class.

    Args:
      config: of the run.
      zoo: teachers.
      map_tasks: how the teachers of a chunk are spread.
      workdir: run directory.
      stop: polled between chunks.

    Raises:
      Stopped: stop was requested; finished chunks are kept.
    """
    size = inputs.preset(config).image_size
    shape = (size, size, 3)
    pool = recovering.recover(config, zoo, shape, map_tasks, workdir, stop)
    of_class = [
        pool.images[pool.classes == class_id] for class_id in range(zoo.num_classes)
    ]
    counts = np.asarray([len(images) for images in of_class], np.int32)
    images = np.zeros((zoo.num_classes, counts.max(), *shape), np.uint8)
    for row, found in zip(images, of_class, strict=True):
        row[: len(found)] = found
    bank = memory.from_arrays(images, counts)
    # The memory is full: what was written last comes last.
    return bank._replace(cursor=bank.counts)


def _columns(zoo: zoo_lib.Zoo, asked: zoo_lib.Zoo) -> np.ndarray:
    """Where the asked teachers are among all: the first ones of each group."""
    columns, first = [], 0
    for all_of_group, some in zip(zoo.groups, asked.groups, strict=True):
        columns.append(first + np.arange(some.num_teachers))
        first += all_of_group.num_teachers
    return np.concatenate(columns)


def _draw(file: pathlib.Path, pool: recovering.Pool, zoo: zoo_lib.Zoo) -> None:
    """Ten images of each of the first twelve classes, and a row of scenes."""
    rows, names = [], []
    for known in np.unique(pool.classes):
        of_class = pool.images[pool.classes == known][:10]
        if len(of_class) == 10 and len(rows) < 13:
            rows.append(of_class)
            names.append(zoo.class_names[known] if known >= 0 else "scenes")
    if rows:
        images = np.concatenate(rows)
        pictures.save_grid(file, images, rows=len(rows), labels=names)
