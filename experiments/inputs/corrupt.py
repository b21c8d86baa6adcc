"""Breaks some teachers of a zoo on purpose, to measure what that costs a method."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from free_jax import keys
from free_jax import zoo as zoo_lib
from free_jax.errors import InputError
from free_jax.types import Teachers


def sabotage(zoo: zoo_lib.Zoo, share: float, seed: int) -> zoo_lib.Zoo:
    """Permutes the labels or draws random weights of some teachers of each group.

    Victims are chosen at random; every other one keeps its weights but names its
    classes in a shifted order, the rest are never-trained networks.

    Args:
      zoo: honest teachers.
      share: of each group, rounded up, in (0, 1).
      seed: chooses the victims.

    Raises:
      InputError: a share that is not between 0 and 1.
    """
    if not 0 < share < 1:
        raise InputError(f"config.zoo.sabotage={share}: must be between 0 and 1")
    rng = keys.named_rng(seed, "sabotage")
    root = jax.random.key(seed)
    groups = []
    for number, group in enumerate(zoo.groups):
        count = group.num_teachers
        victims = rng.permutation(count)[: int(np.ceil(share * count))]
        ids = np.array(group.teachers.class_ids)
        mislabelled, untrained = victims[::2], victims[1::2]
        ids[mislabelled] = np.roll(ids[mislabelled], 1, axis=1)
        variables = group.teachers.variables
        if untrained.size:
            each = jax.random.split(
                keys.named(root, "sabotage", number), untrained.size
            )
            random = jax.jit(jax.vmap(group.network.init))(each)
            variables = jax.tree.map(
                lambda old, new, where=untrained: jnp.asarray(old).at[where].set(new),
                variables,
                random,
            )
        print(
            f"sabotaged {group.network.name} teachers: labels shifted in "
            f"{sorted(mislabelled.tolist())}, untrained {sorted(untrained.tolist())}",
            flush=True,
        )
        teachers = Teachers(variables, jnp.asarray(ids))
        groups.append(dataclasses.replace(group, teachers=teachers))
    return zoo_lib.Zoo(tuple(groups), zoo.class_names)
