"""The end of a run: one evaluation on the test classes, then table, JSON, pictures."""

import functools
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from etils import epath

from experiments.evaluation import baselines
from experiments.harness import (
    chunks,
    files,
    hosts,
    metrics,
    pictures,
    stopping,
)
from experiments.methods import Experiment
from experiments.stages import reuse
from free_jax import keys, model_io, panel
from free_jax.types import ImageBank
from free_jax.zoo import Zoo

COLUMNS = ("method", "shots", "transductive %", "inductive %")


def read(config: Any, workdir: str) -> dict[str, Any] | None:
    """The result of a run of this very config that is finished already, or None."""
    folder = epath.Path(workdir)
    result = hosts.agreed(
        _stored(folder / metrics.RESULT_FILE, files.config_hash(config))
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
    setting: baselines.Setting,
    stop: stopping.StopRequest,
) -> dict[str, Any]:
    """Evaluates once on the test classes and writes everything a reader wants.

    Args:
      config: of the run.
      workdir: run directory.
      experiment: what was trained.
      outcome: ``params`` (the selected ones), ``state``, ``steps``, ``meta_updates``,
        ``seconds``, ``curve``.
      setting: the episodes, the same for every method; its ``shots`` is replaced.
      stop: polled between methods; what is measured by then is kept.

    Returns:
      The contents of ``result.json``, or ``{"stopped_at": step}``.
    """
    folder = epath.Path(workdir)
    store = _Store(folder / "cells.json", files.config_hash(config))
    rows = []
    for shots, method, evaluate in _cells(config, experiment, outcome, setting):
        if store.get(method, shots) is None:
            if stop.requested:
                return {"stopped_at": outcome["steps"]}
            clock = time.monotonic()
            store.put(method, shots, evaluate(), time.monotonic() - clock)
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
    table = metrics.print_table(rows, COLUMNS, title=title)
    if hosts.is_writer():
        files.write_text(folder / "table.md", f"{title}\n\n{table}\n")
        model_io.save_model(
            folder / "model.npz",
            experiment.model,
            jax.device_get(outcome["params"]),
            algorithm=config.algorithm,
            learner=files.to_plain(config.learner),
            steps=outcome["steps"],
            seed=config.seed,
        )
        _draw(config, folder, experiment, outcome)
    hub = experiment.zoo.service if experiment.zoo else None
    queries = hub.report() if hub else None
    if queries:
        each = max(count["queries"] for count in queries["endpoints"].values())
        print(
            f"queries: {queries['queries']} images in total, at most {each} an endpoint"
        )
    print(f"written to {folder}: result.json, table.md, model.npz, metrics, pictures")
    return metrics.write_result(
        workdir,
        {
            "algorithm": config.algorithm,
            "results": store.values,
            "selection": config.eval.select,
            "split": config.eval.split,
            "episodes": config.eval.episodes,
            "seed": config.seed,
            "steps": outcome["steps"],
            "meta_updates": outcome["meta_updates"],
            "seconds": outcome["seconds"],
            "recovery_seconds": _recovery_seconds(config, workdir, experiment, outcome),
            "evaluation_seconds": store.seconds,
            "images_recovered": experiment.images_before
            + outcome["steps"] * experiment.images_per_step,
            "curve": outcome["curve"],
            # Endpoints say what they charged; without any, our own count stands.
            **_queries(experiment, outcome),
            **({"queries": queries} if queries else {}),
        },
        config,
    )


def _queries(experiment: Experiment, outcome: dict[str, Any]) -> dict[str, Any]:
    """Images that teachers were asked about in training, where that is counted."""
    if not experiment.queries_of:
        return {}
    spent = experiment.queries_of(outcome["state"])
    return {"queries": {"total": int(spent.sum()), "per_teacher": spent.tolist()}}


def _recovery_seconds(
    config: Any, workdir: str, experiment: Experiment, outcome: dict[str, Any]
) -> float | None:
    """Time that recovering images took; None where it was not told from learning.

    Recovery before the first step was timed when it was done.  Where every step
    recovers (and ``config.eval.time_recovery`` asks), that part alone is run again for
    a median of three, times the number of steps.
    """
    if "recover" in config and experiment.images_before:
        places = reuse.lineage(config.recover.get("reuse") or workdir)
        return sum(chunks.seconds_spent(place, "recovered") for place in places)
    recover = experiment.algorithm.recover
    if recover is None:
        return None if experiment.images_per_step else 0.0
    if not config.eval.time_recovery:
        return None
    if experiment.zoo and experiment.zoo.service:
        return None  # Timing would spend queries.
    run = jax.jit(recover)
    seconds = []
    for number in range(4):  # The first one compiles.
        key = keys.named(jax.random.key(config.seed), "timing", number)
        clock = time.monotonic()
        jax.block_until_ready(run(key, outcome["state"], experiment.data))
        seconds.append(time.monotonic() - clock)
    return outcome["steps"] * float(np.median(seconds[1:]))


