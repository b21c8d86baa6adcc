"""Panel distillation from a config."""

import functools
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal, NamedTuple

import jax
import numpy as np

from experiments.evaluation.options import EvalOptions
from experiments.evaluation.subject import Subject
from experiments.harness.method import Meters, Method
from experiments.harness.options import LogOptions
from experiments.harness.run import Run
from experiments.harness.sections import Flat, Without
from experiments.methods import base
from experiments.methods.options import Common, Shared
from experiments.stages import estimate, recover
from experiments.stages.options import Recovery
from free_jax import panel
from free_jax import zoo as zoo_lib
from free_jax.algorithm import Algorithm
from free_jax.errors import InputError
from free_jax.fewshot.learners import LearnerOptions, MetaLearner
from free_jax.options import Positive
from free_jax.panel import PanelOptions, classifiers
from free_jax.panel.distill_options import DistillOptions
from free_jax.types import ImageBank
from free_jax.zoo.network import Network

# What it holds of many teachers may be split over the mesh, see `Run.split`.
SPLITS_HEADS = True

# Shots and queries of episodes of held-out classes.
PSEUDO_TASK = (1, 15)


class AdaptationOptions(NamedTuple):
    """Adaptation by gradient.

    The baselines are adapted so, with a new head; the distilled model by its rate and
    `test_steps` alone.

    Attributes:
      common: what all methods' learners have, but for a model to start from: the
        images are learned by a student that starts at random.
      head_scale: of logits that are cosines to class means.
    """

    common: Annotated[LearnerOptions, Flat(), Without(("init_from",))] = (
        LearnerOptions()
    )
    head_scale: Annotated[float, Positive()] = 10.0


class Config(NamedTuple):
    """Every key of a panel distillation."""

    algorithm: Literal["panel"] = "panel"
    common: Shared = Common(
        num_steps=8000,
        log=LogOptions(every_steps=50),
        eval=EvalOptions(
            shots=(1, 5),
            every_steps=1000,
            baselines=(
                "random",
                "average",
                "teacher",
                "panel",
                "panel_heads",
                "panel_whitened",
            ),
        ),
    )
    recover: Recovery = Recovery()
    panel: Annotated[PanelOptions, Without(("recover",))] = PanelOptions()
    distill: DistillOptions = DistillOptions()
    learner: AdaptationOptions = AdaptationOptions()


def check(config: Config) -> None:
    """Refuses keys that contradict each other."""
    earlier, recover = config.recover, config.recover.anew
    held_out = config.panel.held_out_classes or config.panel.held_out_teachers
    if config.common.eval.select == "pseudo" and not held_out:
        raise InputError(
            "config.eval.select=pseudo: nothing is held out to select by; set "
            "config.panel.held_out_teachers, or choose last or val"
        )
    chosen, judges = config.common.zoo.choose.teachers, config.panel.held_out_teachers
    if 0 < chosen <= judges:
        raise InputError(
            f"config.panel.held_out_teachers={judges}: of the {chosen} teachers of "
            "config.zoo.choose.teachers none would be left to distil from; choose more"
        )
    if not recover.images_per_class and not recover.dead_leaves:
        raise InputError(
            "config.recover: images_per_class=0 and dead_leaves=0 leave nothing to "
            "learn from; ask for one of them"
        )
    distill = config.distill
    if config.panel.asked_per_image and (distill.mix != "none" or distill.similarity):
        raise InputError(
            "config.panel.asked_per_image: config.distill.mix and distill.similarity "
            "compare what all teachers say of each image; set them to none and 0, or "
            "asked_per_image to 0"
        )
    if not earlier.against:
        return
    asking = config.panel
    some = asking.held_out_classes or asking.held_out_teachers or asking.teachers
    if earlier.reuse or some:
        raise InputError(
            "config.recover.against: the earlier model was taught by all teachers; "
            "leave recover.reuse, panel.teachers, panel.held_out_classes and "
            "panel.held_out_teachers unset"
        )
    if not recover.images_per_class:
        raise InputError(
            "config.recover.against: no image is recovered (images_per_class=0); ask "
            "for some, or use recover.reuse"
        )


