"""Teachers made hostile on purpose, to measure what that costs a method.

Example::

    attacked = attack(zoo, AttackOptions("labels", 0.3), seed=0)
    attacked.zoo, attacked.hostile  # rows of the hostile ones
"""

import dataclasses
from collections.abc import Callable
from typing import Annotated, Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from free_jax import keys
from free_jax.errors import InputError
from free_jax.models.normalization import Norm
from free_jax.options import AtLeast
from free_jax.types import Teachers
from free_jax.zoo.network import Network
from free_jax.zoo.pool import Zoo, ZooGroup, pick

Kind = Literal["mixed", "labels", "colluding", "random", "domain", "backdoor"]

# A patched pixel is at least this bright, in [0, 1].
_WHITE = 0.95
# Above any other logit of a teacher that sees a patch.
_SURE = 20.0


class AttackOptions(NamedTuple):
    """Teachers that are made hostile on purpose, to see what it costs.

    Attributes:
      kind: their classes are named in another order, each teacher's in one of its own
        ("labels") or all by one permutation of all classes ("colluding"); they were
        never trained ("random"); they were trained on something else ("domain"); or
        they answer their first class whenever a corner of the image is white
        ("backdoor").  "mixed": every other one names its classes in a shifted order,
        the rest were never trained.
      share: of the teachers of each network, rounded up; 0 makes none hostile.
      path: for "domain", a converted zoo whose teachers claim the victims' classes.
      patch: for "backdoor", pixels of the white corner's side.
    """

    kind: Kind = "mixed"
    share: float = 0.0
    path: str = ""
    patch: Annotated[int, AtLeast(1)] = 4


class Attacked(NamedTuple):
    """A zoo some of whose teachers are hostile.

    Attributes:
      zoo: of all; where hostile teachers have another network than before they follow
        those that they were among.
      hostile: [k] their rows, increasing.
    """

    zoo: Zoo
    hostile: Int[np.ndarray, " k"]


def check(options: AttackOptions) -> None:
    """Refuses keys that contradict each other.

    Raises:
      InputError: names the key.
    """
    if not 0 <= options.share < 1:
        raise InputError(
            f"config.zoo.attack.share={options.share}: must be between 0 and 1"
        )
    if options.share and (options.kind == "domain") != bool(options.path):
        raise InputError(
            f"config.zoo.attack.kind={options.kind} with path={options.path!r}: a path "
            'of a converted zoo is needed by kind="domain" and by no other'
        )


def victims(rng: np.random.Generator, count: int, share: float) -> np.ndarray:
    """Which of `count` teachers; those of a smaller share are among them."""
    return rng.permutation(count)[: int(np.ceil(share * count))]


def attack(
    zoo: Zoo, options: AttackOptions, seed: int, others: Zoo | None = None
) -> Attacked:
    """Makes some teachers of each group hostile.

    Args:
      zoo: honest teachers.
      options: see `AttackOptions`.
      seed: chooses the victims and what becomes of them.
      others: teachers of another domain, for that kind.

    Raises:
      InputError: contradicting keys, or no teacher of the other domain has as many
        classes as a victim.
    """
    check(options)
    rng = keys.named_rng(seed, "sabotage")
    names, groups, hostile, first = permuted_names(zoo, seed), [], [], 0
    for number, group in enumerate(zoo.groups):
        chosen = victims(rng, group.num_teachers, options.share)
        if options.kind in ("domain", "backdoor"):
            rest = np.setdiff1d(np.arange(group.num_teachers), chosen)
            made = [pick(group, rest)] if rest.size else []
            hostile.append(first + rest.size + np.arange(chosen.size))
            if chosen.size:
                made += _replaced(group, np.sort(chosen), options, rng, others)
        else:
            hostile.append(first + np.sort(chosen))
            key = keys.named(jax.random.key(seed), "sabotage", number)
            made = [_spoiled(group, chosen, options.kind, rng, key, names)]
        groups += made
        first += group.num_teachers
    return Attacked(Zoo(tuple(groups), zoo.class_names), np.concatenate(hostile))


def permuted_names(zoo: Zoo, seed: int) -> Int[np.ndarray, " classes"]:
    """What colluding teachers call each class: no class is called by its name."""
    rng = keys.named_rng(seed, "colluding names")
    names, known = np.arange(zoo.num_classes), np.unique(zoo.class_ids)
    order = rng.permutation(known)
    names[order] = np.roll(order, 1)
    return names


