"""A meta-training run: inputs, preparation, loop, report."""

import contextlib
from typing import Any

import jax

from experiments import inputs, methods, pretrain_zoo
from experiments.evaluation import baselines, report, selection
from experiments.harness import devices, loop, stopping
from experiments.harness import workdir as workdir_lib
from experiments.inputs import endpoints
from experiments.methods import checks
from free_jax import keys

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
    checks.validate(config)
    with (
        workdir_lib.claim_workdir(workdir, config, may_change=may_change(config)),
        stopping.StopRequest() as stop,
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
            remote = endpoints.opened(config.zoo.apis, workdir, config.data.name)
            zoo = inputs.select(config, exits.enter_context(remote))
        place, map_tasks = devices.placement(config)
        if zoo is not None:
            zoo = inputs.computing_in(inputs.sabotaged(config, zoo), config.dtype)
            zoo = inputs.place_zoo(zoo, place)

        def prepare(stage, *zoos):
            return stage(config, *zoos, map_tasks, workdir, stop)

        try:
            experiment = methods.experiment(config, zoo, map_tasks, prepare)
        except stopping.Stopped:
            return {"stopped_at": 0}
        judge = selection.judge(config, experiment, place, map_tasks)
        outcome = loop.train(
            config, workdir, experiment, judge, place, stop, may_change(config)
        )
        if "stopped_at" in outcome:
            return outcome
        setting = baselines.Setting(
            key=keys.named(jax.random.key(config.seed), "evaluation"),
            bank=place(final_bank),
            way=config.way,
            shots=config.eval.shots[0],
            queries=config.eval.queries,
            num_episodes=config.eval.episodes,
            map_tasks=map_tasks,
            place=place,
            programs=baselines.programs(),
        )
        return report.write(config, workdir, experiment, outcome, setting, stop)


def may_change(config: Any) -> tuple[str, ...]:
    """What may differ between the runs that share a working directory."""
    if config.get("distill", {}).get("cosine"):
        # The decay ends at the last step: more steps are another run from the start.
        return tuple(key for key in MAY_CHANGE if key != "num_steps")
    return MAY_CHANGE
