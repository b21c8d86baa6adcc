"""Runs many methods on the same zoo and episodes, and puts them into one table.

A cell is one method and one seed: a config file with overrides, run by the very
function that runs it alone, in a working directory of its own below
``<workdir>/cells``.  A cell that fails says so in the table and the others go on.
"""

import functools
import pathlib
import shlex
import time
import traceback
from typing import Any, NamedTuple

import jax

from experiments import inputs, train
from experiments.evaluation import comparison_report
from experiments.harness import stopping
from experiments.inputs import command_line
from experiments.methods import checks, runs
from experiments.methods.options import Comparison
from experiments.stages import pretrain
from free_jax.errors import InputError

# What may differ between the runs that share a working directory: more methods and
# seeds, and whatever cells may change.
MAY_CHANGE = ("choose", "methods", "seeds", *train.MAY_CHANGE)

# Keys of a cell's evaluation that the comparison decides.
SHARED = ("shots", "queries", "split", "episodes", "temperature")

CONFIGS = command_line.REPOSITORY / "experiments" / "configs"


class Cell(NamedTuple):
    """One method and seed.

    Attributes:
      method: a name in ``config.methods``.
      seed: of the run; it decides the episodes as well.
      workdir: of the run.
    """

    method: str
    seed: int
    workdir: pathlib.Path


def main(config: Any, workdir: str) -> dict[str, Any]:
    """Runs all cells that are not finished and writes tables and plots.

    Args:
      config: see `experiments/configs/compare_cifar_fs.py`.
      workdir: the same call continues a stopped comparison.

    Returns:
      The contents of ``result.json``, or ``{"stopped_at": number of cells done}``.

    Raises:
      InputError: the comparison itself is asked for something impossible; what is
        wrong with one method only is reported in its cell.
    """
    settings: Comparison = checks.validate(config)
    names, zoo, options = _chosen(settings), settings.zoo, settings.eval
    with runs.opened(settings, workdir, identity=config, may_change=MAY_CHANGE) as run:
        # Bad data or teachers would fail every cell: better at once.
        largest = max(options.shots) + options.queries
        inputs.evaluation_bank(
            settings.data, options.split, way=settings.way, images_per_class=largest
        )
        zoo_path = zoo.path
        if zoo.pretrain.num_teachers:
            try:
                pretrain.train_zoo(
                    zoo.pretrain,
                    run,
                    data=settings.data,
                    dtype=settings.dtype,
                    checkpoint=settings.checkpoint,
                )
            except stopping.Stopped as stopped:
                return {"stopped_at": stopped.step}
            zoo_path = str(pathlib.Path(workdir) / "zoo")
        else:
            inputs.load_zoo(zoo, settings.data)
        cells = [
            Cell(name, seed, pathlib.Path(workdir) / "cells" / name / f"seed{seed}")
            for seed in settings.seeds
            for name in names
        ]
        outcomes: dict[Cell, dict[str, Any]] = {}
        write = functools.partial(
            comparison_report.write, run, _title(settings), shots=options.shots
        )
        for number, cell in enumerate(cells):
            if run.stop.requested:
                return {"stopped_at": number}
            print(
                f"\n[{number + 1}/{len(cells)}] {cell.method}, seed {cell.seed}",
                flush=True,
            )
            outcome = _run(config, cell, zoo_path)
            if "stopped_at" in outcome:
                return {"stopped_at": number}
            outcomes[cell] = outcome
            write(outcomes)
            # Programs of one cell are of no use to the next and add up.
            jax.clear_caches()
        return write(outcomes, final=True)


def _title(config: Comparison) -> str:
    budget = f"{config.max_seconds:g} s a cell" if config.max_seconds else "full length"
    return (
        f"{config.data.name}, {config.eval.split} classes, {config.way}-way, "
        f"{config.eval.queries} queries, {config.eval.episodes} episodes a seed, 95 % "
        f"intervals, seeds {', '.join(map(str, config.seeds))}, budget: {budget}"
    )


def _run(config: Any, cell: Cell, zoo_path: str) -> dict[str, Any]:
    """The cell's result, ``{"stopped_at": ...}``, or ``{"error": one line}``."""
    clock = time.monotonic()
    log = cell.workdir / "error.txt"
    try:
        result = train.main(cell_config(config, cell, zoo_path), str(cell.workdir))
    # A method's failure, whatever it is, must not take the others down.
    except Exception as error:
        kind = "" if isinstance(error, InputError) else f"{type(error).__name__}: "
        line = kind + (str(error).splitlines() or [""])[0]
        cell.workdir.mkdir(parents=True, exist_ok=True)
        log.write_text(traceback.format_exc())
        print(f"{cell.method} failed: {line} (see {log})", flush=True)
        return {"error": line, "seconds": time.monotonic() - clock}
    log.unlink(missing_ok=True)
    return result


def cell_config(config: Any, cell: Cell, zoo_path: str) -> Any:
    """A method's own config, on the comparison's data, zoo, episodes and budget.

    Raises:
      InputError: a config file or key that does not exist.
    """
    file, *overrides = shlex.split(config.methods[cell.method])
    name = file.partition(":")[0]
    if not (CONFIGS / name).is_file():
        raise InputError(f"not available: there is no experiments/configs/{name}")
    own: Any = command_line.parse(
        ["compare", f"--config={CONFIGS / file}", *overrides]
    ).config
    own.seed, own.way = cell.seed, config.way
    own.data, own.mesh, own.dtype = config.data, config.mesh, config.dtype
    own.host_devices, own.max_seconds = config.host_devices, config.max_seconds
    own.checkpoint = config.checkpoint
    own.zoo.pretrain.num_teachers = 0
    # Where real images are learned from nothing else may be known.
    own.zoo.path = "" if own.algorithm == "episodic" else zoo_path
    own.zoo.num_teachers = config.zoo.num_teachers
    own.zoo.sabotage = config.zoo.sabotage
    for key in SHARED:
        own.eval[key] = config.eval[key]
    if own.algorithm != "baselines":
        own.eval.baselines = ()
    return own


def _chosen(config: Comparison) -> tuple[str, ...]:
    """The names of the chosen methods."""
    names = tuple(config.choose) or tuple(config.methods)
    unknown = [name for name in names if name not in config.methods]
    if unknown:
        raise InputError(
            f"config.choose: unknown {', '.join(unknown)}; choose from "
            f"{', '.join(config.methods)}"
        )
    if not config.seeds:
        raise InputError("config.seeds is empty: give at least one, as (0,)")
    if not config.zoo.path and not config.zoo.pretrain.num_teachers:
        raise InputError(f"config.zoo.path is empty: {inputs.HOW_TO_GIVE_TEACHERS}")
    return names
