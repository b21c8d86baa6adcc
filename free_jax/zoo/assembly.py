"""Single teachers of any kind put together: one group for each network."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from free_jax.errors import InputError
from free_jax.types import PyTree, Teachers
from free_jax.zoo.classes import ClassTable, Labels, unify
from free_jax.zoo.network import Network
from free_jax.zoo.pool import Zoo, ZooGroup


class Teacher(NamedTuple):
    """One classifier, as a reader of model files found it.

    Attributes:
      source: where, distinct, e.g. its path in the folder of models.
      network: what it computes, its images and their normalisation.
      variables: of `network`, leaves [...] as NumPy arrays.
      names: of its outputs; None where it does not say.
      accuracy: held-out, in [0, 1]; nan: unknown.
      domain: the data it was trained on, where that is known.
      licence: as its files state it; "": they state none.
      guessed: what no file says of it and was guessed, e.g. "mean, std".
    """

    source: str
    network: Network
    variables: PyTree
    names: tuple[str | None, ...]
    accuracy: float = float("nan")
    domain: str = ""
    licence: str = ""
    guessed: str = ""


class Assembled(NamedTuple):
    """A zoo and the table of its classes; rows follow the zoo's order of teachers."""

    zoo: Zoo
    classes: ClassTable


def assemble(
    teachers: Sequence[Teacher], classes: Mapping[str, Sequence[str]] | None = None
) -> Assembled:
    """Stacks teachers of one network and one domain, and joins their classes by name.

    Groups stand in the order of their first teachers; so equal networks stack whatever
    files they came from.

    Args:
      teachers: at least one.
      classes: corrections of the names, see `classes.unify`.

    Raises:
      InputError: there is no teacher, a number of names is not that of the outputs, or
        arrays do not fit.
    """
    if not teachers:
        raise InputError("there are no teachers to put together")
    together: dict[tuple[Network, str], list[Teacher]] = {}
    for teacher in teachers:
        outputs = teacher.network.num_classes
        if len(teacher.names) != outputs:
            raise InputError(
                f"{teacher.source}: {len(teacher.names)} names for {outputs} outputs"
            )
        together.setdefault((teacher.network, teacher.domain), []).append(teacher)
    ordered = [teacher for group in together.values() for teacher in group]
    table = unify([Labels(t.source, t.names) for t in ordered], classes)
    groups, first = [], 0
    for (network, domain), members in together.items():
        variables = jax.tree.map(
            lambda *leaves: jnp.asarray(np.stack(leaves)),
            *(member.variables for member in members),
        )
        ids: Any = jnp.asarray(np.stack(table.ids[first : first + len(members)]))
        first += len(members)
        groups.append(
            ZooGroup(
                network,
                Teachers(variables, ids),
                np.asarray([member.accuracy for member in members], np.float32),
                domain,
                tuple(member.source for member in members),
                tuple(member.licence for member in members),
                tuple(member.guessed for member in members),
            )
        )
    return Assembled(Zoo(tuple(groups), table.names), table)
