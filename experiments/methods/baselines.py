"""No training at all: what the teachers give by themselves, from a config.

The run has one step that changes nothing, so that harness, report and resumption are
those of every other run; ``config.eval.yardsticks`` says what is evaluated.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from experiments.harness.method import Meters, Method
from experiments.harness.run import Run
from experiments.methods import base
from free_jax import zoo as zoo_lib
from free_jax.algorithm import Algorithm, params_only
from free_jax.errors import InputError
from free_jax.fewshot import evaluation
from free_jax.types import PyTree


class Untrained(NamedTuple):
    """A random initialisation."""

    step: jax.Array
    params: PyTree


class Nothing(NamedTuple):
    """What every step reports."""

    is_finite: jax.Array


def limits(config: Any) -> tuple[base.Choices, base.Positive]:
    """What the config may hold."""
    if config.num_steps != 1 or config.eval.select != "last":
        raise InputError(
            f"config.num_steps={config.num_steps}, config.eval.select="
            f"{config.eval.select}: yardsticks are not trained; use 1 and last"
        )
    return {}, {}


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
        meters=Meters(status={}, updates_of=lambda metrics: 0),
    )
