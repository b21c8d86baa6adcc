"""The meta-training loop, read top to bottom."""

import contextlib
import math
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import (
    algorithms,
    apis,
    checkpointing,
    inputs,
    judging,
    logging_utils,
    pretrain_zoo,
    recovering,
    report,
    validation,
    yardsticks,
)
from free_jax import endpoints
from free_jax.errors import InputError

# What may differ between the runs that share a working directory.
MAY_CHANGE = (
    "num_steps",
    "max_seconds",
    "log",
    "checkpoint",
    "data.cache_dir",
    "mesh",
    # A finished run may be evaluated anew: other episodes, classes, or calibration.
    "calibration",
    "eval.split",
    "eval.shots",
    "eval.queries",
    "eval.episodes",
    "eval.yardsticks",
)


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
    validation.validate(config)
    with (
        checkpointing.claim_workdir(workdir, config, may_change=may_change(config)),
        checkpointing.StopRequest() as stop,
        contextlib.ExitStack() as exits,
    ):
        finished = report.read(config, workdir)
        if finished is not None:
            return finished
        # Bad test data should stop the run before the training, not after it.
        final_bank = inputs.evaluation_bank(config, config.eval.split)
        zoo = None
        if config.zoo.pretrain.num_teachers:
            zoo, stopped = pretrain_zoo.train_zoo(
                config, config.zoo.pretrain, workdir, stop
            )
            if zoo is None:
                return {"stopped_at": stopped}
        elif config.zoo.path:
            zoo = inputs.load_zoo(config)
        elif config.zoo.apis:
            remote = apis.opened(config.zoo.apis, workdir, config.data.name)
            zoo = inputs.select(config, exits.enter_context(remote))
        place, map_tasks = inputs.placement(config)
        if zoo is not None:
            zoo = inputs.place_zoo(inputs.sabotaged(config, zoo), place)

        def prepare(stage, *zoos):
            return stage(config, *zoos, map_tasks, workdir, stop)

        try:
            experiment = algorithms.experiment(config, zoo, map_tasks, prepare)
        except recovering.Stopped:
            return {"stopped_at": 0}
        judge = judging.judge(config, experiment, place, map_tasks)
        outcome = _train(config, workdir, experiment, judge, place, stop)
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
        return report.write(config, workdir, experiment, outcome, setting, stop)


def may_change(config: Any) -> tuple[str, ...]:
    """What may differ between the runs that share a working directory."""
    if config.get("distill", {}).get("cosine"):
        # The decay ends at the last step: more steps are another run from the start.
        return tuple(key for key in MAY_CHANGE if key != "num_steps")
    return MAY_CHANGE


