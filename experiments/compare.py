"""Runs many methods on the same zoos and episodes, and puts them into one table.

A cell is one method, zoo and seed: a config file with overrides, run by the very
function that runs it alone, in a working directory of its own below
``<workdir>/cells``.  A cell that fails says so in the table and the others go on.
"""

import contextlib
import functools
import os
import pathlib
import time
import traceback
from collections.abc import Iterator, Sequence
from typing import Any

import jax

from experiments import inputs, train
from experiments.evaluation import comparison_report, run_page
from experiments.harness import hosts, stopping
from experiments.harness.command_line import Given
from experiments.harness.progress import Progress
from experiments.harness.run import Run
from experiments.inputs import contents, further
from experiments.methods import cells, checks, dry, identity, measuring, runs
from experiments.methods.cells import Cell
from experiments.methods.options import Comparison
from experiments.stages import pretrain, teachers
from free_jax.errors import InputError
from free_jax.zoo import Zoo

# What may differ between the runs that share a working directory: more methods, zoos
# and seeds, and whatever cells may change.
MAY_CHANGE = ("choose", "methods", "seeds", "zoos", *identity.MAY_CHANGE)


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
    todo = _chosen(settings, workdir)
    _check_images(settings)
    with runs.opened(settings, workdir, **_identity(config, settings)) as run:
        try:
            zoos = _checked(config, settings, todo, run)
        except stopping.Stopped as stopped:
            return {"stopped_at": stopped.step}
        outcomes: dict[Cell, dict[str, Any]] = {}
        write = functools.partial(
            comparison_report.write,
            run,
            _title(settings),
            shots=settings.eval.shots,
            places=_places(settings),
        )
        with Progress(len(todo), label="cells", at_once=False) as progress:
            for number, cell in enumerate(todo):
                if run.stop.requested:
                    return {"stopped_at": number}
                print(
                    f"\n[{number + 1}/{len(todo)}] {cell.name}, seed {cell.seed}",
                    flush=True,
                )
                outcome = _run(config, cell, zoos[cell.zoo])
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
    todo, zoo = _chosen(settings, workdir), settings.zoo
    _check_images(settings)
    run, state = runs.looked_at(settings, workdir, **_identity(config, settings))
    found = [
        ("workdir", f"{workdir}: {state}"),
        *dry.images(settings.data, _splits(settings)),
        *dry.further(measuring.folders(settings)),
    ]
    for title, path in cells.given_zoos(settings.zoos).items():
        with _looked_at(settings, run, path) as loaded:
            found += dry.teachers(zoo, loaded)
            these = _of_zoo(todo, title)
            for name, problem in _refused(config, these, loaded, run).items():
                raise InputError(f"{name}: {problem}")
            fits = "fits these teachers and images"
            found += [(name, fits) for name in dict.fromkeys(c.name for c in these)]
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
    found |= further.contents(settings.eval.also, settings.eval.split)
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
    measuring.folders(config)


def _places(config: Comparison) -> tuple[str, ...]:
    """What the images are called that all cells are measured on, the data's first."""
    return (_data(config), *further.parse(config.eval.also, config.eval.split))


def _data(config: Comparison) -> str:
    return config.data.name or os.path.basename(config.data.path.rstrip("/"))


def _images(config: Comparison, zoo: Zoo) -> None:
    """Reads the images that all cells are measured on."""
    inputs.evaluation_bank(
        config.data,
        config.eval.split,
        way=config.way,
        images_per_class=_largest(config),
        zoo=zoo,
    )


def _checked(
    config: Given, settings: Comparison, todo: Sequence[Cell], run: Run
) -> dict[str, str]:
    """Paths of the zoos, by name, after all that can be told before the first cell.

    Raises:
      Stopped: while teachers were trained.
      InputError: there is a zoo, or data, that every cell would fail by.
    """
    zoos, recipe = cells.given_zoos(settings.zoos), settings.zoo.pretrain
    trained = bool(recipe.num_teachers) and "" in zoos
    # What cannot be made of these teachers is told before they are trained.
    ahead = trained and not pretrain.is_trained(run)
    if ahead:
        data, dtype = settings.data, settings.dtype
        planned = pretrain.untrained(recipe, run, data=data, dtype=dtype)
        _tell(_refused(config, todo, planned, run))
    for title, path in zoos.items():
        with _opened(settings, run, path) as loaded:
            if not ahead:
                _tell(_refused(config, _of_zoo(todo, title), loaded, run))
            # Bad data would fail every cell: better at once.
            _images(settings, loaded)
    if "" not in zoos:
        return zoos
    return {"": str(run.path("zoo")) if trained else settings.zoo.path}


