"""No training at all: what the teachers give by themselves, from a config.

The run has one step that changes nothing, so that harness, report and resumption are
those of every other run; ``config.eval.baselines`` says what is evaluated.
"""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from experiments.harness.method import Meters, Method
from experiments.harness.options import CheckpointOptions, LogOptions, MeshOptions
from experiments.harness.run import Run
from experiments.inputs.options import CONV4, DataOptions, ZooOptions
from experiments.methods import base
from experiments.methods.options import (
    Computing,
    Devices,
    EvalOptions,
    Limit,
    Seed,
    Steps,
    Student,
    Way,
)
from free_jax import zoo as zoo_lib
from free_jax.algorithm import Algorithm, params_only
from free_jax.fewshot import evaluation
from free_jax.fewshot.learners import LearnerOptions
from free_jax.types import PyTree


class Untrained(NamedTuple):
    """A random initialisation."""

    step: jax.Array
    params: PyTree


class Nothing(NamedTuple):
    """What every step reports."""

    is_finite: jax.Array


class Config(NamedTuple):
    """Every key of a run that trains nothing and evaluates the teachers."""

    run: Literal["meta_train"] = "meta_train"
    algorithm: Literal["baselines"] = "baselines"
    seed: Seed = 0
    way: Way = 5
    num_steps: Steps = 1
    data: DataOptions = DataOptions()
    zoo: ZooOptions = ZooOptions()
    student: Student = CONV4
    learner: LearnerOptions = LearnerOptions()
    eval: EvalOptions = EvalOptions(
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
    )
    max_seconds: Limit = 0.0
    dtype: Computing = "float32"
    host_devices: Devices = 1
    mesh: MeshOptions = MeshOptions()
    log: LogOptions = LogOptions()
    checkpoint: CheckpointOptions = CheckpointOptions()


def build(config: Any, zoo: zoo_lib.Zoo, run: Run) -> Method:
    """See `methods.build`."""
    del run
    student = base.student(config, config.way)
    _, learner = base.learners(config, student)

    def init(key: jax.Array) -> Untrained:
        return Untrained(jnp.int32(0), learner.init(key))

    def step(key: jax.Array, state: Untrained, data: Any):
        del key, data
        return state._replace(step=state.step + 1), Nothing(jnp.bool_(True))

    return Method(
        title=base.title(config, zoo),
        algorithm=Algorithm(init, step, params_only),
        data=(),
        network=student,
        predictors={"random initialisation": evaluation.learner_classifier(learner)},
        learner=learner,
        meters=Meters(status={}, updates_of=lambda metrics: 0),
    )
