"""The meta-training loop, read top to bottom."""

import pathlib
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import (
    build,
    checkpointing,
    logging_utils,
    pictures,
    pretrain_zoo,
    yardsticks,
)
from free_jax import evaluation, model_io, panel
from free_jax.errors import InputError

# What may differ between the runs that share a working directory.
MAY_CHANGE = ("num_steps", "log", "checkpoint", "data.cache_dir", "mesh")


def main(config: Any, workdir: str) -> dict[str, Any]:
    """Meta-trains, evaluates once on the test classes and writes the results.

    Args:
      config: see `experiments/configs/free_cifar_fs_5w1s.py`.
      workdir: run directory; the same call continues a stopped run.

    Returns:
      The contents of ``result.json``, or ``{"stopped_at": step}``.

    Raises:
      InputError: anything wrong with config, data, zoo or working directory.
    """
    _check(config)
    with (
        checkpointing.claim_workdir(workdir, config, may_change=MAY_CHANGE),
        checkpointing.StopRequest() as stop,
    ):
        # Bad test data should stop the run before the training, not after it.
        test_bank = build.evaluation_bank(config, "test")
        zoo = None
        if config.zoo.pretrain.num_teachers:
            zoo, stopped = pretrain_zoo.train_zoo(
                config, config.zoo.pretrain, workdir, stop
            )
            if zoo is None:
                return {"stopped_at": stopped}
        elif config.zoo.path:
            zoo = build.load_zoo(config)
        place, map_tasks = build.placement(config)
        experiment = build.experiment(config, zoo, map_tasks)
        outcome = _train(config, workdir, experiment, place, map_tasks, stop)
        if "stopped_at" in outcome:
            return outcome
        return _report(
            config, workdir, experiment, outcome, test_bank, place, map_tasks
        )


def _check(config: Any) -> None:
    if config.eval.select not in ("last", "pseudo", "val"):
        raise InputError(
            f"config.eval.select={config.eval.select!r}: choose last, pseudo (episodes "
            "of recovered images) or val (real validation classes); never test"
        )
    if config.eval.protocol not in ("transductive", "inductive"):
        raise InputError(
            f"config.eval.protocol={config.eval.protocol!r}: choose transductive or "
            "inductive"
        )
    if config.num_steps < 1:
        raise InputError(f"config.num_steps={config.num_steps}: must be at least 1")


def _train(config, workdir, experiment, place, map_tasks, stop) -> dict[str, Any]:
    """Runs the loop; returns the selected parameters and the run's history."""
    algorithm = experiment.algorithm
    root = jax.random.key(config.seed)
    # Key 0 initialises, key 1 evaluates, key 2 + n is step n: a resumed run draws the
    # same numbers without storing keys.
    state = place(jax.jit(algorithm.init)(jax.random.fold_in(root, 0)))
    data = place(experiment.data)
    checkpoints = checkpointing.Checkpoints(
        workdir,
        save_every_steps=config.checkpoint.every_steps or None,
        save_every_secs=config.checkpoint.every_secs or None,
    )
    writer = logging_utils.MetricWriter(
        workdir, tensorboard=config.log.get("tensorboard", False)
    )
    extra: dict[str, Any] = {"seconds": 0.0, "curve": [], "best": None}
    selected = {"params": _copy(algorithm.params(state))}
    carried = {"state": state, "selected": selected}
    restored = checkpoints.restore_latest(carried)
    start = 0
    if restored is not None:
        carried, start, extra = restored
        state, selected = place(carried["state"]), carried["selected"]
        print(f"resuming after step {start}/{config.num_steps}", flush=True)
    writer.truncate_after(start)

    step_fn = jax.jit(algorithm.step, donate_argnums=1)
    judge = _judge(config, experiment, place, map_tasks)
    progress = logging_utils.Progress(
        config.num_steps, start, every_secs=config.log.every_secs
    )
    _write_inputs(config, workdir, experiment)
    clock = time.monotonic()
    checked = start
    if start == 0:
        print("compiling the first step (cached afterwards) ...", flush=True)
    for number in range(start, config.num_steps):
        done = number + 1
        state, info = step_fn(jax.random.fold_in(root, 2 + number), state, data)
        last = done == config.num_steps
        stopping = stop.reached(done) and not last
        judging = last or done % config.eval.every_steps == 0
        if last or stopping or judging or done % config.log.every_steps == 0:
            scalars = {k: np.asarray(v).item() for k, v in info._asdict().items()}
            scalars.pop("is_finite")
            if judging:
                scalars |= judge(algorithm.params(state), state)
            logging_utils.check_finite(done, scalars, since=checked)
            if not bool(info.is_finite):
                raise logging_utils.RunError(
                    f"a parameter or an inversion loss is not finite in steps "
                    f"{checked + 1} to {done}; lower the learning rates; earlier "
                    "checkpoints and metrics are kept"
                )
            checked = done
            writer.write(done, scalars)
            progress.update(done, _short(scalars), force=judging)
            extra["seconds"] += time.monotonic() - clock
            clock = time.monotonic()
            if judging:
                extra["curve"].append(
                    {"step": done, "seconds": extra["seconds"]} | scalars
                )
                if _is_better(config, scalars, extra):
                    selected = {"params": _copy(algorithm.params(state))}
        if last and config.eval.select == "last":
            selected = {"params": _copy(algorithm.params(state))}
        carried = {"state": state, "selected": selected}
        checkpoints.save(done, carried, extra, force=stopping or last)
        if stopping:
            checkpoints.close()
            writer.close()
            return {"stopped_at": done}
    checkpoints.close()
    writer.close()
    return {"params": selected["params"], "state": state} | extra


