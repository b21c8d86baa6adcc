"""Which teachers of a zoo make the panel, and which classes it never hears of."""

from typing import Any, NamedTuple

import numpy as np

from free_jax import keys
from free_jax import zoo as zoo_lib
from free_jax.errors import InputError


class PanelChoice(NamedTuple):
    """Who is asked.

    Attributes:
      asked: [T'] increasing indices over the teachers of all groups.
      held_out: [H] class ids that no asked teacher knows; episodes of images of these
        classes, recovered from the other teachers, stand for unseen classes.
    """

    asked: np.ndarray
    held_out: np.ndarray


def choose(config: Any, zoo: zoo_lib.Zoo) -> PanelChoice:
    """The panel of ``config.panel``.

    Raises:
      InputError: too few classes are held out for an episode, or no teacher remains.
    """
    classes = np.concatenate([np.asarray(t.class_ids) for t in zoo.teachers])
    count, wanted = config.panel.teachers, config.panel.held_out_classes
    asked = np.arange(len(classes))
    if count:
        asked = zoo_lib.first_of_each_group(zoo, count)
    if not wanted:
        return PanelChoice(asked, np.zeros(0, np.int32))
    known = np.unique(classes)
    if not config.way <= wanted <= len(known) - config.way:
        raise InputError(
            f"config.panel.held_out_classes={wanted}: an episode takes {config.way} of "
            f"them and a teacher as many of the others, so it must be between "
            f"{config.way} and {len(known) - config.way}; 0 holds none out"
        )
    rng = keys.named_rng(config.seed, "held-out classes")
    held_out = rng.permutation(known)[:wanted]
    asked = asked[~np.isin(classes[asked], held_out).any(1)]
    if not asked.size:
        raise InputError(
            f"config.panel.held_out_classes={wanted}: every teacher knows one of them; "
            "hold out fewer"
        )
    return PanelChoice(asked, np.sort(held_out).astype(np.int32))
