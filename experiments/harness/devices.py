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


def placement(task: int, local: parallel.Local = "auto") -> tuple[Callable, Callable]:
    """Where arrays live and how tasks are spread.

    Args:
      task: devices of the mesh's one axis; 1 is no mesh, -1 all devices.
      local: how a device does its share of the tasks, see `parallel.map_tasks`.

    Returns:
      ``place(tree)`` copies arrays to every device of the mesh; ``map_tasks(fn)``.

    Raises:
      InputError: the mesh does not fit the devices.
    """
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
    everywhere = jax.sharding.NamedSharding(mesh, jax.P())
    spread = functools.partial(parallel.map_tasks, mesh=mesh, local=local)

    def place(tree: Any) -> Any:
        tree = _read(tree)
        if not hosts.are_many():
            return jax.device_put(tree, everywhere)

        def put(x: Any) -> jax.Array:
            if isinstance(x, jax.Array) and not x.is_fully_addressable:
                return jax.device_put(x, everywhere)
            # Every process has the same values; device_put would compare them all.
            x = np.asarray(x)
            return jax.make_array_from_process_local_data(everywhere, x, x.shape)

        return jax.tree.map(put, tree)

    return place, spread


def _read(tree: Any) -> Any:
    """Arrays that are in files, in memory."""
    return jax.tree.map(lambda x: np.asarray(x) if in_files(x) else x, tree)