def may_have_more_steps(config: Config) -> bool:
    """A rate that decays to the last step makes more steps another run."""
    return not config.distill.cosine


class Plan(NamedTuple):
    """A distillation whose images have yet to be made.

    Attributes:
      asking: which images, and who is asked.
      choice: the teachers that are asked.
      columns: where each of them has its outputs.
      model: the network that is distilled.
      algorithm: trains it.
      predictors: see `Method`, as the next.
      learner: of the baselines.
      begun: what is there of earlier runs.
    """

    asking: PanelOptions
    choice: panel.PanelChoice
    columns: np.ndarray
    model: Network
    algorithm: Algorithm
    predictors: dict[str, Callable[..., Any]]
    learner: MetaLearner
    begun: recover.Beginning


def plan(config: Config, zoo: zoo_lib.Zoo, run: Run) -> Plan:
    """Everything that needs no minutes.

    Raises:
      InputError: options that contradict each other, the teachers or an earlier run.
    """
    common, earlier = config.common, config.recover
    wanted = base.images_wanted(config.recover, common, zoo)
    asking = config.panel._replace(recover=wanted)
    choice = panel.choose(run.rng("held-out classes"), zoo, asking, way=common.way)
    check_held_out(common, wanted, zoo, choice)
    if (
        not earlier.reuse
        and zoo.service is not None
        and panel.asks_some(asking, choice)
    ):
        raise InputError(
            "config.panel.asked_per_image: teachers behind endpoints are asked about "
            "all images; set it to 0"
        )
    columns = panel.columns_of(zoo.columns, choice.asked)
    model = base.student(common, int(columns[-1]), zoo)
    begun = recover.beginning(
        zoo,
        choice.everyone,
        run,
        wanted,
        reuse_of=earlier.reuse,
        against=earlier.against,
    )
    try:
        algorithm = panel.distillation(
            model,
            columns,
            config.distill,
            common.num_steps,
            class_ids=zoo.class_ids[panel.outputs_of(zoo.columns, choice.asked)],
            some=panel.asks_some(asking, choice, begun.known),
            map_tasks=run.map_tasks,
            split=run.split,
        )
    except ValueError as error:
        raise InputError(f"config.distill: {error}") from None
    adapted = config.learner.common
    beside = base.student(common, common.way, zoo)
    predictors = classifiers.methods(
        model,
        way=common.way,
        num_steps=adapted.test_steps,
        learning_rate=adapted.test_lr or adapted.inner_lr,
        head_scale=config.learner.head_scale,
    )
    return Plan(
        asking,
        choice,
        columns,
        model,
        algorithm,
        predictors,
        base.learners(adapted, beside)[1],
        begun,
    )


def check_held_out(
    common: Common,
    wanted: panel.RecoverOptions,
    zoo: zoo_lib.Zoo,
    choice: panel.PanelChoice,
) -> None:
    """Refuses to select by episodes that would never be drawn.

    Args:
      common: how the model is selected.
      wanted: how many images are recovered.
      zoo: from which teachers.
      choice: the classes that are held out.

    Raises:
      InputError: too few images of each, or too few classes.
    """
    if common.eval.select != "pseudo" or not choice.held_out.size:
        return
    counts = base.images_of_classes(wanted, zoo)[choice.held_out]
    needed = sum(PSEUDO_TASK)
    if (counts >= needed).sum() < common.way:
        raise InputError(
            f"config.eval.select=pseudo: {common.way} held-out classes of {needed} "
            f"images each make an episode, but recover.images_per_class="
            f"{wanted.images_per_class} recovers at most {counts.max(initial=0):g}; "
            "ask for more, or choose last or val"
        )


def estimated(config: Config, zoo: zoo_lib.Zoo, run: Run) -> str:
    """What it will take, in words; "" where another run's images are taken."""
    if config.recover.reuse:
        return ""
    return estimate.text(_estimated(config, zoo, plan(config, zoo, run)))