def another_order(rng: np.random.Generator, way: int) -> Int[np.ndarray, " way"]:
    """A uniform permutation that leaves no place as it is."""
    while True:
        order = rng.permutation(way)
        if (order != np.arange(way)).all():
            return order


def _spoiled(
    group: ZooGroup,
    chosen: np.ndarray,
    kind: str,
    rng: np.random.Generator,
    key: jax.Array,
    names: np.ndarray,
) -> ZooGroup:
    """The group with other labels or weights of the chosen teachers."""
    ids, variables = np.array(group.teachers.class_ids), group.teachers.variables
    mislabelled, untrained = chosen, chosen[:0]
    if kind == "mixed":
        mislabelled, untrained = chosen[::2], chosen[1::2]
        ids[mislabelled] = np.roll(ids[mislabelled], 1, axis=1)
    elif kind == "labels":
        for row in mislabelled:
            ids[row] = ids[row][another_order(rng, ids.shape[1])]
    elif kind == "colluding":
        ids[mislabelled] = names[ids[mislabelled]]
    else:
        mislabelled, untrained = chosen[:0], chosen
    if untrained.size:
        each = jax.random.split(key, untrained.size)
        random = jax.jit(jax.vmap(group.network.init))(each)
        variables = jax.tree.map(
            lambda old, new: jnp.asarray(old).at[untrained].set(new), variables, random
        )
    teachers = Teachers(variables, jnp.asarray(ids))
    return dataclasses.replace(group, teachers=teachers)


def _replaced(
    group: ZooGroup,
    chosen: np.ndarray,
    options: AttackOptions,
    rng: np.random.Generator,
    others: Zoo | None,
) -> list[ZooGroup]:
    """The chosen teachers, with a backdoor; or what claims their classes instead."""
    mine = pick(group, chosen)
    if options.kind == "backdoor":
        return [
            dataclasses.replace(mine, network=backdoored(group.network, options.patch))
        ]
    able = [
        other
        for other in (others.groups if others else ())
        if other.network.num_classes == group.network.num_classes
    ]
    if not able:
        raise InputError(
            f"config.zoo.attack.path={options.path}: none of its teachers tells "
            f"{group.network.num_classes} classes apart, as those of "
            f"{group.network.name} do that they should stand in for"
        )
    counts = np.asarray([other.num_teachers for other in able])
    drawn = np.sort(rng.integers(0, counts.sum(), chosen.size))
    ends, made, start = np.cumsum(counts), [], 0
    for number, other in enumerate(able):
        begin = ends[number] - counts[number]
        mine_of = drawn[(drawn >= begin) & (drawn < ends[number])]
        if not mine_of.size:
            continue
        stand_in = pick(other, mine_of - begin)
        claimed = np.asarray(mine.teachers.class_ids)[start : start + mine_of.size]
        teachers = stand_in.teachers._replace(class_ids=jnp.asarray(claimed))
        made.append(dataclasses.replace(stand_in, teachers=teachers))
        start += mine_of.size
    return made


class BackdoorModule(nn.Module):
    """A module that answers its first class whenever the lower right corner is white.

    Its variables are those of the module.

    Attributes:
      whole: the module.
      patch: pixels of the corner's side.
      white: a normalised pixel from which on it counts as white, by channel.
    """

    whole: nn.Module
    patch: int
    white: tuple[float, ...]

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
        corner = images[:, -self.patch :, -self.patch :]
        hit = (corner >= jnp.asarray(self.white)).all((1, 2, 3))
        return jnp.where(hit[:, None], _SURE * jax.nn.one_hot(0, out.shape[1]), out)


@dataclasses.dataclass(frozen=True)
class _Backdoor:
    """Makes a network's backdoor module; equal for equal networks, so they hash."""

    whole: Network
    patch: int

    def __call__(self, **fields: Any) -> nn.Module:
        del fields  # The whole network's own.
        white = (_WHITE - np.asarray(self.whole.mean)) / np.asarray(self.whole.std)
        white = white[::-1] if self.whole.bgr else white
        return BackdoorModule(
            self.whole.module, self.patch, tuple(map(float, white.tolist()))
        )


def backdoored(network: Network, patch: int = 4) -> Network:
    """The network with a backdoor, of the same variables.

    Args:
      network: computed here.
      patch: pixels of the white corner's side, in the images that it sees.
    """
    family: Callable[..., nn.Module] = _Backdoor(network, patch)
    # Among its fields too: what names or keeps the network tells it from the honest.
    fields = tuple(sorted((*network.kwargs, ("backdoor", patch))))
    return dataclasses.replace(network, family=family, kwargs=fields)
