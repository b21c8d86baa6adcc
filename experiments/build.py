"""From a config to objects: the only place that reads nested config fields."""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from etils import epath

from experiments import convert_zoo, panel_methods, sabotage
from experiments.data import Preset, Split, require
from experiments.data import load_split as _load_split
from experiments.data import preset as _preset
from experiments.optimizers import optimizer
from free_jax import evaluation, inversion, memory, metalearning, parallel
from free_jax import replay as replay_lib
from free_jax import zoo as zoo_lib
from free_jax.algorithms import Algorithm, episodic, free, panel_distillation
from free_jax.architecture import Architecture, architecture
from free_jax.errors import InputError
from free_jax.models import Generator
from free_jax.types import ImageBank

HOW_TO_GIVE_TEACHERS = (
    "give a folder of .pth or .safetensors teachers, a converted zoo, or the zoo "
    "folder that a pretrain run wrote"
)


class Experiment(NamedTuple):
    """What the training loop needs.

    Attributes:
      algorithm: init, step, params.
      data: second argument of ``step``: the zoo's teachers, or a bank of images.
      model: the network that is trained and saved.
      student: the same with one output a way, which adaptation by gradient and the
        yardsticks use.
      methods: name in the table to how the trained parameters classify an episode;
        the first one is the headline and what selection looks at.
      test_learner: adaptation by gradient, which the yardsticks share.
      pseudo_task: (shots, queries) of episodes of recovered images.
      images_per_step: recovered in a step.
      status: metrics of the status line and their short names there.
      memory_of: ``state -> ImageBank`` of recovered images, or None.
      zoo: the teachers, or None where no method uses them.
    """

    algorithm: Algorithm
    data: Any
    model: Architecture
    student: Architecture
    methods: dict[str, evaluation.Classify]
    test_learner: metalearning.MetaLearner
    pseudo_task: tuple[int, int]
    images_per_step: int
    status: dict[str, str]
    memory_of: Callable[[Any], ImageBank] | None
    zoo: zoo_lib.Zoo | None


def preset(config: Any) -> Preset:
    """The data set's image size and normalisation."""
    chosen = _preset(config.data.name)
    size = config.data.get("image_size", 0)
    return chosen._replace(image_size=size) if size else chosen


def place_zoo(zoo: zoo_lib.Zoo, place: Callable) -> zoo_lib.Zoo:
    """The zoo with its arrays where the mesh expects them."""
    groups = [
        dataclasses.replace(group, teachers=place(group.teachers))
        for group in zoo.groups
    ]
    return zoo_lib.Zoo(tuple(groups), zoo.class_names)


def load_split(config: Any, split: str) -> Split:
    """One split of the configured data set."""
    return _load_split(
        config.data.name,
        split,
        path=config.data.path or None,
        image_size=preset(config).image_size,
        cache_dir=config.data.cache_dir or None,
    )


def evaluation_bank(config: Any, split: str) -> ImageBank:
    """A split checked to be large enough for the configured episodes."""
    images = load_split(config, split)
    most = max(config.eval.shots) + config.eval.queries
    what = f"the {split} split in {config.data.path or config.data.name}"
    require(images, way=config.way, images_per_class=most, what=what)
    return memory.from_arrays(images.images, images.counts)


def classifier(model: Any, way: int, chosen: Preset) -> Architecture:
    """Architecture from a section ``dict(name=..., kwargs=...)``."""
    size = chosen.image_size
    try:
        return architecture(
            model.name,
            way=way,
            image_shape=(size, size, 3),
            mean=chosen.mean,
            std=chosen.std,
            **dict(model.kwargs),
        )
    except (TypeError, ValueError) as error:
        raise InputError(f"model {model.name!r}: {error}") from None


