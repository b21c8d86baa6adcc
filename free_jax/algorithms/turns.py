"""Which groups of the zoo a step's teachers come from.

A step's teachers are spread evenly over the groups.  Where they do not divide, every
group contributes ``total // groups`` to every step, and the ``total % groups`` places
that are left go round the groups: place j of step s is that of group ``(s * places + j)
% groups``.  After as many steps as there are groups, all had the same number of
places.  Going round was chosen over drawing because it leaves no group out for long,
needs no key and costs nothing where the teachers divide.

Every group has a program of its own (see `algorithm`), and a step calls those whose
turn it is.  One program that held all of them, with a branch a group, would take as
long to compile as all of them together, in every run and for every mesh.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Int, Key

from free_jax.types import Teachers
from free_jax.zoo.tasks import draw_classes


class Batch(NamedTuple):
    """Teachers of a step whose keys and rows are drawn together.

    Attributes:
      number: different for the batches of a step, to be folded into keys: the group,
        or the number of groups for the places that go round.
      groups: the group that all are of, or the groups that take turns.
      count: how many teachers.
    """

    number: int
    groups: tuple[int, ...]
    count: int


class Place(NamedTuple):
    """Teachers of one group that one program handles together.

    Attributes:
      batch: they belong to.
      group: they are of.
      first: of them in the batch.
      count: how many of the batch's.
    """

    batch: Batch
    group: int
    first: int
    count: int

    def of(self, stacked: jax.Array) -> jax.Array:
        """The rows of this place among those of its batch."""
        return stacked[self.first : self.first + self.count]


def batches(
    per_step: int, groups: int, held: Sequence[int] | None = None
) -> tuple[Batch, ...]:
    """A step's teachers by groups, those that go round last.

    Args:
      per_step: teachers of all groups together, at least 1.
      groups: number of groups.
      held: at most so many of each group, for draws without replacement.
    """
    shares, left = (per_step // groups,) * groups, per_step % groups
    open_to = tuple(range(groups))
    if held is not None:
        shares = tuple(min(pair) for pair in zip(shares, held, strict=True))
        open_to = tuple(g for g in open_to if shares[g] < held[g])
    found = [Batch(g, (g,), share) for g, share in enumerate(shares) if share]
    if left and open_to:
        found.append(Batch(groups, open_to, min(left, len(open_to))))
    return tuple(found)


def positions(batch: Batch, step: int | jax.Array) -> Int[Array, " t"]:
    """Position in ``batch.groups`` of each of its teachers, in this step."""
    return (step * batch.count + jnp.arange(batch.count)) % len(batch.groups)


def places(batches: Sequence[Batch], step: int | jax.Array) -> list[Place]:
    """A step's teachers by the programs that handle them.

    Args:
      batches: of the step, see `batches`.
      step: steps made so far; a number where groups take turns.

    Raises:
      ValueError: groups take turns, and the step is traced.
    """
    found = []
    for batch in batches:
        if len(batch.groups) == 1:
            found.append(Place(batch, batch.groups[0], 0, batch.count))
            continue
        if isinstance(step, Tracer):
            raise ValueError(
                "groups take turns by the number of the step, which is traced here: "
                "call algorithm.compiled(), which is many programs, outside of jax.jit"
            )
        for j in range(batch.count):
            turn = (int(step) * batch.count + j) % len(batch.groups)
            found.append(Place(batch, batch.groups[turn], j, 1))
    return found


def draw(
    key: Key[Array, ""], batch: Batch, step: int | jax.Array, data: Sequence[Teachers]
) -> Int[Array, " t"]:
    """Uniform rows of the batch's teachers in their groups, with replacement."""
    held = [data[group].class_ids.shape[0] for group in batch.groups]
    if len(held) == 1:
        return jax.random.randint(key, (batch.count,), 0, held[0])
    most = jnp.asarray(held)[positions(batch, step)]
    return jax.random.randint(key, (batch.count,), 0, most)


def draw_tasks(
    key: Key[Array, ""], place: Place, teachers: Teachers, way: int
) -> Int[Array, "t n"] | None:
    """Which of their classes the teachers of a place are asked about.

    Args:
      key: of the step's draws; the same for all places.
      place: of the step.
      teachers: of its group.
      way: classes of a task.

    Returns:
      [count, way] positions among a teacher's outputs; None where it is asked about
      all.
    """
    held = teachers.class_ids.shape[-1]
    # Beyond the numbers of batches: their keys draw rows.
    key = jax.random.fold_in(jax.random.fold_in(key, 1 << 16), place.batch.number)
    key = jax.random.fold_in(key, place.first)
    return draw_classes(key, place.count, held, way)


def counts(
    key: Key[Array, ""],
    batches: Sequence[Batch],
    step: int | jax.Array,
    data: Sequence[Teachers],
) -> tuple[Int[Array, " t"], ...]:
    """How often `draw` takes each teacher of each group in a step; traceable."""
    found = [jnp.zeros(stack.class_ids.shape[0], jnp.int32) for stack in data]
    for batch in batches:
        rows = draw(jax.random.fold_in(key, batch.number), batch, step, data)
        turn = positions(batch, step)
        for position, group in enumerate(batch.groups):
            mine = (turn == position).astype(jnp.int32)
            found[group] = found[group].at[rows].add(mine, mode="drop")
    return tuple(found)
