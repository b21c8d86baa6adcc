"""From a config to an open run and its schedule."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from experiments.harness import devices, former_keys, run
from experiments.harness.method import Schedule


@contextlib.contextmanager
def opened(
    config: Any,
    workdir: str,
    *,
    identity: Any = None,
    may_change: tuple[str, ...],
    upgrade: Callable[[dict[str, Any]], dict[str, Any]] = former_keys.upgraded,
) -> Iterator[run.Run]:
    """A run of a config in a working directory that is claimed for it.

    Args:
      config: gives ``seed``, ``mesh`` and ``log``.
      workdir: run directory, made if missing.
      identity: what names the run, nested; None is the config.
      may_change: keys that may differ between the runs that share the directory.
      upgrade: the flat config of an earlier version's run as it reads today.

    Raises:
      InputError: the directory cannot be used, or the mesh does not fit the devices.
    """
    place, map_tasks = devices.placement(config.mesh.task, config.mesh.local)
    with run.opened(
        workdir,
        seed=config.seed,
        place=place,
        map_tasks=map_tasks,
        identity=config if identity is None else identity,
        may_change=may_change,
        upgrade=upgrade,
        every_secs=config.log.every_secs,
    ) as found:
        yield found


def schedule(config: Any, seconds_before: float) -> Schedule:
    """How long the method of a config is trained, and how often it is looked at."""
    return Schedule(
        num_steps=config.num_steps,
        max_seconds=config.max_seconds,
        log_every_steps=config.log.every_steps,
        judge_every_steps=config.eval.every_steps,
        checkpoint_every_steps=config.checkpoint.every_steps,
        checkpoint_every_secs=config.checkpoint.every_secs,
        tensorboard=config.log.tensorboard,
        seconds_before=seconds_before,
    )