def placement(config: Any) -> tuple[Callable, Callable]:
    """Where arrays live and how tasks are spread.

    Returns:
      ``place(tree)`` copies arrays to every device of the mesh; ``map_tasks(fn)``.
    """
    if config.mesh.task == 1:
        local = functools.partial(parallel.map_tasks, local=config.mesh.local)
        return jax.device_put, local
    try:
        mesh = parallel.make_mesh({"task": config.mesh.task})
    except ValueError as error:
        raise InputError(f"config.mesh.task={config.mesh.task}: {error}") from None
    everywhere = jax.sharding.NamedSharding(mesh, jax.P())
    spread = functools.partial(parallel.map_tasks, mesh=mesh, local=config.mesh.local)
    return functools.partial(jax.device_put, device=everywhere), spread


def load_zoo(config: Any) -> zoo_lib.Zoo:
    """The configured teachers, converted on first use and cached afterwards."""
    zoos = [_load_one_zoo(config, path) for path in config.zoo.path.split(",")]
    zoo = zoos[0] if len(zoos) == 1 else zoo_lib.merge(zoos)
    if config.zoo.num_teachers:
        zoo = zoo_lib.subset(zoo, config.zoo.num_teachers)
    if config.zoo.get("sabotage", 0.0):
        zoo = sabotage.sabotage(zoo, config.zoo.sabotage, config.seed)
    if zoo.way != config.way:
        raise InputError(
            f"config.way={config.way} but the teachers in {config.zoo.path} are "
            f"{zoo.way}-way; set --config.way={zoo.way}"
        )
    return zoo


def _load_one_zoo(config: Any, path: str) -> zoo_lib.Zoo:
    if (epath.Path(path).expanduser() / "zoo.json").exists():
        zoo = zoo_lib.load_zoo(epath.Path(path).expanduser())
        _check_domain(config, zoo, path)
        return zoo
    chosen = preset(config)
    if not config.data.path:
        raise InputError(
            "config.data.path is empty; class ids of PyTorch teachers index the sorted "
            "names of its train folder, so it is needed to convert them"
        )
    home = config.data.cache_dir or os.environ.get(
        "FREE_JAX_CACHE", "~/.cache/free_jax"
    )
    zoos = pathlib.Path(home).expanduser() / "zoos"
    return convert_zoo.cached_zoo(
        path,
        zoos,
        # Only the names of the training classes are read, never their images.
        convert_zoo.class_names_of(config.data.path),
        chosen.mean,
        chosen.std,
        chosen.image_size,
        config.data.name,
        progress=convert_zoo.show_progress,
    )


def _check_domain(config: Any, zoo: zoo_lib.Zoo, path: str) -> None:
    """Refuses a converted zoo that was made for another version of the data."""
    size = preset(config).image_size
    for group in zoo.groups:
        if group.domain != config.data.name:
            continue  # Teachers of another domain may differ from the data.
        shape = group.architecture.image_shape
        if shape[0] != size:
            raise InputError(
                f"{path}: its {group.domain} teachers see images of {shape[0]} pixels, "
                f"the data has {size}; set --config.data.image_size={shape[0]}"
            )
        if config.data.path and len(zoo.groups) == 1:
            names = convert_zoo.class_names_of(config.data.path)
            if names != zoo.class_names:
                raise InputError(
                    f"{path}: the zoo knows {zoo.num_classes} classes "
                    f"({', '.join(zoo.class_names[:3])}, ...) but {config.data.path}"
                    f"/train has {len(names)} ({', '.join(names[:3])}, ...); give the "
                    "data that the teachers were trained on"
                )


