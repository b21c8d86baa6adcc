"""Meta-learning on tasks that were recovered beforehand, from a config.

The field's "pre-inverted memory": every teacher is inverted once, by any back-end, and
a learner (MAML, ANIL or ProtoNet) is trained on episodes of the recovered images.
"""

from typing import Any

import numpy as np

from experiments.harness.method import Meters, Method
from experiments.harness.run import Run
from experiments.methods import base, episodic
from experiments.stages import recover
from free_jax import zoo as zoo_lib
from free_jax.errors import InputError


def limits(config: Any) -> tuple[base.Choices, base.Positive]:
    """What the config may hold."""
    choices, positive = base.recover_limits(config.recover)
    if config.recover.scenes:
        raise InputError(
            f"config.recover.scenes={config.recover.scenes}: scenes have no class and "
            "make no episodes; set it to 0"
        )
    labels = config.replay.labels
    choices["replay.labels"] = (labels, ("owner", "panel"))
    return choices, positive | episodic.limits(config)[1]


def build(config: Any, zoo: zoo_lib.Zoo, run: Run) -> Method:
    """See `methods.build`."""
    parts = episodic.learning(config, run)
    _check_classes(config, zoo)
    # Last: it takes minutes.
    bank = recover.pre_inverted(config, zoo, run)
    return Method(
        title=base.title(config, zoo),
        **parts,
        data=bank,
        recovered=lambda state: bank,
        meters=Meters(
            status={"replay_accuracy": "replay acc"},
            images_before=base.images_recovered(config, zoo),
        ),
    )


def _check_classes(config: Any, zoo: zoo_lib.Zoo) -> None:
    """Refuses to recover for minutes what makes no episodes."""
    needed = config.replay.shots + config.replay.queries
    counts = config.recover.images_per_class * np.bincount(zoo.class_ids)
    if (counts >= needed).sum() < config.way:
        raise InputError(
            f"config.replay needs {needed} images a class (shots + queries) but "
            f"recover.images_per_class={config.recover.images_per_class} recovers at "
            f"most {counts.max()}; ask for more images or fewer queries"
        )
