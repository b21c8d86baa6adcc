"""What is held in parts, one a device along an axis of a mesh.

Arrays of as many parts as that axis is long have the parts as their first axis.  A
function is written for one part; what it needs of the others is a sum.

    split = Split(make_mesh({"task": 2, "zoo": 4}))
    kept, total = split.map(lambda shared, part: (part, part.sum()))((), parts)
"""

from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from free_jax import parallel
from free_jax.rows import in_files
from free_jax.types import PyTree


class Split(NamedTuple):
    """A mesh one of whose axes splits what is held.

    Attributes:
      mesh: of devices.
      axis: along which each device holds a part.
      within: the axis that a part's own tasks are split over.
      local: how one device handles its tasks, see `parallel.map_tasks`.
    """

    mesh: Mesh
    axis: str = "zoo"
    within: str = "task"
    local: parallel.Local = "auto"

    @property
    def parts(self) -> int:
        """How many there are."""
        return self.mesh.shape[self.axis]

    def put(self, tree: PyTree) -> PyTree:
        """Host arrays [parts, ...], each part on its devices and nowhere else."""
        held = NamedSharding(self.mesh, P(self.axis))

        def one(x: Any) -> jax.Array:
            # Every process has all of it, and gives its own devices' parts.
            x = np.asarray(x)
            return jax.make_array_from_callback(x.shape, held, x.__getitem__)

        return jax.tree.map(one, tree)

    def is_held(self, x: Any) -> bool:
        """Whether an array is in parts, each on its devices."""
        where = x.sharding if isinstance(x, jax.Array) else None
        return (
            isinstance(where, NamedSharding)
            and where.mesh == self.mesh
            and where.spec[:1] == (self.axis,)
        )

    def keep(self, x: jax.Array) -> jax.Array:
        """Says of an array [parts, ...] of a program that it stays in parts."""
        held = NamedSharding(self.mesh, P(self.axis))
        return jax.lax.with_sharding_constraint(x, held)

    def everywhere(self, x: jax.Array) -> jax.Array:
        """Says of an array of a program that every device has all of it."""
        return jax.lax.with_sharding_constraint(x, NamedSharding(self.mesh, P()))

    def on_host(self, x: jax.Array) -> np.ndarray:
        """All parts of an array, on every host."""
        if x.is_fully_addressable:
            return np.asarray(x)
        return np.asarray(multihost_utils.process_allgather(x, tiled=True))

    def map(self, fn: parallel.TaskFn) -> parallel.TaskFn:
        """``fn(shared, part) -> (result, term)`` of all parts, each where it is held.

        Results stay where they are; terms are summed over the parts, and every device
        has the sum.  Gradients are to be taken within `fn`: those of what is shared
        are then terms.
        """
        return parallel.map_tasks(
            fn, mesh=self.mesh, axis=self.axis, local="map", summed=True
        )

    def map_tasks(self, fn: parallel.TaskFn, **options: Any) -> parallel.TaskFn:
        """`parallel.map_tasks` of a part's own tasks, for use within `map`."""
        options = {"local": self.local} | options
        return parallel.map_tasks(fn, mesh=self.mesh, axis=self.within, **options)

    def spread(self, fn: parallel.TaskFn, **options: Any) -> parallel.TaskFn:
        """`parallel.map_tasks` over all devices, of what is not split."""
        options = {"local": self.local} | options
        axes = (self.within, self.axis)
        return parallel.map_tasks(fn, mesh=self.mesh, axis=axes, **options)


def in_parts(rows: PyTree, count: int) -> PyTree:
    """Arrays [n, ...] on the host as [count, m, ...]; the last row fills the rest.

    Args:
      rows: in memory or in files.
      count: of parts.

    >>> in_parts(np.arange(5), 2).tolist()
    [[0, 1, 2], [3, 4, 4]]
    """

    def one(x: Any) -> np.ndarray:
        size = -(-len(x) // count)
        index = np.minimum(np.arange(count * size), len(x) - 1)
        x = (x if in_files(x) else np.asarray(x))[index]
        return x.reshape(count, size, *x.shape[1:])

    return jax.tree.map(one, rows)
