"""Where arrays live and how tasks are spread over devices."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from experiments.harness import hosts
from free_jax import parallel
from free_jax.errors import InputError


def placement(config: Any) -> tuple[Callable, Callable]:
    """Where arrays live and how tasks are spread.

    Returns:
      ``place(tree)`` copies arrays to every device of the mesh; ``map_tasks(fn)``.

    Raises:
      InputError: the mesh does not fit the devices.
    """
    if config.mesh.task == 1 and hosts.are_many():
        raise InputError(
            f"config.mesh.task=1 is one device, but {jax.process_count()} processes "
            "run; set --config.mesh.task=-1 for all devices"
        )
    if config.mesh.task == 1:
        local = functools.partial(parallel.map_tasks, local=config.mesh.local)
        return jax.device_put, local
    try:
        mesh = parallel.make_mesh({"task": config.mesh.task})
    except ValueError as error:
        raise InputError(f"config.mesh.task={config.mesh.task}: {error}") from None
    everywhere = jax.sharding.NamedSharding(mesh, jax.P())
    spread = functools.partial(parallel.map_tasks, mesh=mesh, local=config.mesh.local)

    def place(tree: Any) -> Any:
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
