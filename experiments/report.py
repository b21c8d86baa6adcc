"""The end of a run: one evaluation on the test classes, then table, JSON, pictures."""

import json
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from experiments import build, jsonio, logging_utils, pictures, yardsticks
from free_jax import model_io, panel

COLUMNS = ("method", "shots", "transductive %", "inductive %")

# Values of config.eval.yardsticks and the names in the table.
YARDSTICKS = {
    "random": "random initialisation",
    "average": "teacher average",
    "teacher": "one teacher, centroids",
    "panel": "panel of all teachers, centroids",
}


def read(config: Any, workdir: str) -> dict[str, Any] | None:
    """The result of a run of this very config that is finished already, or None."""
    file = pathlib.Path(workdir) / logging_utils.RESULT_FILE
    if not file.exists():
        return None
    result = json.loads(file.read_text())
    if result.get("config_hash") != jsonio.config_hash(config):
        return None  # More steps were asked for since.
    print((file.parent / "table.md").read_text())
    print(f"{workdir} is finished; use another --workdir or more steps to train on")
    return result


def write(
    config: Any,
    workdir: str,
    experiment: build.Experiment,
    outcome: dict[str, Any],
    setting: yardsticks.Setting,
) -> dict[str, Any]:
    """Evaluates once on the test classes and writes everything a reader wants.

    Args:
      config: of the run.
      workdir: run directory.
      experiment: what was trained.
      outcome: ``params`` (the selected ones), ``state``, ``seconds``, ``curve``.
      setting: the episodes, the same for every method; its ``shots`` is replaced.

    Returns:
      The contents of ``result.json``.
    """
    folder = pathlib.Path(workdir)
    rows, results = _evaluate_all(config, experiment, outcome["params"], setting)
    title = (
        f"{config.data.name}, {config.eval.split} classes, {config.way}-way, "
        f"{config.eval.queries} queries, {config.eval.episodes} episodes, 95 % intervals, "
        f"seed {config.seed}, model selected by: {config.eval.select}"
    )
    table = logging_utils.print_table(rows, COLUMNS, title=title)
    (folder / "table.md").write_text(f"{title}\n\n{table}\n")
    model_io.save_model(
        folder / "model.npz", experiment.student, jax.device_get(outcome["params"])
    )
    _draw(config, folder, experiment, outcome)
    recovered = 0
    if experiment.memory_of:
        per_step = config.inversion.teachers_per_step * config.way
        recovered = config.num_steps * per_step * config.inversion.images_per_class
    print(f"written to {folder}: result.json, table.md, model.npz, metrics, pictures")
    return logging_utils.write_result(
        workdir,
        {
            "algorithm": config.algorithm,
            "results": results,
            "selection": config.eval.select,
            "split": config.eval.split,
            "episodes": config.eval.episodes,
            "seed": config.seed,
            "steps": config.num_steps,
            "seconds": outcome["seconds"],
            "images_recovered": recovered,
            "curve": outcome["curve"],
        },
        config,
    )


def _methods(
    config: Any, experiment: build.Experiment, params: Any, setting: yardsticks.Setting
) -> dict[str, Callable[[yardsticks.Setting], yardsticks.Scores]]:
    """Name to evaluation, ours first."""
    learner, zoo = experiment.test_learner, experiment.zoo

    def ours(s):
        return yardsticks.meta_model(s, learner, params)

    def random(s):
        return yardsticks.random_initialisation(s, learner, config.seed)

    def average(s):
        return yardsticks.teacher_average(s, learner, experiment.student, zoo)

    def teacher(s):
        return yardsticks.one_teacher(s, zoo)

    described = None
    if zoo is not None and "panel" in config.eval.yardsticks:
        # All images are described once, whatever the number of episodes and shots.
        described = panel.describe_bank(
            zoo.architectures,
            zoo.teachers,
            setting.bank,
            temperature=config.eval.temperature,
        )

    def whole_panel(s):
        return yardsticks.whole_panel(s, described)

    known = {
        "random": random,
        "average": average,
        "teacher": teacher,
        "panel": whole_panel,
    }
    wanted = [n for n in config.eval.yardsticks if zoo is not None or n == "random"]
    methods = {f"{config.algorithm} ({config.learner.kind})": ours}
    return methods | {YARDSTICKS[name]: known[name] for name in wanted}


def _evaluate_all(config, experiment, params, setting):
    """Rows of the table, and the same with per-episode accuracies for the JSON."""
    rows: list[dict[str, Any]] = []
    results: dict[str, Any] = {}
    methods = _methods(config, experiment, params, setting)
    for shots in config.eval.shots:
        for method, evaluate in methods.items():
            row: dict[str, Any] = {"method": method, "shots": shots}
            rows.append(row)
            cell = results.setdefault(method, {}).setdefault(str(shots), {})
            try:
                scores = evaluate(setting._replace(shots=shots))
            except yardsticks.NotApplicable as reason:
                row["transductive %"] = f"- ({reason})"
                cell["skipped"] = str(reason)
                continue
            for name, value in scores.items():
                row[f"{name} %"] = str(value)
                cell[name] = {
                    "mean": value.mean,
                    "ci95": value.ci95,
                    "per_episode": value.per_episode.round(3).tolist(),
                }
            print(
                f"  tested {method}, {shots}-shot: {row['transductive %']}", flush=True
            )
    return rows, results


def _draw(config, folder: pathlib.Path, experiment, outcome) -> None:
    """Recovered images by class, and accuracy over time."""
    if experiment.memory_of:
        bank = jax.device_get(experiment.memory_of(outcome["state"]))
        shown = min(10, config.inversion.images_per_class)
        recent = build.most_recent(bank, shown)[:12]
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
