"""The only use of a device mesh: mapping a one-task function over tasks.

`jit(vmap(f))` over sharded network weights does not parallelise: the partitioner
gathers every kernel.  `shard_map` does.  It runs here without tracking which values
vary over devices (``check_vma=False``): with tracking, a gradient taken inside the
mapped function with respect to anything shared, captured variables included, is
silently summed over devices, and every literal carried through a loop is refused.
"""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from free_jax import platforms
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
    axis: str | tuple[str, ...] = "task",
    local: Local = "auto",
    batch_size: int | None = None,
    everywhere: bool = False,
    summed: bool = False,
) -> TaskFn:
    """Maps ``fn(shared, task)`` over the leading axis of the tasks.

    Equal to ``jax.vmap(fn, in_axes=(None, 0))`` up to rounding, and differentiable
    in `shared`.  On a mesh the task axis is padded with copies of the first task to
    a multiple of the mesh axis; the padding is dropped from results and sums.

    What a device needs of the others' results is stated by the caller: otherwise the
    partitioner gathers whatever later code touches.  `everywhere` and `summed`
    together cost one all-reduce (each device fills in its part of zeros), which for
    results is twice the bytes of an all-gather, but rides with the sum.

    Args:
      fn: written for one task; both arguments and the result are pytrees.
      mesh: None runs on one device.
      axis: the mesh axis that tasks are split over; several are as one long one.
      local: how one device handles its tasks: "vmap", "map" (one after the other),
        or "auto": "map" on CPU, where batching network weights only costs memory
        traffic, "vmap" elsewhere.
      batch_size: with "vmap", how many tasks a device holds at once; None is all.
      everywhere: every device gets all results; otherwise each keeps its tasks'.
      summed: `fn` returns ``(result, term)``, and terms are added up over the tasks.

    Returns:
      A function of (shared, tasks) with results stacked on a leading axis; with
      `summed`, ``(stacked results, sum of terms)``.

    Raises:
      ValueError: `local` is unknown.
    """
    if local not in ("auto", "vmap", "map"):
        raise ValueError(f"local={local!r}: choose auto, vmap or map")

    def run_local(shared: PyTree, tasks: PyTree) -> tuple[PyTree, PyTree]:
        how = local
        if how == "auto":
            how = "map" if platforms.is_cpu() else "vmap"
        if jax.tree.leaves(tasks)[0].shape[0] == 1 and how == "map":
            out = fn(shared, jax.tree.map(lambda x: x[0], tasks))
            out = jax.tree.map(lambda x: jnp.asarray(x)[None], out)
        elif how == "vmap" and batch_size is None:
            out = jax.vmap(fn, in_axes=(None, 0))(shared, tasks)
        else:
            size = batch_size if how == "vmap" else None
            one = functools.partial(fn, shared)
            out = jax.lax.map(one, tasks, batch_size=size)
        return out if summed else (out, ())

    if mesh is None or _size(mesh, axis) == 1:

        def run_all(shared: PyTree, tasks: PyTree) -> tuple[PyTree, PyTree]:
            results, terms = run_local(shared, tasks)
            return results, jax.tree.map(lambda x: x.sum(0), terms)

    else:
        run_all = _on_mesh(run_local, mesh, axis, everywhere)

    def run(shared: PyTree, tasks: PyTree) -> PyTree:
        results, terms = run_all(shared, tasks)
        return (results, terms) if summed else results

    return run


def _size(mesh: Mesh, axis: str | tuple[str, ...]) -> int:
    """Devices along a mesh axis, or along several."""
    return math.prod(mesh.shape[name] for name in _names(axis))


def _names(axis: str | tuple[str, ...]) -> tuple[str, ...]:
    return (axis,) if isinstance(axis, str) else axis