def _train(config, workdir, experiment, judge, place, stop) -> dict[str, Any]:
    """Runs the loop; returns the selected parameters and the run's history."""
    algorithm = experiment.algorithm
    root = jax.random.key(config.seed)
    # Key 0 initialises, key 1 evaluates, key 2 + n is step n: a resumed run draws the
    # same numbers without storing keys.
    state = place(jax.jit(algorithm.init)(jax.random.fold_in(root, 0)))
    data = place(experiment.data)
    checkpoints = checkpointing.Checkpoints(
        workdir,
        config=config,
        may_change=may_change(config),
        save_every_steps=config.checkpoint.every_steps or None,
        save_every_secs=config.checkpoint.every_secs or None,
    )
    writer = logging_utils.MetricWriter(
        workdir, tensorboard=config.log.get("tensorboard", False)
    )
    spent = recovering.seconds_spent(config.get("recover", {}).get("reuse") or workdir)
    extra: dict[str, Any] = {"seconds": spent, "curve": [], "best": None}
    # Until a score selects, these are placeholders and `best` is None.
    selected = _copy(algorithm.params(state))
    carried = {"state": state, "selected": selected}
    restored = checkpoints.restore_latest(carried)
    start = 0
    if restored is not None:
        carried, start, extra = restored
        state, selected = place(carried["state"]), place(carried["selected"])
        if start > config.num_steps:
            raise InputError(
                f"{workdir} has made {start} steps, more than config.num_steps="
                f"{config.num_steps}; ask for at least {start} or use another --workdir"
            )
        print(f"resuming after step {start}/{config.num_steps}", flush=True)
    writer.truncate_after(start)

    hub = endpoints.hub_of(experiment.zoo)
    # A step whose queries found no answer is undone: the state before must outlive it.
    step_fn = jax.jit(algorithm.step, donate_argnums=() if hub else 1)
    progress = logging_utils.Progress(
        config.num_steps, start, every_secs=config.log.every_secs
    )
    _announce(config, workdir, experiment)
    if start == 0:
        print("compiling the first step (cached afterwards) ...", flush=True)
    clock = time.monotonic()
    if hub:
        hub.all_answered()  # What was asked before the loop is no step's.
    checked = done = start
    info, ending = None, ""
    limit = config.get("max_seconds") or math.inf
    end = start if start and extra["seconds"] >= limit else config.num_steps
    for number in range(start, end):
        done = number + 1
        new = step_fn(jax.random.fold_in(root, 2 + number), state, data)
        if hub and not hub.all_answered(jax.block_until_ready(new)):
            hub.raise_if_broken()
            if not hub.alive().any():
                ending = "the budget of queries is spent"
            new = state, info
        state, info = new
        if info is None:
            if ending and start:  # The run ended by its budget already, or nearly so.
                if judge.rule is None:
                    selected = _copy(algorithm.params(state))
                break
            if ending or done == config.num_steps:
                raise logging_utils.RunError(
                    "no step found answers to all of its queries; raise the budget in "
                    f"{config.zoo.apis}, or ask less a step"
                )
            continue
        if limit < math.inf:
            jax.block_until_ready(info)
            if extra["seconds"] + time.monotonic() - clock >= limit:
                ending = f"{config.max_seconds:g} seconds are over"
        last = bool(ending) or done == config.num_steps
        stopping = stop.reached(done) and not last
        judged = last or done % config.eval.every_steps == 0
        logged = judged or stopping or done % config.log.every_steps == 0
        saving = last or stopping or checkpoints.due(done)
        if logged or saving:
            scalars = {k: np.asarray(v).item() for k, v in info._asdict().items()}
            is_finite = scalars.pop("is_finite")
            if judged:
                scalars |= judge.scores(algorithm.params(state), state)
            if experiment.queries_of:
                scalars["queries"] = int(experiment.queries_of(state).sum())
            # Nothing that is not finite may overwrite a sound checkpoint.
            logging_utils.check_finite(done, scalars, since=checked)
            if not is_finite:
                raise logging_utils.RunError(
                    f"a parameter or an inversion loss is not finite in steps "
                    f"{checked + 1} to {done}; lower the learning rates; earlier "
                    "checkpoints and metrics are kept"
                )
            checked = done
            extra["seconds"] += time.monotonic() - clock
            clock = time.monotonic()
        if logged:
            writer.write(done, scalars)
            shown = {v: scalars[k] for k, v in experiment.status.items()}
            progress.update(done, shown | _val(scalars), force=judged)
        if judged:
            spent = {"queries": hub.queries} if hub else {}
            row = {"step": done, "seconds": extra["seconds"]} | scalars | spent
            extra["curve"].append(row)
            score = scalars.get(judge.rule)
            if score is not None and (extra["best"] is None or score > extra["best"]):
                extra["best"] = score
                selected = _copy(algorithm.params(state))
        if last and judge.rule is None:
            selected = _copy(algorithm.params(state))
        if saving:
            carried = {"state": state, "selected": selected}
            checkpoints.save(done, carried, extra, force=True)
        if stopping:
            checkpoints.close()
            writer.close()
            return {"stopped_at": done}
        if ending:
            print(f"{ending}: ending after step {done}", flush=True)
            break
    checkpoints.close()
    writer.close()
    if judge.rule and extra["best"] is None:
        raise logging_utils.RunError(
            f"no model was selected: {judge.rule} was never measured; lower "
            "config.eval.every_steps or recover more images"
        )
    updates = [experiment.meta_updates(row) for row in writer.read()] or [0]
    return {
        "params": selected,
        "state": state,
        "steps": done,
        # Exact where every step was logged.
        "meta_updates": round(done * float(np.mean(updates))),
    } | extra


def _val(scalars: dict[str, float]) -> dict[str, float]:
    """Validation accuracies for the status line, transductive."""
    end = "_transductive"
    return {
        name.removesuffix(end).replace("_", " "): value
        for name, value in scalars.items()
        if name.startswith("val_") and name.endswith(end)
    }


def _copy(tree: Any) -> Any:
    # The step donates its state; what must outlive it needs buffers of its own.
    return jax.tree.map(jnp.copy, tree)


def _announce(config, workdir, experiment) -> None:
    student = experiment.model
    shapes = jax.eval_shape(lambda: student.init(jax.random.key(0))["params"])
    total = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    teachers = experiment.zoo.num_teachers if experiment.zoo else 0
    print(
        f"{config.algorithm}: {teachers} teachers, meta-model {student.name} with "
        f"{total} parameters, {config.num_steps} steps, workdir {workdir}",
        flush=True,
    )
