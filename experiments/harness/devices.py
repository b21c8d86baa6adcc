"""Where arrays live and how tasks are spread over devices."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from experiments.harness import hosts
from free_jax import parallel
from free_jax.errors import InputError
from free_jax.rows import in_files
from free_jax.split import Split


def placement(
    task: int, local: parallel.Local = "auto", split: Split | None = None
) -> tuple[Callable, Callable]:
    """Where arrays live and how tasks are spread.

    Args:
      task: devices of the mesh's one axis; 1 is no mesh, -1 all devices.
      local: how a device does its share of the tasks, see `parallel.map_tasks`.
      split: a mesh of two axes, over both of which tasks are spread; arrays that it
        holds in parts stay where they are.  None: there is one axis.

    Returns:
      ``place(tree)`` copies arrays to every device of the mesh; ``map_tasks(fn)``.

    Raises:
      InputError: the mesh does not fit the devices.
    """
    if split is not None:
        return functools.partial(_placed, split.mesh, split.is_held), split.spread
    if task == 1 and hosts.are_many():
        raise InputError(
            f"config.mesh.task=1 is one device, but {jax.process_count()} processes "
            "run; set --config.mesh.task=-1 for all devices"
        )
    if task == 1:
        # By name: what `jit` makes of named arrays is named, so that a step would be
        # compiled a second time for the state that the first one leaves.
        device = jax.local_devices()[0]

        def here(tree: Any) -> Any:
            return jax.device_put(_read(tree), device)

        return here, functools.partial(parallel.map_tasks, local=local)
    try:
        mesh = parallel.make_mesh({"task": task})
    except ValueError as error:
        raise InputError(f"config.mesh.task={task}: {error}") from None
    place = functools.partial(_placed, mesh, lambda x: False)
    return place, functools.partial(parallel.map_tasks, mesh=mesh, local=local)


def _placed(mesh: jax.sharding.Mesh, stays: Callable[[Any], bool], tree: Any) -> Any:
    """Arrays on all devices of a mesh, but for those that stay where they are."""
    tree, everywhere = _read(tree), jax.sharding.NamedSharding(mesh, jax.P())
    if not hosts.are_many():
        where = jax.tree.map(lambda x: x.sharding if stays(x) else everywhere, tree)
        return jax.device_put(tree, where)

    def put(x: Any) -> jax.Array:
        if stays(x):
            return x
        if isinstance(x, jax.Array) and not x.is_fully_addressable:
            return jax.device_put(x, everywhere)
        # Every process has the same values; device_put would compare them all.
        x = np.asarray(x)
        return jax.make_array_from_process_local_data(everywhere, x, x.shape)

    return jax.tree.map(put, tree)


def _read(tree: Any) -> Any:
    """Arrays that are in files, in memory."""
    return jax.tree.map(lambda x: np.asarray(x) if in_files(x) else x, tree)
