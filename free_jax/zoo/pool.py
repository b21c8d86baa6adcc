"""Pools of pre-trained teachers: a tuple of groups.

A group stacks the teachers of one network and one data domain on a leading axis.
Groups may differ in the number of classes: all teachers' outputs stand side by side,
in the order of the groups, and `Zoo.columns` separates them.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jaxtyping import Array, Int

from free_jax import rows as rows_lib
from free_jax.errors import InputError
from free_jax.types import PyTree, Teachers
from free_jax.zoo.network import Network

# Teachers whose weights are looked at together.
_AT_ONCE = 256

# Fields of a group that hold a text a teacher, or nothing.
TEXTS = ("sources", "licences", "guesses")


@dataclasses.dataclass(frozen=True, eq=False)
class ZooGroup:
    """Teachers of one network and one data domain; checked on construction.

    Attributes:
      network: what all of them share.
      teachers: leaves [T, ...]; ``class_ids`` [T, W] index `Zoo.class_names`.
      accuracy: [T] float32 held-out accuracy in [0, 1], nan where unknown.
      domain: the data they were trained on, e.g. "cifar_fs".
      sources: where each came from, e.g. its path in the folder of models; empty where
        unknown.
      licences: of each, as its files state it; "" where they state none, empty where
        nobody looked.
      guesses: what of each no file says and was guessed, e.g. "mean, std"; "" where
        nothing was, empty where that was not recorded.

    Raises:
      InputError: arrays do not fit the network or each other, or are not finite.
    """

    network: Network
    teachers: Teachers
    accuracy: np.ndarray
    domain: str = ""
    sources: tuple[str, ...] = ()
    licences: tuple[str, ...] = ()
    guesses: tuple[str, ...] = ()

    def __post_init__(self):
        name, way = self.network.name, self.network.num_classes
        accuracy = np.asarray(self.accuracy, np.float32)
        object.__setattr__(self, "accuracy", accuracy)
        ids = np.asarray(self.teachers.class_ids)
        if ids.ndim != 2 or ids.shape[1] != way or not len(ids):
            raise InputError(
                f"{name} group: class_ids have shape {ids.shape}, expected "
                f"(teachers, {way}) with at least one teacher"
            )
        for i, row in enumerate(ids):
            if len(set(row.tolist())) < way:
                raise InputError(
                    f"{name} group: teacher {i} lists a class twice: {row.tolist()}; "
                    "its outputs must be distinct classes"
                )
        if accuracy.shape != (len(ids),):
            raise InputError(
                f"{name} group: {accuracy.shape} accuracies for {len(ids)} teachers; "
                "give one a teacher, nan where unknown"
            )
        for what in TEXTS:
            said = getattr(self, what)
            if said and len(said) != len(ids):
                raise InputError(
                    f"{name} group: {len(said)} {what} for {len(ids)} teachers; give "
                    "one a teacher, or none"
                )
        _check_variables(self.network, self.teachers.variables, len(ids))

    def __repr__(self) -> str:
        """Its teachers in a few words; not the weights."""
        network = self.network
        shape = "x".join(map(str, network.image_shape))
        return (
            f"{self.num_teachers} {network.name} of {network.num_classes} classes, "
            f"{shape}"
        )

    @property
    def architecture(self) -> Network:
        """The former name of `network`."""
        return self.network

    @property
    def num_teachers(self) -> int:
        """How many teachers the group stacks."""
        return self.teachers.class_ids.shape[0]


@dataclasses.dataclass(frozen=True, eq=False)
class Zoo:
    """Groups of teachers over one list of classes; checked on construction.

    Attributes:
      groups: at least one.
      class_names: names of all absolute class ids, distinct.

    Raises:
      InputError: no group, repeated names or ids out of range.
    """

    groups: tuple[ZooGroup, ...]
    class_names: tuple[str, ...]

    def __post_init__(self):
        if not self.groups:
            raise InputError("a zoo needs at least one group of teachers")
        seen = set()
        twice = {n for n in self.class_names if n in seen or seen.add(n)}
        if twice:
            raise InputError(f"class names appear twice: {sorted(twice)}")
        for group in self.groups:
            ids = np.asarray(group.teachers.class_ids)
            bad = np.unique(ids[(ids < 0) | (ids >= len(self.class_names))])
            if bad.size:
                raise InputError(
                    f"{group.network.name} group: class ids {bad.tolist()} are "
                    f"out of range for {len(self.class_names)} class names; give "
                    "those of the data set that the teachers were trained on"
                )

    def __repr__(self) -> str:
        """What is in it, in a line; not the weights."""
        groups = ", ".join(map(repr, self.groups))
        return f"Zoo({len(self.class_names)} classes: {groups})"

    @property
    def num_teachers(self) -> int:
        """Teachers of all groups."""
        return sum(group.num_teachers for group in self.groups)

    @property
    def sources(self) -> tuple[str, ...]:
        """Where each teacher came from; "teacher 3" where that is unknown."""
        known = [s for g in self.groups for s in g.sources or [""] * g.num_teachers]
        return tuple(name or f"teacher {i}" for i, name in enumerate(known))

    @property
    def num_classes(self) -> int:
        """Absolute classes, whether or not a teacher knows them."""
        return len(self.class_names)

    @property
    def way(self) -> int:
        """Outputs of every teacher.

        Raises:
          InputError: teachers have different numbers of outputs.
        """
        ways = {network.num_classes for network in self.networks}
        if len(ways) > 1:
            named = [f"{n.name}: {n.num_classes}" for n in self.networks]
            raise InputError(
                f"teachers of this zoo have different numbers of classes ({named}), "
                "which this method cannot use; choose groups of one number"
            )
        return ways.pop()

    @property
    def class_ids(self) -> Int[np.ndarray, " c"]:
        """[C] int32 absolute classes of all teachers' outputs side by side."""
        rows = [np.asarray(teachers.class_ids).ravel() for teachers in self.teachers]
        return np.concatenate(rows).astype(np.int32)

    @property
    def columns(self) -> Int[np.ndarray, " t_plus_1"]:
        """[T + 1] int32; outputs ``columns[t]:columns[t + 1]`` are teacher ``t``'s."""
        widths = [np.full(g.num_teachers, g.network.num_classes) for g in self.groups]
        return np.cumsum([0, *np.concatenate(widths)]).astype(np.int32)

    def locate(self, teacher: int) -> tuple[int, int]:
        """The group of a teacher, and its row in it.

        Args:
          teacher: its number over the teachers of all groups.

        Raises:
          InputError: there is no such teacher.
        """
        row = int(teacher)
        for number, group in enumerate(self.groups):
            if 0 <= row < group.num_teachers:
                return number, row
            row -= group.num_teachers
        raise InputError(f"there is no teacher {teacher} in {self.num_teachers}")

    @property
    def service(self) -> Any:
        """The hub that remote teachers answer through; None where all are at hand."""
        found = [n.service for n in self.networks if n.service is not None]
        return found[0] if found else None

    @property
    def networks(self) -> tuple[Network, ...]:
        """One a group; the static half of what a jitted step needs."""
        return tuple(group.network for group in self.groups)

    @property
    def architectures(self) -> tuple[Network, ...]:
        """The former name of `networks`."""
        return self.networks

    @property
    def teachers(self) -> tuple[Teachers, ...]:
        """One stack a group; the pytree half of what a jitted step needs."""
        return tuple(group.teachers for group in self.groups)


