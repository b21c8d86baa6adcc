"""The images that a panel is asked about: recovered from each teacher, or drawn."""

from collections import Counter
from collections.abc import Callable

import jax
from jaxtyping import Array, Key

from free_jax import inversion, keys, parallel
from free_jax import jobs as jobs_lib
from free_jax import zoo as zoo_lib
from free_jax.panel.options import RecoverOptions
from free_jax.types import PyTree, SyntheticImages


def recover_zoo(
    key: Key[Array, ""],
    zoo: zoo_lib.Zoo,
    options: RecoverOptions = RecoverOptions(),
    run: jobs_lib.Run = jobs_lib.in_memory,
    *,
    adversaries: inversion.Adversaries | None = None,
    map_tasks: Callable = parallel.map_tasks,
) -> SyntheticImages:
    """Images of every teacher, in the zoo's order, and dead leaves.

    Args:
      key: of the whole recovery.
      zoo: teachers.
      options: see `RecoverOptions`.
      run: does the jobs of the stages "meta_generator" and "recovered".
      adversaries: models that recovered images should be new to.
      map_tasks: how teachers are spread, see `parallel.map_tasks`.

    Raises:
      ValueError: there is nothing to make, or the recipe does not fit a network.
    """
    image_shape = common_shape(zoo, options.image_size)
    shared = None
    trains = options.inversion.source == "generator" and options.meta_training.num_steps
    if options.images_per_class and trains:
        shared = [
            _meta_trained(key, number, group, options, run, map_tasks)
            if inversion.invertible(options.inversion, group.network)
            else None
            for number, group in enumerate(zoo.groups)
        ]
    jobs = inversion.recovery_jobs(
        key,
        zoo,
        options.inversion,
        images_per_class=options.images_per_class,
        images_per_teacher=options.images_per_teacher,
        at_once=options.at_once,
        image_shape=image_shape,
        shared=shared,
        adversaries=adversaries,
        map_tasks=map_tasks,
    )
    jobs += inversion.leaves_jobs(key, options.dead_leaves, image_shape)
    # What an earlier version kept does not say whether it is like real images.
    natural = options.inversion.init == "dead_leaves"
    return inversion.images_of(list(run("recovered", jobs)), natural=natural)


def quota_of(options: RecoverOptions) -> inversion.Quota:
    """How many images are recovered from each teacher."""
    return inversion.Quota(options.images_per_class, options.images_per_teacher)


def common_shape(zoo: zoo_lib.Zoo, image_size: int = 0) -> tuple[int, int, int]:
    """(h, w, c) of images that all teachers of a zoo are asked about.

    Args:
      zoo: teachers, whose images may be of different shapes.
      image_size: height and width wanted; 0: those of most teachers, of the larger ones
        where as many see smaller ones.

    Returns:
      The shape; in colours where any teacher sees them.
    """
    counts: Counter[tuple[int, int]] = Counter()
    for group in zoo.groups:
        counts[group.network.image_shape[:2]] += group.num_teachers
    h, w = max(counts, key=lambda size: (counts[size], size))
    channels = max(network.image_shape[2] for network in zoo.networks)
    return image_size or h, image_size or w, channels


def _meta_trained(
    key: jax.Array,
    number: int,
    group: zoo_lib.ZooGroup,
    options: RecoverOptions,
    run: jobs_lib.Run,
    map_tasks: Callable,
) -> PyTree:
    """The generator of one group of teachers."""
    wanted, network = options.meta_training, group.network
    jobs, left = inversion.generator_jobs(
        keys.named(key, "generator", number),
        inversion.build(inversion.suited(options.inversion, network), network),
        group.teachers,
        # Of a teacher of very many classes, those of one draw.
        quota_of(options).labels(keys.named(key, "classes"), network.num_classes),
        num_steps=wanted.num_steps,
        teachers_per_step=wanted.teachers_per_step,
        optimizer=wanted.optimizer,
        name=f"group{number}",
        map_tasks=map_tasks,
    )
    states = [left(result) for result in run("meta_generator", jobs)]
    return states[-1].generator
