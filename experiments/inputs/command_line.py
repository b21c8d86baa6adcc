"""Command lines of our configs, which accept the names that keys had before."""

from collections.abc import Sequence

from experiments.harness import command_line
from experiments.harness.command_line import REPOSITORY, Command, load_config
from experiments.inputs import former_keys

__all__ = ["REPOSITORY", "Command", "load_config", "parse"]


def parse(argv: Sequence[str]) -> Command:
    """See `harness.command_line.parse`."""
    return command_line.parse(argv, former_keys.NAMES)
