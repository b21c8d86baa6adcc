"""Cells of a comparison: a method, a zoo and a seed each, run as by itself."""

import pathlib
import shlex
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from experiments import methods
from experiments.harness.command_line import Given
from experiments.inputs import command_line
from experiments.methods.options import UNENDED
from free_jax.errors import InputError

# Keys of a cell's evaluation that the comparison decides.
SHARED = ("shots", "queries", "split", "episodes", "temperature", "also")

CONFIGS = command_line.REPOSITORY / "experiments" / "configs"


class Cell(NamedTuple):
    """One method, zoo and seed.

    Attributes:
      method: a name in ``config.methods``.
      seed: of the run; it decides the episodes as well.
      workdir: of the run.
      zoo: a name in ``config.zoos``; "": the comparison has one zoo.
    """

    method: str
    seed: int
    workdir: pathlib.Path
    zoo: str = ""

    @property
    def name(self) -> str:
        """What the rows of all seeds are called."""
        return f"{self.zoo}_{self.method}" if self.zoo else self.method


def chosen(
    folder: pathlib.Path,
    names: Sequence[str],
    *,
    methods: Sequence[str],
    zoos: Sequence[str],
    seeds: Sequence[int],
) -> tuple[Cell, ...]:
    """All cells: seed by seed, and of each method those of all zoos.

    Args:
      folder: of the comparison.
      names: of methods, or of single cells, "zoo_method"; none are all methods.
      methods: their names.
      zoos: their names.
      seeds: of the runs.

    Raises:
      InputError: a name stands for no cell.
    """
    grid = [Cell(method, 0, folder, zoo) for method in methods for zoo in zoos]
    wanted = names or methods
    known = {cell.name for cell in grid} | set(methods)
    if unknown := [name for name in wanted if name not in known]:
        raise InputError(
            f"config.choose: unknown {', '.join(unknown)}; choose from "
            f"{', '.join(dict.fromkeys([*methods, *(cell.name for cell in grid)]))}"
        )
    found = [c for name in wanted for c in grid if name in (c.method, c.name)]
    return tuple(
        cell._replace(seed=seed, workdir=folder / "cells" / cell.name / f"seed{seed}")
        for seed in seeds
        for cell in dict.fromkeys(found)
    )


def given_zoos(zoos: Mapping[str, str]) -> dict[str, str]:
    """Paths of the zoos that are given, by name; one without a name where none is."""
    return {name: path for name, path in zoos.items() if path} or {"": ""}


def config_of(given: Given, cell: Cell, zoo_path: str) -> Given:
    """A method's own config, on the comparison's data, zoo, episodes and budget.

    Raises:
      InputError: a config file or key that does not exist, or time is to end a cell
        that has no budget.
    """
    config: Any = given
    file, *overrides = shlex.split(config.methods[cell.method])
    name = file.partition(":")[0]
    if not (CONFIGS / name).is_file():
        raise InputError(f"not available: there is no experiments/configs/{name}")
    own: Any = command_line.parse(
        ["compare", f"--config={CONFIGS / file}", *overrides]
    ).config
    if own.get("num_steps", 0) >= UNENDED and not config.max_seconds:
        raise InputError(
            f"config.max_seconds=0: it is time that ends {cell.method}; set it, or "
            "choose the variant without a budget"
        )
    own.seed, own.way = cell.seed, config.way
    own.data, own.mesh, own.dtype = config.data, config.mesh, config.dtype
    own.host_devices, own.max_seconds = config.host_devices, config.max_seconds
    own.cluster = config.cluster
    own.checkpoint = config.checkpoint
    own.zoo.pretrain.num_teachers = 0
    # Where real images are learned from nothing else may be known.
    own.zoo.path = zoo_path if methods.takes_teachers(own.algorithm) else ""
    own.zoo.num_teachers = config.zoo.num_teachers
    own.zoo.choose = config.zoo.choose
    own.zoo.attack = config.zoo.attack
    for key in SHARED:
        own.eval[key] = config.eval[key]
    if "num_steps" in own:  # What trains nothing is its baselines.
        own.eval.baselines = ()
    return own
