"""A meta-training run from top to bottom; this is its table of contents."""

from typing import Any

import jax

from experiments import inputs, methods
from experiments.evaluation import final, report, selection
from experiments.harness import files, loop, stopping
from experiments.harness.run import Run
from experiments.inputs import networks, runs
from experiments.methods import checks
from experiments.stages import adversarial_rounds, teachers
from free_jax import baselines
from free_jax.fewshot.learners import MetaLearner
from free_jax.types import ImageBank
from free_jax.zoo import Zoo
from free_jax.zoo.network import Network

# What may differ between the runs that share a working directory.
MAY_CHANGE = (
    "num_steps",
    "max_seconds",
    "log",
    "checkpoint",
    "data.cache_dir",
    "mesh",
    # A finished run may be evaluated anew: other episodes, classes, or calibration.
    "icfil",
    "eval.split",
    "eval.shots",
    "eval.queries",
    "eval.episodes",
    "eval.baselines",
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
    settings = checks.validate(config)
    with runs.opened(
        settings,
        workdir,
        identity=config,
        may_change=may_change(settings),
        upgrade=checks.upgraded,
    ) as run:
        try:
            return report.finished(run) or _result(settings, run)
        except stopping.Stopped as stopped:
            return {"stopped_at": stopped.step}


def _result(config: Any, run: Run) -> dict[str, Any]:
    # What the end needs should stop the run before the training, not after it.
    selection.check(config.eval)
    final_bank = inputs.evaluation_bank(config, config.eval.split)
    validation = None
    if config.eval.val_episodes:
        validation = inputs.evaluation_bank(config, "val")
    # The network of one output a class, whatever the method itself trains.
    student = networks.student(config, config.way)
    _, learner = networks.learners(config, student)
    with teachers.opened(config, run) as zoo:
        method = methods.build(config, zoo, run)  # recovers and asks, for some
        judge = selection.judge(
            run, method, config.eval, way=config.way, bank=validation
        )
        reused = getattr(getattr(config, "recover", None), "reuse", "")
        spent = adversarial_rounds.seconds_before(reused or run.workdir)
        schedule = runs.schedule(config, seconds_before=spent)
        service = zoo.service if zoo else None
        outcome = loop.train(run, method, schedule, judge, service)
        table = final.measure(
            run,
            method.predictors,
            outcome,
            setting(config, run, zoo, final_bank, student, method.learner or learner),
            shots=config.eval.shots,
            baselines=config.eval.baselines,
        )
        return report.write(
            run,
            about(config),
            method,
            outcome,
            table,
            recovered_in=report.recovery_seconds(reused or run.workdir, method.meters),
            class_names=zoo.class_names if zoo else (),
            bill=service.report() if service else None,
        )


def setting(
    config: Any,
    run: Run,
    zoo: Zoo | None,
    bank: ImageBank,
    student: Network,
    learner: MetaLearner,
) -> baselines.Setting:
    """What all rows of the final table share."""
    return baselines.make_setting(
        jax.random.key(run.seed),
        run.place(bank),
        zoo,
        student=student,
        learner=learner,
        way=config.way,
        queries=config.eval.queries,
        num_episodes=config.eval.episodes,
        temperature=config.eval.temperature,
        map_tasks=run.map_tasks,
        place=run.place,
    )


def about(config: Any) -> report.About:
    """What the table and the result say of the run."""
    options = config.eval
    return report.About(
        algorithm=config.algorithm,
        learner=files.to_plain(config.learner),
        data=config.data.name,
        split=options.split,
        way=config.way,
        shots=options.shots,
        queries=options.queries,
        episodes=options.episodes,
        selection=options.select,
        protocol=options.protocol,
    )


def may_change(config: Any) -> tuple[str, ...]:
    """What may differ between the runs that share a working directory."""
    if getattr(getattr(config, "distill", None), "cosine", False):
        # The decay ends at the last step: more steps are another run from the start.
        return tuple(key for key in MAY_CHANGE if key != "num_steps")
    return MAY_CHANGE
