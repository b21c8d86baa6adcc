"""Runs many methods on the same zoo and episodes, and puts them into one table.

A cell is one method and one seed: a config file with overrides, run by the very
function that runs it alone, in a working directory of its own below
``<workdir>/cells``.  A cell that fails says so in the table and the others go on.
"""

import functools
import os
import pathlib
import shlex
import time
import traceback
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax

from experiments import inputs, train
from experiments.evaluation import comparison_report, run_page
from experiments.harness import hosts, stopping
from experiments.harness.command_line import Given
from experiments.harness.progress import Progress
from experiments.harness.run import Run
from experiments.inputs import command_line, contents
from experiments.methods import checks, dry, identity, runs
from experiments.methods.options import Comparison
from experiments.stages import pretrain, teachers
from free_jax.errors import InputError
from free_jax.zoo import Zoo

# What may differ between the runs that share a working directory: more methods and
# seeds, and whatever cells may change.
MAY_CHANGE = ("choose", "methods", "seeds", *identity.MAY_CHANGE)

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


def main(config: Given, workdir: str) -> dict[str, Any]:
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
    names, zoo = _chosen(settings), settings.zoo
    _check_images(settings)
    with runs.opened(settings, workdir, **_identity(config, settings)) as run:
        planned = None
        if zoo.pretrain.num_teachers and not pretrain.is_trained(run):
            planned = _planned(settings, run)
            _tell(_refused(config, names, planned, run))
        try:
            with teachers.opened(
                # Cells attack it themselves.
                zoo._replace(attack=zoo.attack._replace(share=0.0)),
                run,
                data=settings.data,
                dtype=settings.dtype,
                checkpoint=settings.checkpoint,
            ) as loaded:
                assert loaded is not None
                if planned is None:
                    _tell(_refused(config, names, loaded, run))
                # Bad data would fail every cell: better at once.
                _images(settings, loaded)
        except stopping.Stopped as stopped:
            return {"stopped_at": stopped.step}
        zoo_path = zoo.path
        if zoo.pretrain.num_teachers:
            zoo_path = str(pathlib.Path(workdir) / "zoo")
        cells = [
            Cell(name, seed, pathlib.Path(workdir) / "cells" / name / f"seed{seed}")
            for seed in settings.seeds
            for name in names
        ]
        outcomes: dict[Cell, dict[str, Any]] = {}
        write = functools.partial(
            comparison_report.write, run, _title(settings), shots=settings.eval.shots
        )
        with Progress(len(cells), label="cells", at_once=False) as progress:
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
                progress.update(number + 1)
                # Programs of one cell are of no use to the next and add up.
                jax.clear_caches()
        record = write(outcomes, final=True)
        if hosts.is_writer():
            run_page.write(workdir)
        run_page.say_where(workdir)
        return record


def check(config: Given, workdir: str) -> dry.Findings:
    """Looks at what all cells need, as `main` does; nothing is computed or written.

    Raises:
      InputError: what `main` would refuse, or would report as a cell's failure.
    """
    settings: Comparison = checks.validate(config)
    names, zoo = _chosen(settings), settings.zoo
    _check_images(settings)
    run, state = runs.looked_at(settings, workdir, **_identity(config, settings))
    found = [
        ("workdir", f"{workdir}: {state}"),
        *dry.images(settings.data, _splits(settings)),
    ]
    with teachers.looked_at(
        zoo, run, data=settings.data, dtype=settings.dtype
    ) as loaded:
        assert loaded is not None
        found += dry.teachers(zoo, loaded)
        for name, problem in _refused(config, names, loaded, run).items():
            raise InputError(f"{name}: {problem}")
    found += [(name, "fits these teachers and images") for name in names]
    return [*found, ("not tried", dry.not_tried(zoo))]


def _identity(config: Given, settings: Comparison) -> dict[str, Any]:
    """By what a comparison is known in its working directory."""
    # Cells may learn from any split, or select by it.
    data = contents.of_data(settings.data, _splits(settings))
    found = {"data": data}
    if data.parts:
        found["data"] = data._replace(needed=tuple(data.parts))
    if teachers.is_given(settings.zoo):
        found["zoo"] = contents.of_teachers()
    return {"identity": config, "may_change": MAY_CHANGE, "contents": found}


def _splits(config: Comparison) -> tuple[str, ...]:
    return (config.eval.split,) if inputs.has_images(config.data) else ()


def _largest(config: Comparison) -> int:
    return max(config.eval.shots) + config.eval.queries


def _check_images(config: Comparison) -> None:
    """Refuses a split without images, or too few, before anything is computed."""
    if not inputs.has_images(config.data):
        raise InputError(
            "config.data.path is empty: a comparison is measured on real images, and "
            "makes nothing else"
        )
    inputs.check_evaluation(
        config.data,
        config.eval.split,
        way=config.way,
        images_per_class=_largest(config),
    )


def _images(config: Comparison, zoo: Zoo) -> None:
    """Reads the images that all cells are measured on."""
    inputs.evaluation_bank(
        config.data,
        config.eval.split,
        way=config.way,
        images_per_class=_largest(config),
        zoo=zoo,
    )


def _planned(config: Comparison, run: Run) -> Zoo:
    """The teachers that will be trained, with zeros for weights."""
    recipe = config.zoo.pretrain
    return pretrain.untrained(recipe, run, data=config.data, dtype=config.dtype)


def _refused(
    config: Given, names: Sequence[str], zoo: Zoo, run: Run
) -> dict[str, InputError]:
    """The methods whose cells would be refused, and why."""
    found: dict[str, InputError] = {}
    for name in names:
        cell = Cell(name, 0, pathlib.Path(run.workdir) / "cells" / name / "seed0")
        try:
            train.check_method(cell_config(config, cell, "teachers"), zoo, run)
        except InputError as error:
            found[name] = error
    return found


def _tell(refused: dict[str, InputError]) -> None:
    for name, problem in refused.items():
        print(f"{name} will fail: {problem}", flush=True)


def _title(config: Comparison) -> str:
    name = config.data.name or os.path.basename(config.data.path.rstrip("/"))
    budget = f"{config.max_seconds:g} s a cell" if config.max_seconds else "full length"
    return (
        f"{name}, {config.eval.split} classes, {config.way}-way, "
        f"{config.eval.queries} queries, {config.eval.episodes} episodes a seed, 95 % "
        f"intervals, seeds {', '.join(map(str, config.seeds))}, budget: {budget}"
    )


def _run(config: Given, cell: Cell, zoo_path: str) -> dict[str, Any]:
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


def cell_config(given: Given, cell: Cell, zoo_path: str) -> Given:
    """A method's own config, on the comparison's data, zoo, episodes and budget.

    Raises:
      InputError: a config file or key that does not exist.
    """
    config: Any = given
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
    own.cluster = config.cluster
    own.checkpoint = config.checkpoint
    own.zoo.pretrain.num_teachers = 0
    # Where real images are learned from nothing else may be known.
    own.zoo.path = "" if own.algorithm == "episodic" else zoo_path
    own.zoo.num_teachers = config.zoo.num_teachers
    own.zoo.choose = config.zoo.choose
    own.zoo.attack = config.zoo.attack
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