def _copy(tree: Any) -> Any:
    # The step donates its state; what must outlive it needs buffers of its own.
    return jax.tree.map(jnp.copy, tree)


def _judge(config, experiment, place, map_tasks):
    """Scores during training: validation classes and recovered pseudo-tasks."""
    if not config.eval.val_episodes:
        return lambda params, state: {}
    key = jax.random.fold_in(jax.random.key(config.seed), 1)
    bank = place(build.evaluation_bank(config, "val"))
    evaluators = {
        shots: evaluation.evaluator(
            evaluation.learner_classifier(experiment.test_learner),
            way=config.way,
            shots=shots,
            queries=config.eval.queries,
            num_episodes=config.eval.val_episodes,
            map_tasks=map_tasks,
        )
        for shots in config.eval.shots
    }
    shots = config.replay.shots
    pseudo = evaluation.evaluator(
        evaluation.learner_classifier(experiment.test_learner),
        way=config.way,
        shots=shots,
        queries=min(config.eval.queries, config.replay.queries),
        num_episodes=config.eval.val_episodes,
        map_tasks=map_tasks,
    )

    def judge(params, state) -> dict[str, float]:
        scores = {}
        for shots, evaluate in evaluators.items():
            for name, value in evaluate(key, params, bank).items():
                scores[f"val_{shots}shot_{name}"] = value.mean
                scores[f"val_{shots}shot_{name}_ci95"] = value.ci95
        if experiment.memory_of and config.eval.select == "pseudo":
            recovered = experiment.memory_of(state)
            need = config.replay.shots + config.replay.queries
            # Before enough classes were recovered there is no pseudo-task to draw.
            if int((recovered.counts >= need).sum()) >= config.way:
                found = pseudo(key, params, recovered)
                scores["pseudo"] = found[config.eval.protocol].mean
        return scores

    return judge


def _is_better(config, scalars, extra) -> bool:
    """Applies the selection rule and remembers the best score."""
    rule = {
        "val": f"val_{config.replay.shots}shot_{config.eval.protocol}",
        "pseudo": "pseudo",
    }
    name = rule.get(config.eval.select)
    if name is None or name not in scalars:
        return False
    if extra["best"] is None or scalars[name] > extra["best"]:
        extra["best"] = scalars[name]
        return True
    return False


def _short(scalars: dict[str, float]) -> dict[str, float]:
    """The few numbers of the status line."""
    names = {
        "inversion_ce": "ce",
        "teacher_accuracy": "teacher acc",
        "replay_accuracy": "replay acc",
    }
    line = {short: scalars[k] for k, short in names.items() if k in scalars}
    for name, value in scalars.items():
        if name.startswith("val_") and name.endswith("transductive"):
            line[name.replace("_transductive", "").replace("_", " ")] = value
    return line


def _write_inputs(config, workdir, experiment) -> None:
    sizes = jax.tree.map(np.size, jax.eval_shape(
        lambda: experiment.student.init(jax.random.key(0))["params"]))
    total = sum(jax.tree.leaves(sizes))
    teachers = experiment.zoo.num_teachers if experiment.zoo else 0
    print(
        f"{config.algorithm}: {teachers} teachers, meta-model {experiment.student.name} "
        f"with {total} parameters, {config.num_steps} steps, workdir {workdir}",
        flush=True,
    )