@contextlib.contextmanager
def _opened(settings: Comparison, run: Run, path: str) -> Iterator[Zoo]:
    """The zoo of a path, or the comparison's own where that is empty."""
    # Cells attack it themselves.
    zoo = settings.zoo._replace(attack=settings.zoo.attack._replace(share=0.0))
    if path:  # Cells know it by its content.
        yield inputs.load_zoo(zoo._replace(path=path), settings.data)
        return
    with teachers.opened(
        zoo,
        run,
        data=settings.data,
        dtype=settings.dtype,
        checkpoint=settings.checkpoint,
    ) as loaded:
        assert loaded is not None
        yield loaded


@contextlib.contextmanager
def _looked_at(settings: Comparison, run: Run, path: str) -> Iterator[Zoo]:
    """As `_opened`; nothing is trained."""
    if path:
        yield inputs.load_zoo(settings.zoo._replace(path=path), settings.data)
        return
    with teachers.looked_at(
        settings.zoo, run, data=settings.data, dtype=settings.dtype
    ) as loaded:
        assert loaded is not None
        yield loaded


def _of_zoo(todo: Sequence[Cell], zoo: str) -> tuple[Cell, ...]:
    return tuple(cell for cell in todo if cell.zoo == zoo)


def _refused(
    config: Given, todo: Sequence[Cell], zoo: Zoo, run: Run
) -> dict[str, InputError]:
    """Names of the cells that would be refused, and why."""
    found: dict[str, InputError] = {}
    # One of each method: seeds do not differ in what is refused.
    for cell in {cell.name: cell for cell in reversed(todo)}.values():
        try:
            train.check_method(cells.config_of(config, cell, "teachers"), zoo, run)
        except InputError as error:
            found[cell.name] = error
    return found


def _tell(refused: dict[str, InputError]) -> None:
    for name, problem in refused.items():
        print(f"{name} will fail: {problem}", flush=True)


def _title(config: Comparison) -> str:
    budget = f"{config.max_seconds:g} s a cell" if config.max_seconds else "full length"
    return (
        f"{', '.join(_places(config))}, {config.eval.split} classes, {config.way}-way, "
        f"{config.eval.queries} queries, {config.eval.episodes} episodes a seed, 95 % "
        f"intervals, seeds {', '.join(map(str, config.seeds))}, budget: {budget}"
    )


def _run(config: Given, cell: Cell, zoo_path: str) -> dict[str, Any]:
    """The cell's result, ``{"stopped_at": ...}``, or ``{"error": one line}``."""
    clock = time.monotonic()
    log = cell.workdir / "error.txt"
    try:
        result = train.main(cells.config_of(config, cell, zoo_path), str(cell.workdir))
    # A method's failure, whatever it is, must not take the others down.
    except Exception as error:
        kind = "" if isinstance(error, InputError) else f"{type(error).__name__}: "
        line = kind + (str(error).splitlines() or [""])[0]
        cell.workdir.mkdir(parents=True, exist_ok=True)
        log.write_text(traceback.format_exc())
        print(f"{cell.name} failed: {line} (see {log})", flush=True)
        return {"error": line, "seconds": time.monotonic() - clock}
    log.unlink(missing_ok=True)
    return result


def _chosen(config: Comparison, workdir: str) -> tuple[Cell, ...]:
    """The chosen cells."""
    if not config.seeds:
        raise InputError("config.seeds is empty: give at least one, as (0,)")
    if min(config.seeds) < 0:
        raise InputError(f"config.seeds={config.seeds}: must not be negative")
    given = config.zoo.path or config.zoo.pretrain.num_teachers
    if not given and not any(config.zoos.values()):
        raise InputError(f"config.zoo.path is empty: {inputs.HOW_TO_GIVE_TEACHERS}")
    return cells.chosen(
        pathlib.Path(workdir),
        config.choose,
        methods=tuple(config.methods),
        zoos=tuple(cells.given_zoos(config.zoos)),
        seeds=config.seeds,
    )
