"""A meta-training run from top to bottom; this is its table of contents."""

import functools
from typing import Any

from experiments import inputs, methods
from experiments.evaluation import final, report, selection
from experiments.harness import loop, stopping
from experiments.harness.command_line import Given
from experiments.harness.run import Run
from experiments.inputs import further
from experiments.methods import checks, dry, identity, measuring, runs
from experiments.methods.dry import Findings
from experiments.methods.options import Common, Settings
from experiments.stages import choosing, pretrain, teachers
from free_jax import release
from free_jax.zoo import Zoo


def main(config: Given, workdir: str) -> dict[str, Any]:
    """Meta-trains, writes the model and, where there are real images, measures it.

    Args:
      config: see `experiments/configs/free_cifar_fs_5w1s.py`.
      workdir: run directory; the same call continues a stopped run.

    Returns:
      The contents of ``result.json``, or ``{"stopped_at": step}``.

    Raises:
      InputError: anything wrong with config, data, zoo or working directory.
    """
    settings: Settings = checks.validate(config)
    measuring.check(settings.common)
    common = methods.for_devices(settings)
    with runs.opened(common, workdir, **identity.identity(config, settings)) as run:
        try:
            return _finished(settings, run) or _result(settings, run)
        except stopping.Stopped as stopped:
            return {"stopped_at": stopped.step}


def check(config: Given, workdir: str) -> Findings:
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
    settings: Settings = checks.validate(config)
    common: Common = settings.common
    measuring.check(common)
    run, state = runs.looked_at(common, workdir, **identity.identity(config, settings))
    found = [
        ("config", f"{settings.algorithm}, {common.way}-way, seed {common.seed}"),
        ("workdir", f"{workdir}: {state}"),
        *dry.images(common.data, measuring.splits(common)),
        *dry.further(measuring.folders(common)),
    ]
    with teachers.looked_at(
        common.zoo, run, data=common.data, dtype=common.dtype
    ) as zoo:
        found += dry.teachers(common.zoo, zoo)
        able = functools.partial(methods.able, settings)
        zoo = choosing.stand_ins(zoo, common.zoo.choose, able)
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


def _finished(config: Settings, run: Run) -> dict[str, Any] | None:
    """The result of a run that is finished already, or None."""
    return report.finished(run, may_go_on="num_steps" in identity.may_change(config))


def _result(config: Settings, run: Run) -> dict[str, Any]:
    common: Common = config.common
    data, options, recipe = common.data, common.eval, common.zoo.pretrain
    able = functools.partial(methods.able, config)
    if recipe.num_teachers and not pretrain.is_trained(run):
        # What cannot be made of these teachers is told before they are trained.
        planned = pretrain.untrained(recipe, run, data=data, dtype=common.dtype)
        few = choosing.stand_ins(planned, common.zoo.choose, able)
        methods.check_untrained(config, few, run)
    with teachers.opened(
        common.zoo, run, data=data, dtype=common.dtype, checkpoint=common.checkpoint
    ) as everyone:
        if teachers.is_given(common.zoo) and (known := _finished(config, run)):
            return known  # It moved, with the very teachers.
        # Asks, for some.
        choice = choosing.chosen(everyone, common.zoo.choose, run, able)
        zoo = choice.zoo
        made = methods.prepare(config, zoo, run)
        banks = measuring.banks(common, zoo)
        folders = measuring.folders(common)
        method = made()  # recovers and asks, for some
        judge = selection.judge(
            run,
            method.subject,
            options,
            way=common.way,
            bank=banks.get("val") if options.val_episodes else None,
        )
        service = zoo.service if zoo else None
        before = choice.seconds + method.meters.seconds_before
        plan = runs.schedule(common, seconds_before=before)
        outcome = loop.train(run, method, plan, judge, service)
        table = final.NOT_MEASURED
        if banks:
            table = final.measure(
                run,
                method.subject.predictors,
                outcome,
                measuring.setting(
                    common, run, zoo, banks[options.split], method.subject.learner
                ),
                shots=options.shots,
                baselines=options.baselines,
            )
        for each in folders:
            bank = further.load(each, inputs.preset(data, zoo))
            fewer = common._replace(eval=options._replace(queries=each.queries))
            table = final.measure(
                run,
                method.subject.predictors,
                outcome,
                measuring.setting(fewer, run, zoo, bank, method.subject.learner),
                shots=options.shots,
                # Where nothing is trained they are what the run is about.
                baselines=() if common.num_steps else options.baselines,
                place=each.name,
            )
        return report.write(
            run,
            measuring.about(config),
            method,
            outcome,
            table,
            further=[each.about() for each in folders],
            zoo=zoo,
            teachers=release.made_from(zoo, outcome.model, method.subject.rows)
            if zoo
            else (),
            bill=service.bill() if service else None,
            choice=choice.told,
        )


def check_method(config: Given, zoo: Zoo | None, run: Run) -> None:
    """Refuses a config that does not fit teachers which others have opened.

    Args:
      config: see `main`.
      zoo: the teachers; their weights may yet have to be trained.
      run: only looked at.

    Raises:
      InputError: what `main` would refuse.
    """
    settings: Settings = checks.validate(config)
    measuring.check(settings.common)
    # Where real images are learned from nothing else may be known.
    able = functools.partial(methods.able, settings)
    few = choosing.stand_ins(zoo, settings.common.zoo.choose, able)
    methods.check_untrained(settings, few if settings.common.zoo.path else None, run)