class _Store:
    """Measured cells of the table, on disk as soon as they are known."""

    def __init__(self, file: epath.Path, config_hash: str):
        self._file, self._hash = file, config_hash
        stored: dict[str, Any] = hosts.agreed(_stored(file, config_hash)) or {}
        self.values: dict[str, dict[str, Any]] = stored.get("results", {})
        self.seconds: float = stored.get("seconds", 0.0)

    def get(self, method: str, shots: int) -> dict[str, Any] | None:
        return self.values.get(method, {}).get(str(shots))

    def put(
        self, method: str, shots: int, cell: dict[str, Any], seconds: float
    ) -> None:
        self.values.setdefault(method, {})[str(shots)] = files.to_plain(cell)
        self.seconds += seconds
        stored = {
            "config_hash": self._hash,
            "results": self.values,
            "seconds": self.seconds,
        }
        if hosts.is_writer():
            files.write_json(self._file, stored)


def _cells(
    config: Any,
    experiment: Experiment,
    outcome: dict[str, Any],
    setting: baselines.Setting,
) -> Iterator[tuple[int, str, Callable[[], dict[str, Any]]]]:
    """Shots, method and how to measure that cell; our method first."""
    methods = _methods(config, experiment, outcome["params"], setting)
    for shots in config.eval.shots:
        for method, evaluate in methods.items():

            def measure(evaluate=evaluate, shots=shots) -> dict[str, Any]:
                try:
                    scores = evaluate(setting._replace(shots=shots))
                except baselines.NotApplicable as reason:
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
    config: Any, experiment: Experiment, params: Any, setting: baselines.Setting
) -> dict[str, Callable[[baselines.Setting], baselines.Scores]]:
    """Name to evaluation, ours first."""
    learner, zoo = experiment.test_learner, experiment.zoo
    known: dict[str, Callable[[baselines.Setting], baselines.Scores]] = {
        "random": lambda s: baselines.random_initialisation(s, learner, config.seed)
    }
    if zoo is None:
        known |= _not_applicable("there are no teachers")
    elif zoo.service:
        known |= _not_applicable(
            "teachers are endpoints: they give neither weights nor features, and are "
            "not asked about test images"
        )
    else:
        known |= _of_zoo(config, experiment, zoo, setting)
    methods = {
        name: lambda s, classify=classify: baselines.evaluate(s, classify, params)
        for name, classify in experiment.methods.items()
    }
    wanted = config.eval.yardsticks
    return methods | {baselines.NAMES[name]: known[name] for name in wanted}


def _not_applicable(
    why: str,
) -> dict[str, Callable[[baselines.Setting], baselines.Scores]]:
    """All yardsticks that need teachers, each of which says why it cannot be given."""

    def refuse(setting: baselines.Setting) -> baselines.Scores:
        raise baselines.NotApplicable(why)

    return {name: refuse for name in baselines.NAMES if name != "random"}


def _of_zoo(
    config: Any,
    experiment: Experiment,
    zoo: Zoo,
    setting: baselines.Setting,
) -> dict[str, Callable[[baselines.Setting], baselines.Scores]]:
    """Yardsticks that need teachers."""
    learner = experiment.test_learner
    describer = panel.describer(
        zoo.architectures,
        temperature=config.eval.temperature,
        map_tasks=setting.map_tasks,
    )
    describe = functools.partial(jax.jit(describer), zoo.teachers)

    @functools.cache
    def described() -> ImageBank:
        # All images are described once, whatever the number of episodes and shots.
        return panel.describe_bank(describe, setting.bank)

    student = experiment.student
    # Every yardstick's own draws, the same in all runs of a seed.
    root = jax.random.key(config.seed)

    def meta_model(params: Callable[[], Any]) -> Callable:
        made = functools.cache(params)  # Once for all shots.
        return lambda s: baselines.meta_model(s, learner, made())

    central = functools.cache(
        lambda: baselines.most_central(
            zoo, config.eval.temperature, keys.named(root, "most central teacher")
        )
    )
    return {
        "average": meta_model(lambda: baselines.average_params(student, zoo)),
        "ota": meta_model(lambda: baselines.transported_params(student, zoo)),
        "dro": meta_model(
            lambda: baselines.robust_params(
                student, zoo, keys.named(root, "robust hyper-network")
            )
        ),
        "best": lambda s: baselines.central_teacher(s, zoo, central()),
        "teacher": lambda s: baselines.one_teacher(s, zoo),
        "finetune": lambda s: baselines.fine_tuned_teacher(s, learner, student, zoo),
        "panel": lambda s: baselines.whole_panel(s, described()),
        "panel_heads": lambda s: baselines.panel_heads(s, described()),
        "panel_whitened": lambda s: baselines.panel_whitened(
            s,
            describe,
            described(),
            keys.named(root, "whitening scenes"),
            student.image_shape,
        ),
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
    title = f"{config.algorithm} on {config.data.name}"
    curve = [row | {"minutes": row["seconds"] / 60} for row in outcome["curve"]]
    axes = {"accuracy.png": ("minutes", "minutes")}
    if experiment.queries_of:
        axes["queries.png"] = ("queries", "images that teachers were asked about")
    for file, (x, xlabel) in axes.items():
        series = {}
        for shots in config.eval.shots:
            name = f"val_{shots}shot_{config.eval.protocol}"
            points = pictures.points(curve, x, name)
            if points:
                series[f"{shots}-shot, validation classes"] = points
        if series:
            pictures.save_curves(
                folder / file,
                series,
                xlabel=xlabel,
                ylabel="accuracy (%)",
                title=title,
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
