"""A meta-training run from top to bottom; this is its table of contents."""

import os
from typing import Any

import jax

from experiments import inputs, methods
from experiments.evaluation import final, report, selection
from experiments.harness import files, loop, metrics, stopping
from experiments.harness.contents import Contents
from experiments.harness.method import Schedule
from experiments.harness.run import Run
from experiments.inputs import contents as contents_lib
from experiments.inputs import further, networks
from experiments.methods import checks, dry, runs
from experiments.methods.dry import Findings
from experiments.methods.options import Common
from experiments.stages import pretrain, reuse, teachers
from experiments.stages.options import Recovery
from free_jax import baselines, release
from free_jax.fewshot.learners import MetaLearner
from free_jax.types import ImageBank
from free_jax.zoo import Zoo

# What may differ between the runs that share a working directory.
MAY_CHANGE = (
    "num_steps",
    "max_seconds",
    # A finished run may be evaluated anew: other episodes, classes, or calibration.
    "icfil",
    "eval.split",
    "eval.shots",
    "eval.queries",
    "eval.episodes",
    "eval.baselines",
    "eval.also",
)


def main(config: Any, workdir: str) -> dict[str, Any]:
    """Meta-trains, writes the model and, where there are real images, measures it.

    Args:
      config: see `experiments/configs/free_cifar_fs_5w1s.py`.
      workdir: run directory; the same call continues a stopped run.

    Returns:
      The contents of ``result.json``, or ``{"stopped_at": step}``.

    Raises:
      InputError: anything wrong with config, data, zoo or working directory.
    """
    settings = checks.validate(config)
    _check_evaluation(settings.common)
    with runs.opened(settings.common, workdir, **_identity(config, settings)) as run:
        try:
            return _finished(settings, run) or _result(settings, run)
        except stopping.Stopped as stopped:
            return {"stopped_at": stopped.step}


def check(config: Any, workdir: str) -> Findings:
    """Looks at everything that a run needs, as `main` does before it computes.

    Nothing is trained, recovered or written; endpoints are asked what they are only.

    Args:
      config: see `main`.
      workdir: see `main`.

    Returns:
      What was looked at, in order, and what was found.

    Raises:
      InputError: what `main` would refuse.
    """
    settings = checks.validate(config)
    common: Common = settings.common
    _check_evaluation(common)
    run, state = runs.looked_at(common, workdir, **_identity(config, settings))
    found = [
        ("config", f"{settings.algorithm}, {common.way}-way, seed {common.seed}"),
        ("workdir", f"{workdir}: {state}"),
        *dry.images(common.data, _splits(common)),
        *dry.further(_further(common)),
    ]
    with teachers.looked_at(
        common.zoo, run, data=common.data, dtype=common.dtype
    ) as zoo:
        found += dry.teachers(common.zoo, zoo)
        if common.zoo.pretrain.num_teachers and zoo is not None:
            methods.check_untrained(settings, zoo, run)
        else:
            methods.prepare(settings, zoo, run)
        side = inputs.preset(common.data, zoo).image_size
        fits = f"{settings.algorithm} fits these teachers and images"
        found += [("method", f"{fits}; the model's have {side} pixels")]
        found += dry.earlier(settings)
        if told := methods.estimated(settings, zoo, run):
            found += [("about", told)]
    found += dry.packages()
    return [*found, ("not tried", dry.not_tried(common.zoo))]


def _finished(config: Any, run: Run) -> dict[str, Any] | None:
    """The result of a run that is finished already, or None."""
    return report.finished(run, may_go_on="num_steps" in may_change(config))


def _result(config: Any, run: Run) -> dict[str, Any]:
    common: Common = config.common
    data, options, recipe = common.data, common.eval, common.zoo.pretrain
    if recipe.num_teachers and not pretrain.is_trained(run):
        # What cannot be made of these teachers is told before they are trained.
        planned = pretrain.untrained(recipe, run, data=data, dtype=common.dtype)
        methods.check_untrained(config, planned, run)
    with teachers.opened(
        common.zoo, run, data=data, dtype=common.dtype, checkpoint=common.checkpoint
    ) as zoo:
        if teachers.is_given(common.zoo) and (known := _finished(config, run)):
            return known  # It moved, with the very teachers.
        made = methods.prepare(config, zoo, run)
        banks = {
            split: inputs.evaluation_bank(
                data,
                split,
                way=common.way,
                images_per_class=max(options.shots) + options.queries,
                zoo=zoo,
            )
            for split in _splits(common)
        }
        folders = _further(common)
        method = made()  # recovers and asks, for some
        judge = selection.judge(
            run,
            method,
            options,
            way=common.way,
            bank=banks.get("val") if options.val_episodes else None,
        )
        service = zoo.service if zoo else None
        plan = schedule(common, seconds_before=method.meters.seconds_before)
        outcome = loop.train(run, method, plan, judge, service)
        table = final.NOT_MEASURED
        if banks:
            table = final.measure(
                run,
                method.predictors,
                outcome,
                setting(common, run, zoo, banks[options.split], method.learner),
                shots=options.shots,
                baselines=options.baselines,
            )
        for each in folders:
            bank = further.load(each, inputs.preset(data, zoo))
            fewer = common._replace(eval=options._replace(queries=each.queries))
            table = final.measure(
                run,
                {f"{row} on {each.name}": p for row, p in method.predictors.items()},
                outcome,
                setting(fewer, run, zoo, bank, method.learner),
                shots=options.shots,
            )
        return report.write(
            run,
            about(config),
            method,
            outcome,
            table,
            further=[each.about() for each in folders],
            class_names=zoo.class_names if zoo else (),
            teachers=release.made_from(zoo, outcome.model, method.rows) if zoo else (),
            bill=service.bill() if service else None,
        )


