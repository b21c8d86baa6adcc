"""The end of a run: one evaluation on the test classes, then table, JSON, pictures."""

import functools
import json
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from etils import epath

from experiments import (
    checkpointing,
    hosts,
    jsonio,
    logging_utils,
    pictures,
    yardsticks,
)
from experiments.algorithms import Experiment
from free_jax import model_io, panel
from free_jax.types import ImageBank
from free_jax.zoo import Zoo

COLUMNS = ("method", "shots", "transductive %", "inductive %")

# Values of config.eval.yardsticks and the names in the table.
YARDSTICKS = {
    "random": "random initialisation",
    "average": "teacher average",
    "teacher": "one teacher, centroids",
    "finetune": "one teacher, new head",
    "panel": "panel of all teachers, centroids",
    "panel_heads": "panel of all teachers, ridge / rounds",
}


def read(config: Any, workdir: str) -> dict[str, Any] | None:
    """The result of a run of this very config that is finished already, or None."""
    folder = epath.Path(workdir)
    result = hosts.agreed(
        _stored(folder / logging_utils.RESULT_FILE, jsonio.config_hash(config))
    )
    if result is not None:
        print((folder / "table.md").read_text())
        print(f"{workdir} is finished; use another --workdir or more steps to train on")
    return result


def _stored(file: epath.Path, config_hash: str) -> dict[str, Any] | None:
    """A JSON file that names its config, if it is there and of that config."""
    if not hosts.is_writer() or not file.exists():
        return None
    record = json.loads(file.read_text())
    # With another config, more steps or episodes were asked for since.
    return record if record.get("config_hash") == config_hash else None


def write(
    config: Any,
    workdir: str,
    experiment: Experiment,
    outcome: dict[str, Any],
    setting: yardsticks.Setting,
    stop: checkpointing.StopRequest,
) -> dict[str, Any]:
    """Evaluates once on the test classes and writes everything a reader wants.

    Args:
      config: of the run.
      workdir: run directory.
      experiment: what was trained.
      outcome: ``params`` (the selected ones), ``state``, ``seconds``, ``curve``.
      setting: the episodes, the same for every method; its ``shots`` is replaced.
      stop: polled between methods; what is measured by then is kept.

    Returns:
      The contents of ``result.json``, or ``{"stopped_at": step}``.
    """
    folder = epath.Path(workdir)
    store = _Store(folder / "cells.json", jsonio.config_hash(config))
    rows = []
    for shots, method, evaluate in _cells(config, experiment, outcome, setting):
        if store.get(method, shots) is None:
            if stop.requested:
                return {"stopped_at": config.num_steps}
            store.put(method, shots, evaluate())
        cell = store.get(method, shots) or {}
        row = {"method": method, "shots": shots}
        for name, value in cell.items():
            if name == "skipped":
                row["transductive %"] = f"- ({value})"
            else:
                row[f"{name} %"] = f"{value['mean']:.2f} +- {value['ci95']:.2f}"
        rows.append(row)
        print(f"  tested {method}, {shots}-shot: {row['transductive %']}", flush=True)
    title = (
        f"{config.data.name}, {config.eval.split} classes, {config.way}-way, "
        f"{config.eval.queries} queries, {config.eval.episodes} episodes, "
        f"95 % intervals, seed {config.seed}, model selected by: {config.eval.select}"
    )
    table = logging_utils.print_table(rows, COLUMNS, title=title)
    if hosts.is_writer():
        jsonio.write_text(folder / "table.md", f"{title}\n\n{table}\n")
        model_io.save_model(
            folder / "model.npz",
            experiment.model,
            jax.device_get(outcome["params"]),
            algorithm=config.algorithm,
            learner=jsonio.to_plain(config.learner),
            steps=config.num_steps,
            seed=config.seed,
        )
        _draw(config, folder, experiment, outcome)
    print(f"written to {folder}: result.json, table.md, model.npz, metrics, pictures")
    return logging_utils.write_result(
        workdir,
        {
            "algorithm": config.algorithm,
            "results": store.values,
            "selection": config.eval.select,
            "split": config.eval.split,
            "episodes": config.eval.episodes,
            "seed": config.seed,
            "steps": config.num_steps,
            "seconds": outcome["seconds"],
            "images_recovered": config.num_steps * experiment.images_per_step,
            "curve": outcome["curve"],
        },
        config,
    )


class _Store:
    """Measured cells of the table, on disk as soon as they are known."""

    def __init__(self, file: epath.Path, config_hash: str):
        self._file, self._hash = file, config_hash
        stored = hosts.agreed(_stored(file, config_hash)) or {"results": {}}
        self.values: dict[str, dict[str, Any]] = stored["results"]

    def get(self, method: str, shots: int) -> dict[str, Any] | None:
        return self.values.get(method, {}).get(str(shots))

    def put(self, method: str, shots: int, cell: dict[str, Any]) -> None:
        self.values.setdefault(method, {})[str(shots)] = jsonio.to_plain(cell)
        stored = {"config_hash": self._hash, "results": self.values}
        if hosts.is_writer():
            jsonio.write_json(self._file, stored)


