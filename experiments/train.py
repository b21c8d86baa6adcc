"""The meta-training loop, read top to bottom."""

import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import (
    build,
    checkpointing,
    logging_utils,
    pretrain_zoo,
    report,
    yardsticks,
)
from free_jax import evaluation
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
        finished = report.read(config, workdir)
        if finished is not None:
            return finished
        # Bad test data should stop the run before the training, not after it.
        final_bank = build.evaluation_bank(config, config.eval.split)
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
        setting = yardsticks.Setting(
            key=jax.random.fold_in(jax.random.key(config.seed), 1),
            bank=place(final_bank),
            way=config.way,
            shots=config.eval.shots[0],
            queries=config.eval.queries,
            num_episodes=config.eval.episodes,
            map_tasks=map_tasks,
        )
        outcome["params"] = place(outcome["params"])
        return report.write(config, workdir, experiment, outcome, setting)


def _check(config: Any) -> None:
    if config.eval.select not in ("last", "pseudo", "val"):
        raise InputError(
            f"config.eval.select={config.eval.select!r}: choose last, pseudo (episodes "
            "of recovered images) or val (real validation classes); never test"
        )
    if config.eval.split not in ("test", "val"):
        raise InputError(f"config.eval.split={config.eval.split!r}: choose test or val")
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
    _announce(config, workdir, experiment)
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


def _announce(config, workdir, experiment) -> None:
    student = experiment.student
    shapes = jax.eval_shape(lambda: student.init(jax.random.key(0))["params"])
    total = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    teachers = experiment.zoo.num_teachers if experiment.zoo else 0
    print(
        f"{config.algorithm}: {teachers} teachers, meta-model {student.name} with "
        f"{total} parameters, {config.num_steps} steps, workdir {workdir}",
        flush=True,
    )
