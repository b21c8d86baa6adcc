"""What panel distillation needs before its first step: images and all answers."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from etils import epath

from experiments import (
    checkpointing,
    hosts,
    inputs,
    jsonio,
    pictures,
    recovering,
    reusing,
)
from free_jax import panel
from free_jax import zoo as zoo_lib
from free_jax.algorithms import Described
from free_jax.errors import InputError


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
    folder = epath.Path(workdir)
    size = inputs.preset(config).image_size
    if config.recover.reuse:
        columns = _columns(zoo, asked)
        pool, logits = reusing.reuse(config, config.recover.reuse, zoo, columns)
    else:
        shape = (size, size, 3)
        reusing.sign(workdir, zoo, asked)
        pool = recovering.recover(config, zoo, shape, map_tasks, workdir, stop)
        logits = recovering.ask(config, asked, pool.images, map_tasks, workdir, stop)
    if hosts.is_writer():
        _draw(folder / "recovered.png", pool, zoo)
    class_ids = np.concatenate([np.asarray(t.class_ids) for t in asked.teachers])
    weights = np.isfinite(logits).all((0, 2)).astype(np.float32)
    if config.panel.trust:
        trust = panel.trust(logits, class_ids, pool.classes, pool.owners)
        weights = trust.weights
        if hosts.is_writer():
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


def _columns(zoo: zoo_lib.Zoo, asked: zoo_lib.Zoo) -> np.ndarray:
    """Where the asked teachers are among all: the first ones of each group."""
    columns, first = [], 0
    for all_of_group, some in zip(zoo.groups, asked.groups, strict=True):
        columns.append(first + np.arange(some.num_teachers))
        first += all_of_group.num_teachers
    return np.concatenate(columns)


def _draw(file: epath.Path, pool: recovering.Pool, zoo: zoo_lib.Zoo) -> None:
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
