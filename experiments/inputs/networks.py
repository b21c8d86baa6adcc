"""The networks and learners that a config names."""

import functools
from collections.abc import Mapping
from typing import Any

from experiments.data import Preset
from experiments.inputs.images import preset
from experiments.inputs.options import DataOptions
from free_jax import model_io
from free_jax.errors import InputError
from free_jax.fewshot import initialization
from free_jax.fewshot import learners as learners_lib
from free_jax.fewshot.learners import LearnerOptions
from free_jax.zoo import Zoo
from free_jax.zoo.network import Network, make_network


def student(
    model: Mapping[str, Any],
    outputs: int,
    data: DataOptions,
    dtype: str,
    zoo: Zoo | None = None,
) -> Network:
    """The meta-model, for images of a data set, or for those that teachers see."""
    return classifier(model, outputs, preset(data, zoo), dtype)


def classifier(
    model: Mapping[str, Any], outputs: int, chosen: Preset, dtype: str = "float32"
) -> Network:
    """The network that a section ``dict(name=..., kwargs=...)`` names."""
    size = chosen.image_size
    kwargs = dict(model["kwargs"])
    if dtype != "float32":
        kwargs["dtype"] = dtype
    try:
        return make_network(
            model["name"],
            num_classes=outputs,
            image_shape=(size, size, len(chosen.mean)),
            mean=chosen.mean,
            std=chosen.std,
            **kwargs,
        )
    except (TypeError, ValueError) as error:
        raise InputError(f"model {model['name']!r}: {error}") from None


def learners(
    section: LearnerOptions, student: Network
) -> tuple[learners_lib.MetaLearner, learners_lib.MetaLearner]:
    """The learner as it is trained and as it is tested."""
    if section.kind == "protonet":
        learner = learners_lib.protonet(student)
        return _continued(section, learner, student), learner
    make = functools.partial(
        learners_lib.maml,
        student,
        first_order=section.first_order,
        head_only=section.kind == "anil",
    )
    try:
        train = make(num_steps=section.train_steps, inner_lr=section.inner_lr)
        test = make(
            num_steps=section.test_steps,
            inner_lr=section.test_lr or section.inner_lr,
        )
    except ValueError as error:
        raise InputError(f"config.learner: {error}") from None
    return _continued(section, train, student), test


def _continued(
    section: LearnerOptions, learner: learners_lib.MetaLearner, student: Network
) -> learners_lib.MetaLearner:
    """The learner, started from the model of ``learner.init_from`` if it is set."""
    path = section.init_from
    if not path:
        return learner
    source, params, _ = model_io.load_model(path)
    try:
        params = initialization.from_model(source, params, student)
    except ValueError as error:
        raise InputError(
            f"config.learner.init_from={path}: {error}; set config.student accordingly"
        ) from None
    return learner._replace(init=lambda key: params)
