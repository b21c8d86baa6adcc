"""A run of a config in its working directory, whatever kind of run it is."""

import contextlib
from collections.abc import Iterator
from typing import Any

from experiments.harness import devices, run
from experiments.inputs import former_keys
from experiments.methods import checks
from experiments.methods.options import Common, Comparison, Pretraining


@contextlib.contextmanager
def opened(
    settings: Common | Comparison | Pretraining,
    workdir: str,
    *,
    identity: Any = None,
    may_change: tuple[str, ...],
) -> Iterator[run.Run]:
    """A run in a working directory that is claimed for it.

    Args:
      settings: give its seed, its devices and how often it tells something.
      workdir: run directory, made if missing.
      identity: what names the run, nested; None is `settings`.
      may_change: keys that may differ between the runs that share the directory.

    Raises:
      InputError: the directory cannot be used, or the mesh does not fit the devices.
    """
    place, map_tasks = devices.placement(settings.mesh.task, settings.mesh.local)
    with run.opened(
        workdir,
        seed=settings.seed,
        place=place,
        map_tasks=map_tasks,
        identity=settings if identity is None else identity,
        may_change=may_change,
        upgrade=checks.upgraded,
        redrawn=former_keys.REDRAWN,
        every_secs=settings.log.every_secs,
    ) as found:
        yield found
