"""The ensemble's members: teachers that are asked, and those held out to judge."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from free_jax import zoo as zoo_lib
from free_jax.errors import InputError
from free_jax.panel.options import PanelOptions


class PanelChoice(NamedTuple):
    """Which teachers are asked.

    Attributes:
      asked: [T'] increasing rows over the teachers of all groups.
      held_out: [H] class ids that no asked teacher knows.
      judges: [J] increasing rows of teachers that are asked to judge by, see
        `held_out_tasks`.
    """

    asked: np.ndarray
    held_out: np.ndarray
    judges: np.ndarray = np.zeros(0, int)

    @property
    def everyone(self) -> Int[np.ndarray, " t"]:
        """Rows of all who are asked, increasing."""
        return np.sort(np.concatenate([self.asked, self.judges])).astype(int)


def choose(
    rng: np.random.Generator,
    zoo: zoo_lib.Zoo,
    options: PanelOptions,
    *,
    way: int | None = None,
) -> PanelChoice:
    """Which teachers make the panel, and which classes it never hears of.

    Args:
      rng: draws the held-out classes.
      zoo: all teachers.
      options: `teachers`, `held_out_classes` and `held_out_teachers` are read.
      way: classes of an episode; None: the zoo's, and two for held-out teachers.

    Raises:
      InputError: too few classes are held out for an episode, or no teacher remains.
    """
    wanted = options.held_out_classes
    asked = np.arange(zoo.num_teachers)
    if options.teachers:
        asked = zoo_lib.first_of_each_group(zoo, options.teachers)
    if not wanted:
        choice = PanelChoice(asked, np.zeros(0, np.int32))
        return _with_judges(rng, zoo, options, choice, way)
    way = zoo.way if way is None else way
    classes, columns = zoo.class_ids, zoo.columns
    known = np.unique(classes)
    if not way <= wanted <= len(known) - way:
        raise InputError(
            f"held_out_classes={wanted}: an episode takes {way} of them and a teacher "
            f"as many of the others, so it must be between {way} and "
            f"{len(known) - way}; 0 holds none out"
        )
    held_out = rng.permutation(known)[:wanted]
    knows = np.isin(classes, held_out)
    asked = asked[[not knows[columns[t] : columns[t + 1]].any() for t in asked]]
    if not asked.size:
        raise InputError(
            f"held_out_classes={wanted}: every teacher knows one of them; hold out "
            "fewer"
        )
    choice = PanelChoice(asked, np.sort(held_out).astype(np.int32))
    return _with_judges(rng, zoo, options, choice, way)


def _with_judges(
    rng: np.random.Generator,
    zoo: zoo_lib.Zoo,
    options: PanelOptions,
    choice: PanelChoice,
    way: int | None,
) -> PanelChoice:
    """The choice with some of its teachers held out to judge by, where asked for.

    Raises:
      InputError: too few know enough classes, or none would be left to distil from.
    """
    wanted = options.held_out_teachers
    if not wanted:
        return choice
    asked, widths = choice.asked, np.diff(zoo.columns)
    way = 2 if way is None else way
    judges = draw_judges(rng, asked, widths[asked], wanted, way)
    if len(judges) < wanted or len(judges) == len(asked):
        raise InputError(
            f"held_out_teachers={wanted}: {len(judges)} of {len(asked)} teachers know "
            f"the {way} classes of a task, and one at least must be left to distil "
            "from; hold out fewer"
        )
    rest = np.setdiff1d(asked, judges)
    return choice._replace(asked=rest, judges=judges)


def draw_judges(
    rng: np.random.Generator,
    candidates: Int[np.ndarray, " t"],
    widths: Int[np.ndarray, " t"],
    count: int,
    way: int,
) -> Int[np.ndarray, " j"]:
    """Which teachers are held out as judges: of enough classes for a task.

    Args:
      rng: draws them.
      candidates: rows of the teachers to draw from.
      widths: numbers of classes of these.
      count: how many.
      way: classes of a task.

    Returns:
      Increasing rows; fewer than `count` where too few know enough classes.
    """
    able = candidates[widths >= way]
    return np.sort(rng.permutation(able)[:count])
