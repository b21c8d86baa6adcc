"""No training at all: what the teachers give by themselves, from a config.

``config.eval.baselines`` says what is evaluated; the method itself has no steps.
"""

from typing import Any, Literal, NamedTuple

import jax

from experiments import inputs
from experiments.evaluation.options import EvalOptions
from experiments.evaluation.subject import Subject
from experiments.harness.method import Meters, Method
from experiments.harness.run import Run
from experiments.methods import base
from experiments.methods.options import Common, Untrained
from free_jax import zoo as zoo_lib
from free_jax.algorithm import Algorithm, params_only
from free_jax.errors import InputError
from free_jax.fewshot import evaluation
from free_jax.fewshot.learners import LearnerOptions
from free_jax.types import PyTree


class Initial(NamedTuple):
    """A random initialisation."""

    params: PyTree


class Config(NamedTuple):
    """Every key of a run that trains nothing and evaluates the teachers."""

    algorithm: Literal["baselines"] = "baselines"
    common: Untrained = Common(
        num_steps=0,
        eval=EvalOptions(
            every_steps=1,
            val_episodes=0,
            baselines=(
                "average",
                "ota",
                "dro",
                "teacher",
                "best",
                "finetune",
                "panel",
                "panel_heads",
                "panel_whitened",
            ),
        ),
    )
    learner: LearnerOptions = LearnerOptions()


def check(config: Config) -> None:
    """Refuses keys that contradict each other."""
    if not inputs.has_images(config.common.data):
        raise InputError(
            "config.data.path is empty: baselines are measured on real images, and "
            "nothing else is made"
        )
    select = config.common.eval.select
    if select != "last":
        raise InputError(
            f"config.eval.select={select}: baselines are not trained; use last"
        )


def build(config: Config, zoo: zoo_lib.Zoo, run: Run) -> Method:
    """See `methods.build`."""
    way = config.common.way
    del run
    student = base.student(config.common, way, zoo)
    _, learner = base.learners(config.learner, student)

    def init(key: jax.Array) -> Initial:
        return Initial(learner.init(key))

    return Method(
        title=base.title(config.algorithm, zoo),
        algorithm=Algorithm(init, no_step, params_only),
        data=(),
        network=student,
        subject=Subject(
            predictors={
                "random initialisation": evaluation.learner_classifier(learner)
            },
            learner=learner,
        ),
        meters=Meters(status={}, updates_of=lambda metrics: 0),
    )


def no_step(key: jax.Array, state: Initial, data: Any) -> tuple[Any, Any]:
    """What is never called: ``config.num_steps`` is no key, and 0."""
    raise NotImplementedError("baselines are not trained")
