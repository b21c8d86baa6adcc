"""A run of a config in its working directory, whatever kind of run it is."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from experiments.harness import cluster, devices, run, stopping, workdir
from experiments.harness.contents import NOTHING, Contents
from experiments.harness.method import Schedule
from experiments.inputs import former_keys
from experiments.methods import checks
from experiments.methods.options import Common, Comparison, MeshOptions, Pretraining
from free_jax import parallel
from free_jax.errors import InputError
from free_jax.split import Split

# What says where and how a run works: its results are those of the run before.
# Not over how many devices heads are split: the state of a training has these parts.
ELSEWHERE = (
    "log",
    "checkpoint",
    "data.cache_dir",
    "host_devices",
    "mesh.task",
    "mesh.local",
    "cluster",
    # A teacher does not depend on who is trained beside it.
    "zoo.pretrain.at_once",
    "pretrain.at_once",
)
Settings = Common | Comparison | Pretraining


@contextlib.contextmanager
def opened(
    settings: Settings,
    folder: str,
    *,
    identity: Any = None,
    may_change: tuple[str, ...],
    contents: Contents = NOTHING,
) -> Iterator[run.Run]:
    """A run in a working directory that is claimed for it.

    Args:
      settings: give its seed, its devices and how often it tells something.
      folder: run directory, made if missing.
      identity: what names the run, nested; None is `settings`.
      may_change: keys that may differ between the runs that share the directory, beside
        `ELSEWHERE`.
      contents: what keys point to, compared by what it holds.

    Raises:
      InputError: the directory cannot be used, the mesh does not fit the devices, or
        nobody answers for the cluster.
    """
    split = _split(settings.mesh)
    place, map_tasks = _placement(settings.mesh, split)
    address = "" if isinstance(settings, Pretraining) else settings.cluster
    if address and settings.max_seconds:
        raise InputError(
            "config.max_seconds counts what jobs took, on however many workers; leave "
            "it at 0 with config.cluster"
        )
    with (
        cluster.opened(address) as work,
        run.opened(
            folder,
            seed=settings.seed,
            place=place,
            map_tasks=map_tasks,
            identity=settings if identity is None else identity,
            may_change=may_change,
            elsewhere=ELSEWHERE,
            contents=contents,
            upgrade=checks.upgraded,
            redrawn=former_keys.REDRAWN,
            every_secs=settings.log.every_secs,
            work=work,
            split=split,
        ) as found,
    ):
        yield found


def looked_at(
    settings: Settings,
    folder: str,
    *,
    identity: Any,
    may_change: tuple[str, ...],
    contents: Contents = NOTHING,
) -> tuple[run.Run, str]:
    """A run that nothing may be written with, after what `opened` would refuse.

    Args:
      settings: see `opened`, as the rest.
      folder: run directory.
      identity: what names the run.
      may_change: keys that may differ.
      contents: what keys point to.

    Returns:
      The run, and what its directory is: "new", "continued" or "finished".

    Raises:
      InputError: as `opened`.
    """
    split = _split(settings.mesh)
    place, map_tasks = _placement(settings.mesh, split)
    state = workdir.check_workdir(
        folder,
        identity,
        may_change=may_change,
        elsewhere=ELSEWHERE,
        contents=contents,
        upgrade=checks.upgraded,
        redrawn=former_keys.REDRAWN,
    )
    stop = stopping.StopRequest()
    found = run.Run(
        folder, settings.seed, place, map_tasks, stop, identity, split=split
    )
    return found, state


def schedule(common: Common, seconds_before: float) -> Schedule:
    """How long the method is trained, and how often it is looked at."""
    return Schedule(
        num_steps=common.num_steps,
        max_seconds=common.max_seconds,
        log_every_steps=common.log.every_steps,
        judge_every_steps=common.eval.every_steps,
        checkpoint_every_steps=common.checkpoint.every_steps,
        checkpoint_every_secs=common.checkpoint.every_secs,
        tensorboard=common.log.tensorboard,
        seconds_before=seconds_before,
    )


def _split(options: MeshOptions) -> Split | None:
    """The mesh whose axis "zoo" splits what is held of teachers; None: none does.

    Raises:
      InputError: the mesh does not fit the devices.
    """
    if options.zoo == 1:
        return None
    try:
        mesh = parallel.make_mesh({"task": options.task, "zoo": options.zoo})
    except ValueError as error:
        raise InputError(f"config.mesh.zoo={options.zoo}: {error}") from None
    return Split(mesh, local=options.local)


def _placement(options: MeshOptions, split: Split | None) -> tuple[Callable, Callable]:
    return devices.placement(options.task, options.local, split)
