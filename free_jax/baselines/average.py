"""The mean of all teachers' weights, and random weights, as initialisations.

The plainest ways to fill the meta-model without training it.  Outputs of the teachers'
heads mean other classes in each and are averaged all the same, as the literature's
baseline "Average" does.
"""

from typing import Any

import jax
import numpy as np

from free_jax import keys
from free_jax import rows as rows_lib
from free_jax.baselines import setting as setting_lib
from free_jax.baselines.setting import NotApplicable, Scores, Setting
from free_jax.types import PyTree
from free_jax.zoo.network import Network
from free_jax.zoo.pool import Zoo


def scores_of_random_weights(setting: Setting) -> Scores:
    """The meta-model with random weights, adapted to each episode."""
    key = keys.named(setting.key, "random initialisation")
    learner = setting_lib.learner(setting)
    params = setting.programs.once("random", lambda: learner.init(key))
    return setting_lib.adapted(setting, params)


def scores(setting: Setting) -> Scores:
    """The meta-model with the teachers' mean weights, adapted to each episode."""
    zoo = setting_lib.teachers(setting)
    params = setting.programs.once(
        "average", lambda: average_params(setting.student, zoo)
    )
    return setting_lib.adapted(setting, params)


def average_params(student: Network | None, zoo: Zoo) -> PyTree:
    """Mean of the teachers' parameters.

    Raises:
      NotApplicable: a teacher is another network than `student`.
    """
    return jax.tree.map(rows_lib.mean, stacked(student, zoo, "averaged"))


def stacked(student: Network | None, zoo: Zoo, what: str) -> PyTree:
    """Parameters of all teachers, leaves [T, ...], on the host or in files.

    Args:
      student: the network that all of them have to be.
      zoo: teachers of all groups.
      what: is to be done with them, for the message: "averaged".

    Raises:
      NotApplicable: a teacher is another network.
    """
    if student is None:
        raise NotApplicable(f"there is no network whose weights could be {what}")
    others = [network.name for network in zoo.networks if network != student]
    if others:
        raise NotApplicable(
            f"weights of {', '.join(others)} and {student.name} cannot be {what}"
        )
    stacks = [teachers.variables["params"] for teachers in zoo.teachers]

    def joined(*leaves: Any) -> Any:
        some = [x if rows_lib.in_files(x) else np.asarray(x) for x in leaves]
        return rows_lib.joined(some)

    return jax.tree.map(joined, *stacks)
