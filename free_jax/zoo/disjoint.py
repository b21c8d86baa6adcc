"""Teachers that share no class: the pool of PURER, chosen from a larger one."""

import numpy as np
from jaxtyping import Int

from free_jax.errors import InputError
from free_jax.zoo.pool import Zoo, select


def disjoint(zoo: Zoo, num_teachers: int) -> Zoo:
    """The most accurate `num_teachers` whose classes are pairwise disjoint.

    An exact solution of the packing problem (an integer program); where accuracies are
    unknown any such set.

    Args:
      zoo: teachers to choose from, of all its groups.
      num_teachers: how many to choose (13 for CIFAR-FS in PURER, the last with four
        classes only).

    Returns:
      A zoo of the chosen teachers, in their former order; groups left empty are gone.

    Raises:
      InputError: there is no such set; says how large the largest is.
    """
    return select(zoo, disjoint_rows(zoo, num_teachers))


def disjoint_rows(zoo: Zoo, num_teachers: int) -> Int[np.ndarray, " n"]:
    """Which teachers `disjoint` chooses: their numbers in the zoo, increasing."""
    if num_teachers < 1:
        raise InputError(f"num_teachers={num_teachers} must be at least 1")
    member = np.zeros((zoo.num_classes, zoo.num_teachers))
    owners = np.repeat(np.arange(zoo.num_teachers), np.diff(zoo.columns))
    member[zoo.class_ids, owners] = 1
    accuracy = np.concatenate([group.accuracy for group in zoo.groups])
    chosen = _pack(member, np.nan_to_num(accuracy), num_teachers)
    if chosen is None:
        most = _pack(member, np.ones(zoo.num_teachers))
        assert most is not None  # one teacher alone is disjoint
        raise InputError(
            f"{num_teachers} teachers with disjoint classes are asked for, but this "
            f"zoo of {zoo.num_teachers} teachers and {zoo.num_classes} classes holds "
            f"at most {int(most.sum())}; ask for no more, or give a zoo made that way"
        )
    return np.flatnonzero(chosen)


def _pack(
    member: np.ndarray, worth: np.ndarray, count: int | None = None
) -> np.ndarray | None:
    """Which teachers [T] maximise the worth without sharing a class, or None.

    ``member[c, t]`` is 1 where teacher ``t`` knows class ``c``.
    """
    from scipy import optimize  # a dependency of JAX; slow to import

    teachers = member.shape[1]
    limits = [optimize.LinearConstraint(member, ub=1)]
    if count is not None:
        limits.append(optimize.LinearConstraint(np.ones((1, teachers)), count, count))
    solved = optimize.milp(
        -worth, constraints=limits, integrality=1, bounds=optimize.Bounds(0, 1)
    )
    return None if solved.x is None else solved.x > 0.5