def learners(
    config: Any, student: Architecture
) -> tuple[metalearning.MetaLearner, metalearning.MetaLearner]:
    """The learner as it is trained and as it is tested."""
    section = config.learner
    if section.kind == "protonet":
        learner = metalearning.protonet(student)
        return learner, learner
    make = functools.partial(
        metalearning.maml,
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
    return train, test


def _teachers_per_step(config: Any, zoo: zoo_lib.Zoo) -> tuple[int, ...]:
    """Splits the step's teachers evenly over the groups, first groups first."""
    total, groups = config.inversion.teachers_per_step, len(zoo.groups)
    counts = [total // groups + (i < total % groups) for i in range(groups)]
    return tuple(counts)


def _episodic_update(config: Any, learner, tx, map_tasks: Callable) -> Callable:
    section = config.replay
    return replay_lib.episodic_update(
        learner,
        tx,
        way=config.way,
        shots=section.shots,
        queries=section.queries,
        episodes_per_update=section.episodes_per_update,
        augment_images=section.augment,
        map_tasks=map_tasks,
    )


def _adapted(config: Any, learner: metalearning.MetaLearner):
    name = f"{config.algorithm} ({config.learner.kind})"
    return {name: evaluation.learner_classifier(learner)}


def _free(config: Any, zoo: zoo_lib.Zoo, map_tasks: Callable, prepare) -> Experiment:
    del prepare
    student = classifier(config.student, config.way, preset(config))
    train_learner, test_learner = learners(config, student)
    options = config.inversion
    generator = Generator(
        image_shape=student.image_shape,
        width=config.generator.width,
        num_classes=config.way if config.generator.labels != "none" else 0,
        label_input="split" if config.generator.labels == "split" else "concat",
    )
    inner = optax.multi_transform(
        {
            "generator": optimizer(options.generator_optimizer),
            "latents": optimizer(options.latent_optimizer),
        },
        {"generator": "generator", "latents": "latents"},
    )
    objective = inversion.Objective(**options.objective.to_dict())
    needed = config.replay.shots + config.replay.queries
    if needed > options.images_per_class:
        raise InputError(
            f"config.replay needs {needed} images a class (shots + queries) but "
            f"inversion.images_per_class={options.images_per_class} recovers fewer"
        )
    tx = optimizer(config.optimizer)
    update = _episodic_update(config, train_learner, tx, map_tasks)
    try:
        generators = tuple(
            inversion.meta_generator(
                generator,
                arch,
                inner_optimizer=inner,
                objective=objective,
                student=student,
                num_steps=options.num_steps,
                latent_dim=config.generator.latent_dim,
                meta_gradient=options.meta_gradient,
                keep=options.keep,
            )
            for arch in zoo.architectures
        )
        algorithm = free(
            generators,
            zoo.architectures,
            train_learner,
            student,
            replay_lib.replay(
                update,
                patience=config.replay.patience,
                max_updates=config.replay.max_updates,
            ),
            generator_optimizer=optimizer(options.outer_optimizer),
            optimizer=tx,
            align_optimizer=optimizer(config.align.optimizer),
            teachers_per_step=_teachers_per_step(config, zoo),
            num_classes=zoo.num_classes,
            images_per_class=options.images_per_class,
            memory_per_class=config.memory.per_class,
            warmup_steps=options.warmup_steps,
            distill=config.align.distill,
            hard_label_weight=config.align.hard_label_weight,
            align_scale=config.align.scale,
            augment_per_image=options.objective.augment_per_image,
            store=config.memory.store,
            generator_optimizer_state=options.outer_state,
            map_tasks=map_tasks,
        )
    except ValueError as error:
        raise InputError(f"config: {error}") from None
    return Experiment(
        algorithm=algorithm,
        data=zoo.teachers,
        model=student,
        student=student,
        methods=_adapted(config, test_learner),
        test_learner=test_learner,
        pseudo_task=(config.replay.shots, config.replay.queries),
        images_per_step=options.teachers_per_step
        * config.way
        * options.images_per_class,
        status={
            "inversion_ce": "ce",
            "teacher_accuracy": "teacher acc",
            "replay_accuracy": "replay acc",
        },
        memory_of=lambda state: state.memory,
        zoo=zoo,
    )


def _episodic(
    config: Any, zoo: zoo_lib.Zoo | None, map_tasks: Callable, prepare
) -> Experiment:
    del prepare
    student = classifier(config.student, config.way, preset(config))
    train_learner, test_learner = learners(config, student)
    split = load_split(config, "train")
    needed = config.replay.shots + config.replay.queries
    what = f"the train split in {config.data.path or config.data.name}"
    require(split, way=config.way, images_per_class=needed, what=what)
    tx = optimizer(config.optimizer)
    update = _episodic_update(config, train_learner, tx, map_tasks)
    data = memory.from_arrays(split.images, split.counts)
    algorithm = episodic(train_learner, update, tx)
    return Experiment(
        algorithm=algorithm,
        data=data,
        model=student,
        student=student,
        methods=_adapted(config, test_learner),
        test_learner=test_learner,
        pseudo_task=(config.replay.shots, config.replay.queries),
        images_per_step=0,
        status={"replay_accuracy": "train acc"},
        memory_of=None,
        zoo=zoo,
    )


def panel_teachers(config: Any, zoo: zoo_lib.Zoo) -> zoo_lib.Zoo:
    """The teachers that are asked: all, or the first few of each group."""
    count = config.panel.teachers
    return zoo_lib.subset(zoo, count) if count else zoo


def _panel(
    config: Any, zoo: zoo_lib.Zoo, map_tasks: Callable, prepare: Callable
) -> Experiment:
    chosen = preset(config)
    asked = panel_teachers(config, zoo)
    num_teachers = asked.num_teachers
    model = classifier(config.student, num_teachers * zoo.way, chosen)
    options = config.distill
    tx = optimizer(options.optimizer)
    if options.cosine:
        decay = optax.cosine_decay_schedule(1.0, config.num_steps)
        tx = optax.chain(tx, optax.scale_by_schedule(decay))
    try:
        algorithm = panel_distillation(
            model,
            num_teachers=num_teachers,
            optimizer=tx,
            batch_size=options.batch_size,
            temperature=options.temperature,
            crop_padding=options.crop_padding,
            mix=options.mix,
            similarity=options.similarity,
        )
    except ValueError as error:
        raise InputError(f"config.distill: {error}") from None
    # The same network with a head of one output a way: what is adapted by gradient,
    # and what the yardsticks start from.
    student = classifier(config.student, config.way, chosen)
    _, test_learner = learners(config, student)
    described = prepare(zoo, asked, map_tasks)  # Last: it takes minutes.
    return Experiment(
        algorithm=algorithm,
        data=described,
        model=model,
        student=student,
        methods=panel_methods.methods(
            model,
            way=config.way,
            num_teachers=num_teachers,
            weights=described.weights,
            temperature=options.temperature,
            learner=test_learner,
        ),
        test_learner=test_learner,
        pseudo_task=(1, 15),
        images_per_step=0,
        status={"distill_loss": "kl", "agreement": "agree"},
        memory_of=None,
        zoo=zoo,
    )


# Values of config.algorithm.
ALGORITHMS = {"free": _free, "episodic": _episodic, "panel": _panel}


def experiment(
    config: Any, zoo: zoo_lib.Zoo | None, map_tasks: Callable, prepare: Callable
) -> Experiment:
    """Builds what ``config.algorithm`` names.

    Args:
      config: of the run.
      zoo: teachers, or None.
      map_tasks: how tasks are spread.
      prepare: ``(zoo, asked zoo, map_tasks) -> Described``: recovers images from the
        first and asks the second about them, for algorithms that need that.
    """
    if config.algorithm != "episodic" and zoo is None:
        raise InputError(f"config.zoo.path is empty: {HOW_TO_GIVE_TEACHERS}")
    return ALGORITHMS[config.algorithm](config, zoo, map_tasks, prepare)


def most_recent(bank: ImageBank, images: int) -> np.ndarray:
    """The last images stored of every class that has as many, [C', images, h, w, c]."""
    counts, cursor = np.asarray(bank.counts), np.asarray(bank.cursor)
    rows = []
    for class_id in np.flatnonzero(counts >= images):
        index = (cursor[class_id] - 1 - np.arange(images)) % counts[class_id]
        rows.append(np.asarray(bank.images[class_id])[index])
    shape = (0, images, *bank.images.shape[2:])
    return np.stack(rows) if rows else np.zeros(shape, np.uint8)