def _on_mesh(
    run_local: Callable, mesh: Mesh, axis: str | tuple[str, ...], everywhere: bool
) -> Callable:
    """Splits tasks over a mesh axis; see `map_tasks`.

    Args:
      run_local: ``(shared, tasks of a device) -> (results, terms)``, both stacked.
      mesh: of devices.
      axis: of the mesh, or several.
      everywhere: whether all devices get all results.

    Returns:
      ``(shared, tasks) -> (stacked results, sums of terms)``.
    """
    devices = _size(mesh, axis)

    def run(shared: PyTree, tasks: PyTree) -> tuple[PyTree, PyTree]:
        num_tasks = jax.tree.leaves(tasks)[0].shape[0]
        share = -(-num_tasks // devices)
        padding = share * devices - num_tasks
        if padding:
            index = np.concatenate([np.arange(num_tasks), np.zeros(padding, int)])
            tasks = jax.tree.map(lambda x: x[index], tasks)
        manual = jax.sharding.get_abstract_mesh().manual_axes
        inside = set(_names(axis)) <= set(manual)

        def total(x: jax.Array, first: jax.Array) -> jax.Array:
            is_task = first + np.arange(share) < num_tasks
            mask = is_task.reshape(-1, *[1] * (x.ndim - 1))
            return (jnp.where(mask, x, 0) if padding else x).sum(0)

        def placed(x: jax.Array, first: jax.Array) -> jax.Array:
            # One type for flags and numbers: one collective.
            x = x.astype(jnp.float32) if x.dtype == bool else x
            zeros = jnp.zeros((share * devices, *x.shape[1:]), x.dtype)
            return jax.lax.dynamic_update_slice_in_dim(zeros, x, first, 0)

        def on_device(shared: PyTree, tasks: PyTree) -> tuple[PyTree, PyTree]:
            first = jax.lax.axis_index(axis) * share
            if inside:
                tasks = jax.tree.map(
                    lambda x: jax.lax.dynamic_slice_in_dim(x, first, share), tasks
                )
            results, terms = run_local(shared, tasks)
            terms = jax.tree.map(lambda x: total(x, first), terms)
            if not (everywhere or inside):
                return results, jax.lax.psum(terms, axis)
            full = jax.tree.map(lambda x: placed(x, first), results)
            full, terms = jax.lax.psum((full, terms), axis)
            return jax.tree.map(lambda x, y: y.astype(x.dtype), results, full), terms

        if inside:
            results, terms = _value_only(on_device)(shared, tasks)
        else:
            if everywhere:
                # Else the partitioner may split what tasks are computed from, and
                # gather it for its other uses.
                whole = NamedSharding(mesh, P())
                tasks = jax.lax.with_sharding_constraint(tasks, whole)
            results, terms = jax.shard_map(
                on_device,
                mesh=mesh,
                in_specs=(P(), P(axis)),
                out_specs=(P() if everywhere else P(axis), P()),
                check_vma=False,
            )(shared, tasks)
        if padding:
            results = jax.tree.map(lambda x: x[:num_tasks], results)
        return results, terms

    return run


def map_seeds(step: Callable, mesh: Mesh, *, axis: str = "seed") -> Callable:
    """Makes a step of one training run a step of several, split over a mesh axis.

    The runs exchange nothing.  Within a run, a `map_tasks` of the same mesh splits its
    tasks over the other axis, so that few tasks still fill a large mesh.  A device's
    runs go one after the other: batched, a `lax.cond` would compute both branches.

    Args:
      step: ``(key, state, data) -> (state, info)``.
      mesh: with `axis` and the axis that the step's tasks are split over.
      axis: the mesh axis that runs are split over.

    Returns:
      ``(keys [S], states [S, ...], data) -> (states, infos [S])``; all runs see the
      same data.  S must be a multiple of the mesh axis; ValueError if it is not.
    """

    def local(keys: jax.Array, states: PyTree, data: PyTree) -> PyTree:
        return jax.lax.map(lambda run: step(*run, data), (keys, states))

    sharded = jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(P(axis), P(axis), P()),
        out_specs=P(axis),
        check_vma=False,
    )

    def run(keys: jax.Array, states: PyTree, data: PyTree) -> tuple[PyTree, PyTree]:
        if keys.shape[0] % mesh.shape[axis]:
            raise ValueError(
                f"{keys.shape[0]} seeds do not divide over the {mesh.shape[axis]} "
                f"devices of mesh axis {axis!r}; use a multiple"
            )
        return sharded(keys, states, data)

    return run


def _value_only(fn: Callable) -> Callable:
    """The same function; differentiating it is an error instead of a wrong number."""

    def refuse(*_: PyTree) -> PyTree:
        raise NotImplementedError(
            "map_tasks inside map_seeds has no gradient: take it within one task"
        )

    guarded = jax.custom_vjp(fn)
    guarded.defvjp(refuse, refuse)
    return guarded
