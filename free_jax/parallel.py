"""The only door to a device mesh: mapping a one-task function over tasks.

`jit(vmap(f))` over sharded network weights does not parallelise: the partitioner
gathers every kernel.  `shard_map` does.  It runs here without tracking which values
vary over devices (``check_vma=False``): with tracking, a gradient taken inside the
mapped function with respect to anything shared, captured variables included, is
silently summed over devices, and every literal carried through a loop is refused.
"""

from collections.abc import Callable, Mapping
from typing import Literal

import jax
import numpy as np
from jax.sharding import AxisType, Mesh
from jax.sharding import PartitionSpec as P

from free_jax.types import PyTree

Local = Literal["auto", "vmap", "map"]
TaskFn = Callable[[PyTree, PyTree], PyTree]


def make_mesh(axes: Mapping[str, int], devices: list | None = None) -> Mesh:
    """A mesh with Auto axis types.

    Args:
      axes: name to size; one size may be -1 for "all remaining devices".
      devices: defaults to all devices.

    Raises:
      ValueError: the sizes do not multiply to the number of devices.
    """
    devices = list(jax.devices()) if devices is None else devices
    sizes = dict(axes)
    known = int(np.prod([size for size in sizes.values() if size != -1]))
    for name, size in sizes.items():
        if size == -1:
            sizes[name] = max(len(devices) // max(known, 1), 1)
    if np.prod(list(sizes.values())) != len(devices):
        raise ValueError(
            f"mesh {dict(axes)} does not fit {len(devices)} devices; use -1 for one "
            "axis, or sizes whose product is the number of devices"
        )
    # The default axis type is Explicit, under which vmapped networks do not trace.
    return jax.make_mesh(
        tuple(sizes.values()),
        tuple(sizes),
        axis_types=(AxisType.Auto,) * len(sizes),
        devices=devices,
    )


def map_tasks(
    fn: TaskFn,
    *,
    mesh: Mesh | None = None,
    axis: str = "task",
    local: Local = "auto",
    batch_size: int | None = None,
) -> TaskFn:
    """Maps ``fn(shared, task)`` over the leading axis of the tasks.

    Equal to ``jax.vmap(fn, in_axes=(None, 0))`` up to rounding, and differentiable
    in `shared`.  On a mesh the task axis is padded with copies of the first task to
    a multiple of the mesh axis; the padding is dropped from the result.

    Args:
      fn: written for one task; both arguments and the result are pytrees.
      mesh: None runs on one device.
      axis: the mesh axis that tasks are split over.
      local: how one device handles its tasks: "vmap", "map" (one after the other),
        or "auto": "map" on CPU, where batching network weights only costs memory
        traffic, "vmap" elsewhere.
      batch_size: with "vmap", how many tasks a device holds at once; None is all.

    Returns:
      A function of (shared, tasks) with results stacked on a leading axis.

    Raises:
      ValueError: `local` is unknown.
    """
    if local not in ("auto", "vmap", "map"):
        raise ValueError(f"local={local!r}: choose auto, vmap or map")
    if local == "auto":
        local = "map" if jax.default_backend() == "cpu" else "vmap"

    def run_local(shared: PyTree, tasks: PyTree) -> PyTree:
        if local == "vmap" and batch_size is None:
            return jax.vmap(fn, in_axes=(None, 0))(shared, tasks)
        size = batch_size if local == "vmap" else None
        return jax.lax.map(lambda task: fn(shared, task), tasks, batch_size=size)

    if mesh is None or mesh.shape[axis] == 1:
        return run_local

    sharded = jax.shard_map(
        run_local,
        mesh=mesh,
        in_specs=(P(), P(axis)),
        out_specs=P(axis),
        check_vma=False,
    )

    def run(shared: PyTree, tasks: PyTree) -> PyTree:
        num_tasks = jax.tree.leaves(tasks)[0].shape[0]
        padding = -num_tasks % mesh.shape[axis]
        if padding:
            index = np.concatenate([np.arange(num_tasks), np.zeros(padding, int)])
            tasks = jax.tree.map(lambda x: x[index], tasks)
        out = sharded(shared, tasks)
        return jax.tree.map(lambda x: x[:num_tasks], out) if padding else out

    return run
