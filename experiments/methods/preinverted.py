"""Meta-learning on tasks that were recovered beforehand, from a config.

The field's "pre-inverted memory": every teacher is inverted once, by any back-end, and
a learner (MAML, ANIL or ProtoNet) is trained on episodes of the recovered images.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from experiments.methods import base, episodic
from experiments.stages import prepare as prepare_lib
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


def build(
    config: Any, zoo: zoo_lib.Zoo, map_tasks: Callable, prepare: Callable
) -> base.Experiment:
    """See `algorithms.experiment`."""
    parts = episodic.learning(config, map_tasks)
    _check_classes(config, zoo)
    bank = prepare(prepare_lib.pre_inverted, zoo)  # Last: it takes minutes.
    return base.Experiment(
        **parts,
        data=bank,
        status={"replay_accuracy": "replay acc"},
        memory_of=lambda state: bank,
        zoo=zoo,
        images_before=base.images_recovered(config, zoo),
    )


def _check_classes(config: Any, zoo: zoo_lib.Zoo) -> None:
    """Refuses to recover for minutes what makes no episodes."""
    needed = config.replay.shots + config.replay.queries
    ids = np.concatenate([np.asarray(t.class_ids).reshape(-1) for t in zoo.teachers])
    counts = config.recover.images_per_class * np.bincount(ids)
    if (counts >= needed).sum() < config.way:
        raise InputError(
            f"config.replay needs {needed} images a class (shots + queries) but "
            f"recover.images_per_class={config.recover.images_per_class} recovers at "
            f"most {counts.max()}; ask for more images or fewer queries"
        )