def _estimated(config: Config, zoo: zoo_lib.Zoo, planned: Plan) -> estimate.Estimate:
    return estimate.estimate(
        zoo,
        planned.model,
        planned.asking.recover,
        asked=planned.choice.everyone,
        asked_per_image=config.panel.asked_per_image,
        batch_size=config.distill.batch_size,
        num_steps=config.common.num_steps,
    )


def prepare(config: Config, zoo: zoo_lib.Zoo, run: Run) -> Callable[[], Method]:
    """See `methods.prepare`."""
    return functools.partial(_built, config, zoo, run, plan(config, zoo, run))


def build(config: Config, zoo: zoo_lib.Zoo, run: Run) -> Method:
    """See `methods.build`."""
    return prepare(config, zoo, run)()


def _built(config: Config, zoo: zoo_lib.Zoo, run: Run, planned: Plan) -> Method:
    """The method, from images that are recovered or those of the earlier run."""
    earlier, options = config.recover, config.distill
    model, algorithm, columns = planned.model, planned.algorithm, planned.columns
    # Of a run that goes on, most is there already.
    if not earlier.reuse and not run.path("recovered").exists():
        estimate.tell(_estimated(config, zoo, planned))
    found = recover.described(  # takes minutes
        zoo, planned.choice, run, planned.asking, planned.begun
    )
    _check_tasks(config.common, zoo, planned.choice, found.tasks)
    described, feed = found.described, algorithm.feed
    if panel.fits(described, options, run.split):
        described, feed = panel.on_device(described), None
    # The purpose's first name: keys are drawn by name, and another one would draw
    # other images, so other bits of every model.
    rng = run.rng("calibration images")
    images = panel.fit_images(rng, described, options.fit_images)
    weights = np.asarray(described.weights)
    recovered = base.images_recovered(planned.asking.recover, zoo)
    if earlier.against:
        recovered = int(described.recovered.sum())
    spent = recover.spent(earlier.reuse or run.workdir, recovered)
    fit = jax.jit(panel.statistics_fitter(model, columns, options))
    return Method(
        title=base.title(config.algorithm, zoo),
        algorithm=algorithm._replace(
            model=lambda state: fit(algorithm.model(state), images, weights),
            feed=feed,
        ),
        data=described,
        network=model,
        subject=Subject(
            predictors=planned.predictors,
            learner=planned.learner,
            holdouts=(*((found.held_out,) if found.held_out else ()), *found.tasks),
            pseudo_task=PSEUDO_TASK,
            rows=planned.choice.asked,
        ),
        remedy="lower config.distill.device_mb (images and answers stay on the host "
        "then), config.distill.batch_size or config.panel.asked_per_image, or use "
        "config.distill.heads=class",
        meters=Meters(
            status={"distill_loss": "kl", "agreement": "agree"},
            images_before=recovered,
            gradients=recover.gradients(
                earlier.reuse, recovered, planned.asking.recover
            ),
            answers=found.num_answers,
            seconds_before=spent.before,
            making_images=spent.making_images,
        ),
    )


def _check_tasks(
    common: Common,
    zoo: zoo_lib.Zoo,
    choice: panel.PanelChoice,
    tasks: Sequence[ImageBank],
) -> None:
    """Says which held-out teachers make no tasks; refuses to select by none.

    Raises:
      InputError: no model would be selected, after all of the training.
    """
    needed, silent = sum(PSEUDO_TASK), []
    for row, bank in zip(choice.judges, tasks, strict=True):
        seen = int((np.asarray(bank.counts) >= needed).sum())
        if seen < common.way:
            silent.append(f"{zoo.sources[row]} ({seen} classes)")
    if not silent:
        return
    line = (
        f"{len(silent)} of {len(tasks)} held-out teachers take too few images for "
        f"each of {common.way} classes to judge by: {', '.join(silent)}"
    )
    if common.eval.select == "pseudo" and len(silent) == len(tasks):
        raise InputError(
            f"config.panel.held_out_teachers: {line}; hold out more, recover more "
            "images, or choose eval.select=last (what is recovered is kept)"
        )
    print(line, flush=True)
