"""FIVE's meta-training as a stage of its own, before teachers are inverted."""

import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from experiments.harness import checkpointing, metrics
from experiments.harness import stopping as stopping_lib
from experiments.harness.optimizers import optimizer
from free_jax import inversion, keys
from free_jax.types import PyTree, Teachers

FOLDER = "meta_generator"


def trained_generator(
    config: Any,
    name: str,
    key: jax.Array,
    inverter: inversion.Inverter,
    labels: jax.Array,
    teachers: Teachers,
    map_tasks: Callable,
    workdir: str,
    stop: stopping_lib.StopRequest,
) -> PyTree:
    """The generator after ``config.recover.meta_steps`` outer steps.

    Args:
      config: of the run.
      name: of the group of teachers; each has a generator of its own.
      key: of the whole training.
      inverter: starts from the generator.
      labels: of the images recovered from a teacher.
      teachers: a stack.
      map_tasks: how a step's teachers are spread.
      workdir: checkpoints are kept in its folder ``meta_generator``.
      stop: polled between steps.

    Raises:
      Stopped: stop was requested; the steps made are kept.
      RunError: a loss is not finite.
    """
    options = config.recover
    init, step = inversion.meta_training(
        inverter,
        labels,
        optimizer=optimizer(options.meta_optimizer),
        teachers_per_step=options.meta_teachers,
        map_tasks=map_tasks,
    )
    run = jax.jit(step, donate_argnums=1)
    folder = pathlib.Path(workdir) / FOLDER / name
    checkpoints = checkpointing.Checkpoints(
        folder, save_every_secs=config.checkpoint.every_secs or None
    )
    state = jax.jit(init)(keys.named(key, "init"))
    restored = checkpoints.restore_latest(state)
    done, spent = 0, 0.0
    if restored is not None:
        state, done, extra = restored
        spent = extra["seconds"]
    progress = metrics.Progress(
        options.meta_steps, done, every_secs=config.log.every_secs
    )
    clock = time.monotonic()
    while done < options.meta_steps:
        state, info = run(keys.named(key, "step", done), state, teachers)
        done += 1
        scalars = {"loss": np.asarray(info.loss).item()}
        scalars["owner acc"] = np.asarray(info.teacher_accuracy).item()
        metrics.check_finite(done, scalars)
        last = done == options.meta_steps
        progress.update(done, {"meta-training": ""} | scalars, force=last)
        extra = {"seconds": spent + time.monotonic() - clock}
        stopping = stop.requested and not last
        checkpoints.save(done, state, extra, force=last or stopping)
        if stopping:
            checkpoints.close()
            raise stopping_lib.Stopped
        if last:
            (folder / "seconds.txt").write_text(str(extra["seconds"]))
    checkpoints.close()
    return state.generator


def seconds_spent(workdir: str) -> float:
    """Time of finished meta-trainings, over all interruptions."""
    files = pathlib.Path(workdir).glob(f"{FOLDER}/*/seconds.txt")
    return sum(float(file.read_text()) for file in files)
