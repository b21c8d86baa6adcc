"""Command lines of our configs, which accept the names that keys had before."""

from collections.abc import Sequence
from typing import Any

from experiments.harness import command_line
from experiments.harness.command_line import REPOSITORY, Command, load_config
from experiments.inputs import former_keys

__all__ = ["REPOSITORY", "Command", "load_config", "parse"]


def parse(argv: Sequence[str]) -> Command:
    """See `harness.command_line.parse`.

    Teachers that are named take the place of those that a config would train.
    """
    command = command_line.parse(argv, former_keys.NAMES)
    config: Any = command.config
    trained = "zoo.pretrain.num_teachers"
    if "zoo" in config and config.zoo.get("path"):
        if _says(argv, "zoo.path") and not _says(argv, trained):
            config.zoo.pretrain.num_teachers = 0
    return command


def _says(argv: Sequence[str], key: str) -> bool:
    flags = (f"--config.{key}", f"-config.{key}")
    return any(item.split("=")[0] in flags for item in argv)