def _check_variables(network: Network, variables: PyTree, num_teachers: int) -> None:
    expected: Any = traverse_util.flatten_dict(network.shapes, sep="/")
    actual: Any = traverse_util.flatten_dict(variables, sep="/")
    if expected.keys() != actual.keys():
        odd = sorted(expected.keys() ^ actual.keys())
        raise InputError(
            f"{network.name} group: variables do not fit the architecture at {odd[:3]}"
        )
    for path, leaf in actual.items():
        shape = (num_teachers, *expected[path].shape)
        if leaf.shape != shape:
            raise InputError(
                f"{network.name} group: {path} has shape {leaf.shape}, expected {shape}"
            )
        # Some teachers at a time: weights may be in files.
        values = leaf if rows_lib.in_files(leaf) else np.asarray(leaf)
        finite = np.concatenate(
            [
                np.isfinite(part).reshape(len(part), -1).all(axis=1)
                for start in range(0, num_teachers, _AT_ONCE)
                if len(part := values[start : start + _AT_ONCE])
            ]
        )
        if not finite.all():
            raise InputError(
                f"{network.name} group: teacher {int(finite.argmin())} has values in "
                f"{path} that are not finite; leave it out or train it again"
            )


def stack(teachers: Sequence[Teachers]) -> Teachers:
    """Stacks single teachers of one network on a new leading axis.

    Raises:
      InputError: nothing to stack, or the teachers differ in structure or shapes.
    """
    if not teachers:
        raise InputError("there are no teachers to stack")
    shapes = [jax.tree.map(jnp.shape, teacher) for teacher in teachers]
    for i, other in enumerate(shapes):
        if other != shapes[0]:
            raise InputError(
                f"teacher {i} and teacher 0 differ in structure or shapes; put them in "
                "two groups"
            )
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *teachers)


