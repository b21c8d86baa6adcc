"""A task is a teacher and N of its classes.

Methods that meta-learn N-way tasks take part in any teacher of N classes and more: in
each step it is asked about N of them, drawn anew, and answers with the softmax over
those.  For the method it is an N-way teacher; nothing else knows of the others.

Example::

    networks = tuple(narrowed(network, 5) for network in zoo.networks)
    chosen = draw_classes(key, count=4, held=zoo.networks[0].num_classes, way=5)
    teacher = take_task(zoo.teachers[0], row, chosen[0])
    networks[0].apply(teacher.variables, images)  # [n, 5]
    teacher.class_ids  # the five classes
"""

import dataclasses
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Key

from free_jax import nouns
from free_jax.errors import InputError
from free_jax.models.normalization import Norm
from free_jax.types import Teachers
from free_jax.zoo.network import Network
from free_jax.zoo.pool import Zoo, select, take

Respond = Callable[[jax.Array], jax.Array]
# The collection of a teacher's variables that says which outputs a task is about.
CHOSEN = "chosen"


class TaskModule(nn.Module):
    """A module's answers about the classes that its variables name.

    Its variables are those of the module, and maybe `CHOSEN`.

    Attributes:
      whole: the module.
      respond: what a service makes of all logits, before some are picked.
    """

    whole: nn.Module
    respond: Respond | None = None

    def setup(self) -> None:
        """The module's variables stand where they stood."""
        nn.share_scope(self, self.whole)

    def __call__(
        self, images: jax.Array, *, norm: Norm, features: bool = False
    ) -> jax.Array:
        """Logits [n, way] of normalised images, or the module's features."""
        out: Any = self.whole(images, norm=norm, features=features)
        if features:
            return out
        out = out if self.respond is None else self.respond(out)
        if not self.has_variable(CHOSEN, "classes"):
            return out
        return out[..., self.get_variable(CHOSEN, "classes")]


@dataclasses.dataclass(frozen=True)
class _Family:
    """Makes a network's task module; equal for equal networks, so that they hash."""

    whole: Network
    respond: Respond | None

    def __call__(self, **fields: Any) -> nn.Module:
        del fields  # The whole network's own.
        return TaskModule(self.whole.module, self.respond)


def narrowed(network: Network, way: int, respond: Respond | None = None) -> Network:
    """The network as one that tells `way` classes apart.

    Args:
      network: of at least so many classes.
      way: classes of a task.
      respond: the form in which a service gives its logits, see `inversion.answers`.
        What it does to those of all classes happens before some are picked: a service
        does not know which ones are asked about.

    Returns:
      The network itself where it has `way` classes and nothing is done to its logits.

    Raises:
      ValueError: it has fewer classes.
    """
    if network.num_classes < way:
        raise ValueError(
            f"{network.name} tells {network.num_classes} classes apart, a task has "
            f"{way}"
        )
    if network.num_classes == way and respond is None:
        return network
    family = _Family(network, respond)
    return dataclasses.replace(network, num_classes=way, family=family)


def draw_classes(
    key: Key[Array, ""], count: int, held: int, way: int
) -> Int[Array, "t n"] | None:
    """Which classes each of `count` tasks is about, uniform and distinct.

    Args:
      key: consumed where there is anything to draw.
      count: tasks.
      held: classes of the teachers.
      way: classes of a task.

    Returns:
      [count, way] positions among a teacher's outputs; None where all are taken, as
      they are.
    """
    if held == way:
        return None
    keys = jax.random.split(key, count)
    return jax.vmap(lambda k: jax.random.permutation(k, held)[:way])(keys)


def take_task(
    teachers: Teachers,
    row: int | Int[Array, ""],
    chosen: Int[Array, " n"] | None,
) -> Teachers:
    """One teacher of a stack, asked about the chosen of its classes.

    Args:
      teachers: of one network.
      row: of the stack; may be traced.
      chosen: positions among its outputs, see `draw_classes`; None: all.

    Returns:
      The teacher of a `narrowed` network; its ``class_ids`` are those of the task.
    """
    return about(take(teachers, row), chosen)


def about(teacher: Teachers, chosen: Int[Array, " n"] | None) -> Teachers:
    """One teacher, asked about the chosen of its classes; see `take_task`."""
    if chosen is None:
        return teacher
    variables = {**teacher.variables, CHOSEN: {"classes": chosen}}
    return Teachers(variables, jnp.asarray(teacher.class_ids)[chosen])


class Able(NamedTuple):
    """The teachers of a zoo that tasks can be made of.

    Attributes:
      zoo: of them alone, over the classes of the whole zoo.
      rows: [t] their numbers in the whole zoo, increasing.
      left_out: a line for each reason why some cannot take part, and who they are.
    """

    zoo: Zoo
    rows: Int[np.ndarray, " t"]
    left_out: tuple[str, ...]


def able(zoo: Zoo, way: int, needs: Collection[str] = ()) -> Able:
    """The teachers that know enough classes and give what a method asks for.

    Args:
      zoo: of any teachers.
      way: classes of a task.
      needs: of `network.GIVES`.

    Raises:
      InputError: none can take part; says why.
    """
    rows, first = [], 0
    reasons: dict[str, list[tuple[str, Sequence[str]]]] = {}
    for group in zoo.groups:
        network, last = group.network, first + group.num_teachers
        lacking = sorted(set(needs) - network.gives)
        why = ""
        if network.num_classes < way:
            why = f"{network.num_classes} classes, a task has {way}"
        elif lacking:
            why = f"no {' and no '.join(lacking)}"
        if why:
            named = (network.name, zoo.sources[first:last])
            reasons.setdefault(why, []).append(named)
        else:
            rows.append(np.arange(first, last))
        first = last
    left_out = [f"{_named(groups)}: {why}" for why, groups in reasons.items()]
    if not rows:
        raise InputError(f"no teacher can take part: {'; '.join(left_out)}")
    index = np.concatenate(rows)
    kept = zoo if not left_out else select(zoo, index)
    return Able(kept, index, tuple(left_out))


def _named(groups: Sequence[tuple[str, Sequence[str]]]) -> str:
    """A few networks and teachers, and how many there are."""
    networks = list(dict.fromkeys(network for network, _ in groups))
    names = [name for _, sources in groups for name in sources]
    more = f", ... ({nouns.count(len(names), 'teacher')})" if len(names) > 3 else ""
    kinds = f" and {len(networks) - 3} more networks" if len(networks) > 3 else ""
    return f"{', '.join(networks[:3])}{kinds} ({', '.join(names[:3])}{more})"
