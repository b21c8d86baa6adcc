"""The inversion of section ``recover``."""

from typing import Any

from experiments.harness import sections
from free_jax import inversion
from free_jax.errors import InputError
from free_jax.zoo.network import Network


def inverter(
    config: Any, arch: Network, student: Network | None = None
) -> inversion.Inverter:
    """The configured inversion for the teachers of one network.

    Args:
      config: of the run.
      arch: of the teachers.
      student: of the adversary that ``invert`` will be given, or None.

    Raises:
      InputError: an option that does not fit the others or the network.
    """
    where = "config.recover.inversion"
    recipe = sections.read(inversion.Recipe, config.recover.inversion, where)
    try:
        return inversion.build(recipe, arch, student)
    except ValueError as error:
        raise InputError(f"{where}: {error}") from None