def take(
    teachers: Teachers,
    index: int | np.integer | Int[Array, "..."] | Int[np.ndarray, "..."],
) -> Teachers:
    """Picks one teacher (scalar index) or a shorter stack (index array).

    The index may be traced, so this works under `jax.jit` and `jax.vmap`; of weights
    in files, which are then read, it may not.

    Args:
      teachers: leaves [T, ...], in memory or `rows.FileRows`.
      index: scalar or array of ints in [0, T).

    Returns:
      Leaves [...] for a scalar, [*index.shape, ...] for an array.

    Raises:
      InputError: a Python index is out of range.
    """
    count = teachers.class_ids.shape[0]
    if isinstance(index, int) and not -count <= index < count:
        raise InputError(f"there is no teacher {index} in a stack of {count}")

    def some(leaf: Any) -> jax.Array:
        # Of what is on the host no more is sent to a device than was asked for.
        on_host = isinstance(leaf, np.ndarray) and not isinstance(index, jax.Array)
        if on_host or rows_lib.in_files(leaf):
            return jnp.asarray(leaf[index])
        return jnp.asarray(leaf)[index]

    return jax.tree.map(some, teachers)


def subset(zoo: Zoo, num_teachers: int) -> Zoo:
    """The first `num_teachers` of each group (or all, where it has fewer)."""
    return select(zoo, first_of_each_group(zoo, num_teachers))


def first_of_each_group(zoo: Zoo, num_teachers: int) -> Int[np.ndarray, " n"]:
    """Indices, over the teachers of all groups, of the first ones of each group."""
    if num_teachers < 1:
        raise InputError(f"num_teachers={num_teachers} must be at least 1")
    sizes = [group.num_teachers for group in zoo.groups]
    starts = np.concatenate([[0], np.cumsum(sizes)])
    return np.concatenate(
        [
            start + np.arange(min(size, num_teachers))
            for start, size in zip(starts, sizes, strict=False)
        ]
    )


def select(zoo: Zoo, index: Int[np.ndarray, " n"]) -> Zoo:
    """The teachers of a zoo that an index names; groups left empty are dropped.

    Args:
      zoo: any.
      index: [n] increasing, over the teachers of all groups.

    Raises:
      InputError: the index is empty.
    """
    groups, first = [], 0
    for group in zoo.groups:
        last = first + group.num_teachers
        rows = index[(index >= first) & (index < last)] - first
        first = last
        if rows.size:
            groups.append(pick(group, rows))
    if not groups:
        raise InputError("no teacher of the zoo is selected")
    return Zoo(tuple(groups), zoo.class_names)


def pick(group: ZooGroup, index: slice | np.ndarray) -> ZooGroup:
    """A group of some of its teachers, chosen on the host."""

    def some(leaf: Any) -> Any:
        if rows_lib.in_files(leaf):
            return rows_lib.chosen(leaf, index)
        # On the host: slicing on the device compiles once for each leaf shape.
        return jnp.asarray(np.asarray(leaf)[index])

    teachers = jax.tree.map(some, group.teachers)
    chosen = np.arange(group.num_teachers)[index]
    return dataclasses.replace(
        group,
        teachers=teachers,
        accuracy=group.accuracy[index],
        **{
            what: tuple(said[i] for i in chosen)
            for what in TEXTS
            if (said := getattr(group, what))
        },
    )


def in_memory(zoo: Zoo) -> Zoo:
    """The zoo with weights that are in files read, all of them."""

    def read(leaf: Any) -> Any:
        return jnp.asarray(np.asarray(leaf)) if rows_lib.in_files(leaf) else leaf

    groups = [
        dataclasses.replace(group, teachers=jax.tree.map(read, group.teachers))
        for group in zoo.groups
    ]
    return Zoo(tuple(groups), zoo.class_names)
