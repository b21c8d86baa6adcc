"""From a config to an open run and its schedule."""

import contextlib
from collections.abc import Iterator
from typing import Any

from experiments.harness import devices, run
from experiments.harness.method import Schedule


@contextlib.contextmanager
def opened(
    config: Any, workdir: str, *, may_change: tuple[str, ...]
) -> Iterator[run.Run]:
    """A run of a config in a working directory that is claimed for it.

    Args:
      config: gives ``seed``, ``mesh`` and ``log``; all of it names the run.
      workdir: run directory, made if missing.
      may_change: keys that may differ between the runs that share the directory.

    Raises:
      InputError: the directory cannot be used, or the mesh does not fit the devices.
    """
    place, map_tasks = devices.placement(config.mesh.task, config.mesh.local)
    with run.opened(
        workdir,
        seed=config.get("seed", 0),
        place=place,
        map_tasks=map_tasks,
        identity=config,
        may_change=may_change,
        every_secs=config.log.every_secs,
    ) as found:
        yield found


def schedule(config: Any, seconds_before: float) -> Schedule:
    """How long the method of a config is trained, and how often it is looked at."""
    return Schedule(
        num_steps=config.num_steps,
        max_seconds=config.get("max_seconds") or 0.0,
        log_every_steps=config.log.every_steps,
        judge_every_steps=config.eval.every_steps,
        checkpoint_every_steps=config.checkpoint.every_steps,
        checkpoint_every_secs=config.checkpoint.every_secs,
        tensorboard=config.log.get("tensorboard", False),
        seconds_before=seconds_before,
    )
