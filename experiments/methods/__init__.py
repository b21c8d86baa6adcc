"""Values of ``config.algorithm``: a file each, with ``limits`` and ``build``."""

from typing import Any

from experiments import inputs
from experiments.harness.method import Method
from experiments.harness.run import Run
from experiments.methods import (
    baselines,
    bidf,
    episodic,
    free,
    panel,
    preinverted,
    purer,
)
from experiments.methods.base import Choices, Positive
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
__all__ = ["ALGORITHMS", "Choices", "Method", "Positive", "build"]


def build(config: Any, zoo: zoo_lib.Zoo | None, run: Run) -> Method:
    """Builds what ``config.algorithm`` names.

    Args:
      config: of the run.
      zoo: teachers, or None.
      run: some methods recover images and ask teachers before their first step: it
        takes minutes, is kept in the working directory, and may stop.

    Raises:
      InputError: options that contradict each other or the teachers.
      Stopped: stop was requested; what is finished is kept.
    """
    if config.algorithm != "episodic" and zoo is None:
        raise InputError(f"config.zoo.path is empty: {inputs.HOW_TO_GIVE_TEACHERS}")
    return ALGORITHMS[config.algorithm].build(config, zoo, run)