def check_method(config: Any, zoo: Zoo | None, run: Run) -> None:
    """Refuses a config that does not fit teachers which others have opened.

    Args:
      config: see `main`.
      zoo: the teachers; their weights may yet have to be trained.
      run: only looked at.

    Raises:
      InputError: what `main` would refuse.
    """
    settings = checks.validate(config)
    _check_evaluation(settings.common)
    # Where real images are learned from nothing else may be known.
    methods.check_untrained(settings, zoo if settings.common.zoo.path else None, run)


def _check_evaluation(common: Common) -> None:
    """Refuses what the end needs and has not, before the run claims its folder."""
    options, measured = common.eval, _splits(common)
    selection.check(options, measured)
    metrics.check_packages(tensorboard=common.log.tensorboard)
    for split in measured:
        inputs.check_evaluation(
            common.data,
            split,
            way=common.way,
            images_per_class=max(options.shots) + options.queries,
        )
    _further(common)


def _further(common: Common) -> tuple[further.Further, ...]:
    """Further folders that the finished model is measured on."""
    return further.listed(
        common.eval.also,
        common.eval.split,
        way=common.way,
        shots=max(common.eval.shots),
        queries=common.eval.queries,
    )


def _splits(common: Common) -> tuple[str, ...]:
    """The splits of real images that the run is measured on; none without a folder."""
    if not inputs.has_images(common.data):
        return ()
    options = common.eval
    also = ("val",) if options.val_episodes and options.split != "val" else ()
    return (options.split, *also)


def schedule(common: Common, seconds_before: float) -> Schedule:
    """How long the method is trained, and how often it is looked at."""
    return Schedule(
        num_steps=common.num_steps,
        max_seconds=common.max_seconds,
        log_every_steps=common.log.every_steps,
        judge_every_steps=common.eval.every_steps,
        checkpoint_every_steps=common.checkpoint.every_steps,
        checkpoint_every_secs=common.checkpoint.every_secs,
        tensorboard=common.log.tensorboard,
        seconds_before=seconds_before,
    )


def setting(
    common: Common, run: Run, zoo: Zoo | None, bank: ImageBank, learner: MetaLearner
) -> baselines.Setting:
    """What all rows of the final table share."""
    return baselines.make_setting(
        jax.random.key(run.seed),
        run.place(bank),
        zoo,
        # The network of one output a class, whatever the method itself trains.
        student=networks.student(
            common.student, common.way, common.data, common.dtype, zoo
        ),
        learner=learner,
        way=common.way,
        queries=common.eval.queries,
        num_episodes=common.eval.episodes,
        temperature=common.eval.temperature,
        map_tasks=run.map_tasks,
        place=run.place,
    )


def about(config: Any) -> report.About:
    """What the table and the result say of the run."""
    common: Common = config.common
    options = common.eval
    return report.About(
        algorithm=config.algorithm,
        learner=files.to_plain(config.learner),
        data=common.data.name or os.path.basename(common.data.path.rstrip("/")),
        split=options.split,
        way=common.way,
        shots=options.shots,
        queries=options.queries,
        episodes=options.episodes,
        selection=options.select,
        protocol=options.protocol,
    )


def may_change(config: Any) -> tuple[str, ...]:
    """What may differ between the runs that share a working directory."""
    free = MAY_CHANGE
    common: Common = config.common
    if common.eval.select == "last":
        free += ("eval.val_episodes",)  # Scores then decide nothing.
    if not common.data.name and common.eval.select != "val":
        # Real images only measure the model: what it learns from has no data.  Of runs
        # that noted what their data held, `contents` says it of any data.
        free += ("data.path",)
    if getattr(getattr(config, "distill", None), "cosine", False):
        # The decay ends at the last step: more steps are another run from the start.
        return tuple(key for key in free if key != "num_steps")
    return free


def contents(config: Any) -> Contents:
    """What the keys that are paths hold, by which a run is known wherever it is."""
    common: Common = config.common
    learns = methods.learns_from(config.algorithm)
    learns += ("train",) if common.zoo.pretrain.num_teachers else ()
    learns += ("val",) if common.eval.select == "val" else ()
    looked_at = dict.fromkeys((*learns, *_splits(common)))
    found = {"data": contents_lib.of_data(common.data, learns, tuple(looked_at))}
    if teachers.is_given(common.zoo):
        found["zoo"] = contents_lib.of_teachers()  # Told when they are there.
    found |= further.contents(common.eval.also, common.eval.split)
    recovery = getattr(config, "recover", None)
    if isinstance(recovery, Recovery):
        found |= reuse.contents(recovery)
    if path := getattr(config.learner, "init_from", ""):
        named = "model of learner.init_from"
        found[named] = contents_lib.of_file("learner.init_from", path)
    return found


def _identity(config: Any, settings: Any) -> dict[str, Any]:
    """By what a run is known in its working directory."""
    return {
        "identity": config,
        "may_change": may_change(settings),
        "contents": contents(settings),
    }
