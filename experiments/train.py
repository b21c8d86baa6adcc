"""A meta-training run from top to bottom; this is its table of contents."""

import contextlib
from collections.abc import Iterator
from typing import Any

from experiments import inputs, methods
from experiments.evaluation import baselines, report, selection
from experiments.harness import loop
from experiments.harness.run import Run
from experiments.harness.stopping import Stopped
from experiments.inputs import endpoints, runs
from experiments.methods import checks
from experiments.stages import adversarial_rounds, pretrain
from free_jax import remote
from free_jax.zoo import Zoo

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
    with runs.opened(config, workdir, may_change=may_change(config)) as run:
        try:
            return report.read(config, workdir) or _result(config, run)
        except Stopped as stopped:
            return {"stopped_at": stopped.step}


def _result(config: Any, run: Run) -> dict[str, Any]:
    # Bad test data should stop the run before the training, not after it.
    final_bank = inputs.evaluation_bank(config, config.eval.split)
    with teachers(config, run) as zoo:
        method = methods.build(config, zoo, run)  # recovers and asks, for some
        judge = selection.judge(config, method, run)
        spent = adversarial_rounds.seconds_before(config, run.workdir)
        schedule = runs.schedule(config, seconds_before=spent)
        service = remote.hub_of(zoo)
        outcome = loop.train(run, method, schedule, judge, service)
        setting = baselines.Setting(
            key=run.key("evaluation"),
            bank=run.place(final_bank),
            way=config.way,
            shots=config.eval.shots[0],
            queries=config.eval.queries,
            num_episodes=config.eval.episodes,
            map_tasks=run.map_tasks,
            place=run.place,
            programs=baselines.programs(),
        )
        return report.write(
            config, run.workdir, method, zoo, outcome, setting, run.stop
        )


@contextlib.contextmanager
def teachers(config: Any, run: Run) -> Iterator[Zoo | None]:
    """The teachers, on their devices: trained here, loaded, or behind endpoints.

    None where no teacher is configured, because real images are learned from.
    """
    with contextlib.ExitStack() as exits:
        zoo = None
        if config.zoo.pretrain.num_teachers:
            zoo = pretrain.train_zoo(config, config.zoo.pretrain, run)
        elif config.zoo.path:
            zoo = inputs.load_zoo(config)
        elif config.zoo.apis:
            opened = endpoints.opened(config.zoo.apis, run.workdir, config.data.name)
            zoo = inputs.select(config, exits.enter_context(opened))
        if zoo is not None:
            zoo = inputs.computing_in(inputs.sabotaged(config, zoo), config.dtype)
            zoo = inputs.place_zoo(zoo, run.place)
        yield zoo


def may_change(config: Any) -> tuple[str, ...]:
    """What may differ between the runs that share a working directory."""
    if config.get("distill", {}).get("cosine"):
        # The decay ends at the last step: more steps are another run from the start.
        return tuple(key for key in MAY_CHANGE if key != "num_steps")
    return MAY_CHANGE