def _cells(
    config: Any,
    experiment: Experiment,
    outcome: dict[str, Any],
    setting: yardsticks.Setting,
) -> Iterator[tuple[int, str, Callable[[], dict[str, Any]]]]:
    """Shots, method and how to measure that cell; our method first."""
    methods = _methods(config, experiment, outcome["params"], setting)
    for shots in config.eval.shots:
        for method, evaluate in methods.items():

            def measure(evaluate=evaluate, shots=shots) -> dict[str, Any]:
                try:
                    scores = evaluate(setting._replace(shots=shots))
                except yardsticks.NotApplicable as reason:
                    return {"skipped": str(reason)}
                return {
                    name: {
                        "mean": value.mean,
                        "ci95": value.ci95,
                        "per_episode": value.per_episode.round(3).tolist(),
                    }
                    for name, value in scores.items()
                }

            yield shots, method, measure


def _methods(
    config: Any, experiment: Experiment, params: Any, setting: yardsticks.Setting
) -> dict[str, Callable[[yardsticks.Setting], yardsticks.Scores]]:
    """Name to evaluation, ours first."""
    learner, zoo = experiment.test_learner, experiment.zoo
    known: dict[str, Callable[[yardsticks.Setting], yardsticks.Scores]] = {
        "random": lambda s: yardsticks.random_initialisation(s, learner, config.seed)
    }
    if zoo is not None:
        known |= _of_zoo(config, experiment, zoo, setting)
    methods = {
        name: lambda s, classify=classify: yardsticks.evaluate(s, classify, params)
        for name, classify in experiment.methods.items()
    }
    wanted = [name for name in config.eval.yardsticks if name in known]
    return methods | {YARDSTICKS[name]: known[name] for name in wanted}


def _of_zoo(
    config: Any,
    experiment: Experiment,
    zoo: Zoo,
    setting: yardsticks.Setting,
) -> dict[str, Callable[[yardsticks.Setting], yardsticks.Scores]]:
    """Yardsticks that need teachers."""
    learner = experiment.test_learner

    @functools.cache
    def described() -> ImageBank:
        # All images are described once, whatever the number of episodes and shots.
        describe = panel.describer(
            zoo.architectures,
            temperature=config.eval.temperature,
            map_tasks=setting.map_tasks,
        )
        return panel.describe_bank(
            functools.partial(describe, zoo.teachers), setting.bank
        )

    return {
        "average": lambda s: yardsticks.teacher_average(
            s, learner, experiment.student, zoo
        ),
        "teacher": lambda s: yardsticks.one_teacher(s, zoo),
        "finetune": lambda s: yardsticks.fine_tuned_teacher(
            s, learner, experiment.student, zoo
        ),
        "panel": lambda s: yardsticks.whole_panel(s, described()),
        "panel_heads": lambda s: yardsticks.panel_heads(s, described()),
    }


def _draw(config, folder: epath.Path, experiment, outcome) -> None:
    """Recovered images by class, and accuracy over time."""
    if experiment.memory_of:
        bank = jax.device_get(experiment.memory_of(outcome["state"]))
        shown = min(10, bank.images.shape[1])
        recent = _most_recent(bank, shown)[:12]
        if len(recent):
            known = np.flatnonzero(np.asarray(bank.counts) >= shown)[:12]
            pictures.save_grid(
                folder / "recovered.png",
                recent.reshape(-1, *recent.shape[2:]),
                rows=len(recent),
                labels=[experiment.zoo.class_names[i] for i in known],
            )
    series = {}
    for shots in config.eval.shots:
        name = f"val_{shots}shot_{config.eval.protocol}"
        points = [
            (row["seconds"] / 60, row[name], row[f"{name}_ci95"])
            for row in outcome["curve"]
            if name in row
        ]
        if points:
            series[f"{shots}-shot, validation classes"] = points
    if series:
        pictures.save_curves(
            folder / "accuracy.png",
            series,
            xlabel="minutes",
            ylabel="accuracy (%)",
            title=f"{config.algorithm} on {config.data.name}",
        )


def _most_recent(bank: ImageBank, images: int) -> np.ndarray:
    """The last images stored of every class that has as many, [C', images, h, w, c]."""
    counts, cursor = np.asarray(bank.counts), np.asarray(bank.cursor)
    rows = []
    for class_id in np.flatnonzero(counts >= images):
        index = (cursor[class_id] - 1 - np.arange(images)) % counts[class_id]
        rows.append(np.asarray(bank.images[class_id])[index])
    shape = (0, images, *bank.images.shape[2:])
    return np.stack(rows) if rows else np.zeros(shape, np.uint8)
