"""What the training loop needs of an algorithm, and the parts several share."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import optax

from experiments import inputs
from experiments.data import Preset
from experiments.harness.optimizers import optimizer
from experiments.stages import build_inversion
from free_jax import model_io
from free_jax import zoo as zoo_lib
from free_jax.algorithm import Algorithm
from free_jax.errors import InputError
from free_jax.fewshot import evaluation, initialization
from free_jax.fewshot import learners as learners_lib
from free_jax.fewshot import replay as replay_lib
from free_jax.models import Generator
from free_jax.types import ImageBank
from free_jax.zoo.network import Network, make_network

# Keys of a config with their value and what it may be.
Choices = dict[str, tuple[Any, tuple[str, ...]]]
# Keys of a config whose value must be at least one.
Positive = dict[str, float]


class Experiment(NamedTuple):
    """What the training loop needs.

    Attributes:
      algorithm: init, step, model.
      data: second argument of ``step``: the zoo's teachers, or a bank of images.
      model: the network that is trained and saved.
      student: the same with one output a way, which meta-learners and the yardsticks
        adapt.
      methods: name in the table to how the trained parameters classify an episode;
        the first one is the headline and what selection looks at.
      test_learner: how the student is adapted to an episode; the yardsticks share it.
      pseudo_task: (shots, queries) of episodes of recovered images.
      images_per_step: recovered in a step.
      status: metrics of the status line and their short names there.
      memory_of: ``state -> ImageBank`` of recovered images, or None.
      held_out: images recovered of classes that the training never sees, whose
        episodes judge a model without data; None where there are none.
      zoo: the teachers, or None where no method uses them.
      queries_of: ``state -> [T]`` images that each teacher was asked about so far, or
        None where nothing counts them.
      images_before: recovered before the first step, or kept and improved in every
        step.
      meta_updates: from the metrics of a step, how often it updated the meta-model.
    """

    algorithm: Algorithm
    data: Any
    model: Network
    student: Network
    methods: dict[str, evaluation.Classify]
    test_learner: learners_lib.MetaLearner
    pseudo_task: tuple[int, int]
    images_per_step: int
    status: dict[str, str]
    memory_of: Callable[[Any], ImageBank] | None
    zoo: zoo_lib.Zoo | None
    held_out: ImageBank | None = None
    queries_of: Callable[[Any], np.ndarray] | None = None
    images_before: int = 0
    meta_updates: Callable[[dict[str, float]], float] = lambda metrics: 1


def student(config: Any, way: int) -> Network:
    """The meta-model of ``config.student`` with `way` outputs."""
    return classifier(config.student, way, inputs.preset(config), config.dtype)


def classifier(model: Any, way: int, chosen: Preset, dtype: str = "float32") -> Network:
    """Architecture from a section ``dict(name=..., kwargs=...)``."""
    size = chosen.image_size
    kwargs = dict(model.kwargs)
    if dtype != "float32":
        kwargs["dtype"] = dtype
    try:
        return make_network(
            model.name,
            num_classes=way,
            image_shape=(size, size, 3),
            mean=chosen.mean,
            std=chosen.std,
            **kwargs,
        )
    except (TypeError, ValueError) as error:
        raise InputError(f"model {model.name!r}: {error}") from None


def learners(
    config: Any, student: Network
) -> tuple[learners_lib.MetaLearner, learners_lib.MetaLearner]:
    """The learner as it is trained and as it is tested."""
    section = config.learner
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
    section: Any, learner: learners_lib.MetaLearner, student: Network
) -> learners_lib.MetaLearner:
    """The learner, started from the saved model of ``learner.initial`` if it is set."""
    path = section.get("initial")
    if not path:
        return learner
    source, params, _ = model_io.load_model(path)
    try:
        params = initialization.from_model(source, params, student)
    except ValueError as error:
        raise InputError(
            f"config.learner.initial={path}: {error}; set config.student accordingly"
        ) from None
    return learner._replace(init=lambda key: params)


def generator(config: Any, student: Network) -> Generator:
    """The generator of section ``generator``, drawing images of the student's size."""
    section = config.generator
    return Generator(
        image_shape=student.image_shape,
        width=section.width,
        num_classes=config.way if section.labels != "none" else 0,
        label_input="split" if section.labels == "split" else "concat",
    )


def inner_optimizer(options: Any) -> optax.GradientTransformation:
    """What adapts generator and latents to a teacher, from section ``inversion``."""
    return optax.multi_transform(
        {
            "generator": optimizer(options.generator_optimizer),
            "latents": optimizer(options.latent_optimizer),
        },
        {"generator": "generator", "latents": "latents"},
    )


def episode_options(config: Any, map_tasks: Callable) -> dict[str, Any]:
    """Keywords of `replay.episodic_gradients`, as section ``replay`` says."""
    section = config.replay
    return {
        "way": config.way,
        "shots": section.shots,
        "queries": section.queries,
        "episodes_per_update": section.episodes_per_update,
        "augment_images": section.augment,
        "split": section.get("split", "random"),
        "map_tasks": map_tasks,
    }


def recover_limits(recover: Any) -> tuple[Choices, Positive]:
    """What a section ``recover`` may hold."""
    if recover.images_per_class < 0:
        raise InputError(
            f"config.recover.images_per_class={recover.images_per_class} must not be "
            "negative"
        )
    positive = (
        "num_steps",
        "teachers_at_once",
        "generator_width",
        "meta_steps",
        "meta_teachers",
    )
    return (
        {
            "recover.backend": (recover.backend, build_inversion.BACKENDS),
            "recover.start": (recover.start, ("noise", "scenes")),
        },
        {f"recover.{key}": recover[key] for key in positive},
    )


def images_recovered(config: Any, zoo: zoo_lib.Zoo) -> int:
    """How many images section ``recover`` asks for."""
    return zoo.num_teachers * zoo.way * config.recover.images_per_class


def episodic_update(
    config: Any,
    learner: learners_lib.MetaLearner,
    tx: optax.GradientTransformation,
    map_tasks: Callable,
) -> Callable:
    """One meta-update on episodes, as section ``replay`` says."""
    options = episode_options(config, map_tasks)
    return replay_lib.episodic_update(learner, tx, **options)


def adapted(
    config: Any, learner: learners_lib.MetaLearner
) -> dict[str, evaluation.Classify]:
    """The one method of a meta-learner: adapt it to the episode."""
    name = f"{config.algorithm} ({config.learner.kind})"
    return {name: evaluation.learner_classifier(learner)}
