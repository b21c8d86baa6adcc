"""Trustworthy-DFML (interpolated memory, teachers selected by reward) from a config."""

import functools
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import numpy as np

from experiments import inputs
from experiments.harness.method import Meters, Method
from experiments.harness.optimizers import optimizer
from experiments.harness.options import LogOptions
from experiments.harness.run import Run
from experiments.methods import base
from experiments.methods.options import Common, Optimizer, Shared
from experiments.stages import own_tasks, recover
from experiments.stages.options import Recovery
from free_jax import zoo as zoo_lib
from free_jax.algorithms import trustworthy
from free_jax.algorithms.recovered_tasks import OwnTaskOptions, bank_of
from free_jax.algorithms.selection import SelectionOptions
from free_jax.algorithms.task_memory import InterpolationOptions
from free_jax.algorithms.trustworthy import (
    ScheduleOptions,
    StepOptions,
    TrustworthyData,
    TrustworthyState,
)
from free_jax.errors import InputError
from free_jax.fewshot.learners import LearnerOptions
from free_jax.options import adam
from free_jax.panel import RecoverOptions
from free_jax.types import ImageBank
from free_jax.zoo import tasks as task_lib


class Config(NamedTuple):
    """Every key of a Trustworthy-DFML run.

    Attributes:
      reward: episodes that the model is judged by, which choose teachers: of
        "recovered" images, those that it learns from, called as their teachers claim,
        so that a liar's count as right; or of real ones of the validation classes,
        "val" (released code; not data-free).
    """

    algorithm: Literal["trustworthy"] = "trustworthy"
    common: Shared = Common(num_steps=3000, log=LogOptions(every_steps=20))
    recover: Recovery = Recovery(RecoverOptions(images_per_class=20, dead_leaves=0))
    tasks: OwnTaskOptions = OwnTaskOptions()
    step: StepOptions = StepOptions()
    schedule: ScheduleOptions = ScheduleOptions()
    interpolation: InterpolationOptions = InterpolationOptions()
    select: SelectionOptions = SelectionOptions()
    reward: Literal["recovered", "val"] = "recovered"
    learner: LearnerOptions = LearnerOptions(kind="protonet")
    optimizer: Optimizer = adam(1e-3)


def learns_from(config: Config) -> tuple[str, ...]:
    """Splits of real images that the model is made from."""
    return ("val",) if config.reward == "val" else ()


def check(config: Config) -> None:
    """Refuses keys that contradict each other."""
    own_tasks.check(config.recover)
    needed = config.step.shots + config.step.queries
    if needed > config.tasks.per_class:
        raise InputError(
            f"config.step needs {needed} images a class (shots + queries) but "
            f"config.tasks.per_class={config.tasks.per_class} are taken of a "
            "teacher's; take more, or ask for fewer queries"
        )
    if config.reward == "val" and not inputs.has_images(config.common.data):
        raise InputError(
            "config.reward=val: there are no real images to judge by; set "
            "config.data.path, or reward=recovered"
        )


def able(config: Config, zoo: zoo_lib.Zoo) -> task_lib.Able:
    """See `methods.able`."""
    way, needs = config.common.way, base.needs_of(config.recover.anew.inversion)
    return base.able(config.algorithm, zoo, way, needs)


def prepare(config: Config, zoo: zoo_lib.Zoo, run: Run) -> Callable[[], Method]:
    """See `methods.prepare`."""
    common = config.common
    wanted = base.images_wanted(config.recover, common, zoo)
    base.check_own_images(config.recover, config.tasks, zoo, wanted, common.way)
    begun = recover.beginning(
        zoo, np.arange(zoo.num_teachers), run, wanted, reuse_of=config.recover.reuse
    )
    rewards = None
    if config.reward == "val":
        rewards = inputs.evaluation_bank(
            common.data,
            "val",
            way=common.way,
            images_per_class=config.step.shots + config.step.queries,
            zoo=zoo,
        )
    return functools.partial(_built, config, zoo, run, wanted, begun, rewards)


def build(config: Config, zoo: zoo_lib.Zoo, run: Run) -> Method:
    """See `methods.build`."""
    return prepare(config, zoo, run)()


def _built(
    config: Config,
    zoo: zoo_lib.Zoo,
    run: Run,
    wanted: RecoverOptions,
    begun: recover.Beginning,
    rewards: ImageBank | None,
) -> Method:
    """The method, from images that are recovered or those of the earlier run."""
    common, way = config.common, config.common.way
    own = own_tasks.recovered(zoo, run, wanted, config.tasks, way=way, begun=begun)
    student = base.student(common, way, zoo)
    train_learner, test_learner = base.learners(config.learner, student)
    try:
        algorithm = trustworthy(
            train_learner,
            student,
            optimizer(config.optimizer),
            num_classes=zoo.num_classes,
            num_teachers=len(own.rows),
            adapts=config.learner.adapts,
            options=config.step,
            schedule=config.schedule,
            interpolation=config.interpolation,
            select=config.select,
            map_tasks=run.map_tasks,
        )
    except ValueError as error:
        raise InputError(f"config: {error}") from None
    bank = bank_of(own.tasks, zoo.num_classes)
    return Method(
        title=base.title(config.algorithm, zoo),
        algorithm=algorithm,
        data=TrustworthyData(own.tasks, bank if rewards is None else rewards),
        network=student,
        told=lambda state: {"policy": _policy(zoo, own.rows, jax.device_get(state))},
        subject=base.adapted(
            config.algorithm,
            config.learner.kind,
            test_learner,
            recovered=lambda state: bank,
            pseudo_task=(config.step.shots, config.step.queries),
            rows=own.rows,
        ),
        meters=Meters(
            status={
                "memory_loss": "memory",
                "reward": "reward",
                "entropy": "entropy",
            },
            answers=own.answers,
            **base.spent_before(config.recover, run, wanted, zoo),
        ),
    )


def _policy(
    zoo: zoo_lib.Zoo, rows: np.ndarray, state: TrustworthyState
) -> list[dict[str, object]]:
    """How likely the policy draws each teacher in the end, ready for JSON.

    No verdicts: of equally good teachers too it prefers some, by the noise of rewards.
    """
    weights = np.asarray(state.policy.weights, np.float64)
    chance = np.exp(weights - weights.max())
    chance /= chance.sum()
    return [
        {
            "teacher": int(row),
            "source": zoo.sources[row],
            "chance": float(chance[i]),
            "drawn": int(state.drawn[i]),
        }
        for i, row in enumerate(rows)
    ]
