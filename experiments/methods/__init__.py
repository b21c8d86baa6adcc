"""Values of ``config.algorithm``: a file each, with ``limits`` and ``build``."""

from collections.abc import Callable
from typing import Any

from experiments import inputs
from experiments.methods import (
    baselines,
    bidf,
    episodic,
    free,
    panel,
    preinverted,
    purer,
)
from experiments.methods.base import Choices, Experiment, Positive
from free_jax import zoo as zoo_lib
from free_jax.errors import InputError

ALGORITHMS = {
    "free": free,
    "episodic": episodic,
    "panel": panel,
    "bidf": bidf,
    "purer": purer,
    "preinverted": preinverted,
    "yardsticks": baselines,
}
__all__ = ["ALGORITHMS", "Choices", "Experiment", "Positive", "experiment"]


def experiment(
    config: Any, zoo: zoo_lib.Zoo | None, map_tasks: Callable, prepare: Callable
) -> Experiment:
    """Builds what ``config.algorithm`` names.

    Args:
      config: of the run.
      zoo: teachers, or None.
      map_tasks: how tasks are spread.
      prepare: ``(stage of `preparing`, *arguments) -> its result``: recovers images,
        asks teachers; it takes minutes, writes to the working directory, and may stop.
    """
    if config.algorithm != "episodic" and zoo is None:
        raise InputError(f"config.zoo.path is empty: {inputs.HOW_TO_GIVE_TEACHERS}")
    return ALGORITHMS[config.algorithm].build(config, zoo, map_tasks, prepare)
