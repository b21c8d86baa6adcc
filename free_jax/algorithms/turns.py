"""Which groups of the zoo a step's teachers come from.

A step's teachers are spread evenly over the groups.  Where they do not divide, every
group contributes ``total // groups`` to every step, and the ``total % groups`` places
that are left go round the groups: place j of step s is that of group ``(s * places + j)
% groups``.  After as many steps as there are groups, all had the same number of
places.  Going round was chosen over drawing because it leaves no group out for long,
needs no key and costs nothing where the teachers divide.

A place that goes round is one ``lax.switch`` over the groups within the one program of
a step, so nothing is compiled anew from step to step.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Key

from free_jax.types import PyTree, Teachers

PerStep = int | tuple[int, ...]


class Batch(NamedTuple):
    """Teachers of a step that are handled together.

    Attributes:
      number: different for the batches of a step, to be folded into keys: the group,
        or the number of groups for the places that go round.
      groups: the group that all are of, or the groups that take turns.
      count: how many teachers.
    """

    number: int
    groups: tuple[int, ...]
    count: int


def batches(
    per_step: PerStep, groups: int, held: Sequence[int] | None = None
) -> tuple[Batch, ...]:
    """A step's teachers by groups, those that go round last.

    Args:
      per_step: teachers of all groups together, or how many of each group.
      groups: number of groups.
      held: at most so many of each group, for draws without replacement.

    Raises:
      ValueError: not one number a group, a negative one, or no teacher at all.
    """
    if isinstance(per_step, int):
        shares, left = (per_step // groups,) * groups, per_step % groups
    else:
        shares, left = tuple(per_step), 0
    if len(shares) != groups:
        raise ValueError(
            f"the zoo has {groups} groups but teachers_per_step={per_step}; give one "
            "number a group, or one for all together"
        )
    if min(shares) < 0 or sum(shares) + left < 1:
        raise ValueError(
            f"teachers_per_step={per_step} must not be negative and must add up to at "
            "least 1"
        )
    open_to = tuple(range(groups))
    if held is not None:
        shares = tuple(min(pair) for pair in zip(shares, held, strict=True))
        open_to = tuple(g for g in open_to if shares[g] < held[g])
    found = [Batch(g, (g,), share) for g, share in enumerate(shares) if share]
    if left and open_to:
        found.append(Batch(groups, open_to, min(left, len(open_to))))
    return tuple(found)


def positions(batch: Batch, step: jax.Array) -> Int[Array, " t"]:
    """Position in ``batch.groups`` of each of its teachers, in this step."""
    return (step * batch.count + jnp.arange(batch.count)) % len(batch.groups)


def draw(
    key: Key[Array, ""], batch: Batch, step: jax.Array, data: Sequence[Teachers]
) -> Int[Array, " t"]:
    """Uniform rows of the batch's teachers in their groups, with replacement."""
    held = [data[group].class_ids.shape[0] for group in batch.groups]
    if len(held) == 1:
        return jax.random.randint(key, (batch.count,), 0, held[0])
    most = jnp.asarray(held)[positions(batch, step)]
    return jax.random.randint(key, (batch.count,), 0, most)


def class_ids(
    batch: Batch, step: jax.Array, data: Sequence[Teachers], rows: Int[Array, " t"]
) -> Int[Array, "t w"]:
    """Absolute class ids of the batch's teachers."""
    by_group = [data[group].class_ids[rows] for group in batch.groups]
    if len(by_group) == 1:
        return by_group[0]
    return jnp.stack(by_group)[positions(batch, step), jnp.arange(batch.count)]


def map_batch(
    one: Callable[[int, PyTree, Teachers, PyTree], PyTree],
    batch: Batch,
    step: jax.Array,
    shared: PyTree,
    data: Sequence[Teachers],
    tasks: PyTree,
    *,
    map_tasks: Callable,
    **options: bool,
) -> PyTree:
    """Maps a function over the batch's teachers.

    Args:
      one: ``(group, shared, teachers of the group, task)``; `group` is a Python number.
        Where groups take turns, results must have one shape for all of them.
      batch: of teachers.
      step: [] int32 steps made so far, which decide whose turn it is.
      shared: the same for all tasks.
      data: all groups.
      tasks: with a leading axis of ``batch.count``.
      map_tasks: see `parallel.map_tasks`.
      **options: of `map_tasks`, ``everywhere`` and ``summed``.
    """
    # A task takes its teacher itself: a device copies the weights of its own only.
    pools = tuple(data[group] for group in batch.groups)
    if len(pools) == 1:
        (group,) = batch.groups

        def alone(both: PyTree, task: PyTree) -> PyTree:
            shared, pool = both
            return one(group, shared, pool, task)

        return map_tasks(alone, **options)((shared, *pools), tasks)

    def branch(position: int) -> Callable:
        group = batch.groups[position]
        return lambda shared, pools, task: one(group, shared, pools[position], task)

    branches = [branch(position) for position in range(len(pools))]

    def in_turn(both: PyTree, task: PyTree) -> PyTree:
        turn, task = task
        return jax.lax.switch(turn, branches, *both, task)

    # Under vmap a switch computes all branches: a device's teachers go one by one.
    mapped = map_tasks(in_turn, local="map", **options)
    return mapped((shared, pools), (positions(batch, step), tasks))