def _report(config, workdir, experiment, outcome, test_bank, place, map_tasks):
    """Evaluates on the test classes and writes table, JSON, model and pictures."""
    folder = pathlib.Path(workdir)
    params = place(outcome["params"])
    bank = place(test_bank)
    zoo = experiment.zoo
    described = None
    if zoo is not None and "panel" in config.eval.yardsticks:
        described = panel.describe_bank(
            zoo.architectures, zoo.teachers, bank, temperature=config.eval.temperature
        )
    ours = f"{config.algorithm} ({config.learner.kind})"
    rows: list[dict[str, Any]] = []
    results: dict[str, Any] = {}
    for shots in config.eval.shots:
        setting = yardsticks.Setting(
            jax.random.fold_in(jax.random.key(config.seed), 1),
            bank,
            config.way,
            shots,
            config.eval.queries,
            config.eval.episodes,
            map_tasks,
        )
        learner = experiment.test_learner
        methods = {
            ours: lambda s=setting: yardsticks.meta_model(s, learner, params),
            "random initialisation": lambda s=setting: (
                yardsticks.random_initialisation(s, learner, config.seed)
            ),
            "teacher average": lambda s=setting: yardsticks.teacher_average(
                s, learner, experiment.student, zoo
            ),
            "one teacher, centroids": lambda s=setting: yardsticks.one_teacher(s, zoo),
            "panel, centroids": lambda s=setting: yardsticks.whole_panel(s, described),
        }
        chosen = {
            "random": "random initialisation",
            "average": "teacher average",
            "teacher": "one teacher, centroids",
            "panel": "panel, centroids",
        }
        wanted = [ours] + [chosen[name] for name in config.eval.yardsticks]
        for method in wanted:
            if zoo is None and method not in (ours, "random initialisation"):
                continue
            row: dict[str, Any] = {"method": method, "shots": shots}
            try:
                scores = methods[method]()
            except yardsticks.NotApplicable as reason:
                rows.append(row | {"transductive %": f"- ({reason})"})
                results.setdefault(method, {})[str(shots)] = {"skipped": str(reason)}
                continue
            for name, value in scores.items():
                row[f"{name} %"] = str(value)
                results.setdefault(method, {}).setdefault(str(shots), {})[name] = {
                    "mean": value.mean,
                    "ci95": value.ci95,
                    "per_episode": value.per_episode.round(3).tolist(),
                }
            rows.append(row)
            print(f"  tested {method}, {shots}-shot: {row['transductive %']}", flush=True)
    columns = ["method", "shots", "transductive %", "inductive %"]
    title = (
        f"{config.data.name} test classes, {config.way}-way, {config.eval.queries} "
        f"queries, {config.eval.episodes} episodes, 95 % intervals, "
        f"model selected by: {config.eval.select}"
    )
    table = logging_utils.print_table(rows, columns, title=title)
    (folder / "table.md").write_text(f"{title}\n\n{table}\n")
    model_io.save_model(
        folder / "model.npz", experiment.student, jax.device_get(params)
    )
    _draw(config, folder, experiment, outcome)
    images = config.num_steps * config.inversion.teachers_per_step
    images *= config.way * config.inversion.images_per_class
    result = {
        "results": results,
        "selection": config.eval.select,
        "episodes": config.eval.episodes,
        "seed": config.seed,
        "steps": config.num_steps,
        "seconds": outcome["seconds"],
        "curve": outcome["curve"],
        "images_recovered": images if experiment.memory_of else 0,
    }
    print(f"written to {folder}: result.json, table.md, model.npz, metrics, pictures")
    return logging_utils.write_result(workdir, result, config)


def _draw(config, folder: pathlib.Path, experiment, outcome) -> None:
    """Recovered images by class, and accuracy over time."""
    if experiment.memory_of:
        bank = jax.device_get(experiment.memory_of(outcome["state"]))
        shown = min(10, config.inversion.images_per_class)
        recent = build.most_recent(bank, shown)[:12]
        if len(recent):
            names = [
                experiment.zoo.class_names[i]
                for i in np.flatnonzero(np.asarray(bank.counts) >= shown)[:12]
            ]
            pictures.save_grid(
                folder / "recovered.png",
                recent.reshape(-1, *recent.shape[2:]),
                rows=len(recent),
                labels=names,
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


