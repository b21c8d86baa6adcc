"""BiDf-MKD: meta-learn from black boxes by queries alone.

One step: draw a teacher; recover a support set from what it answers; adapt a copy of
the meta-model to it; recover a query set, later on where teacher and copy agree least
(the boundary query set); store both; move the meta-model by the gradient of both levels
of distillation together with that of replayed episodes; then replay until it stops
helping.

A teacher of more classes than the meta-model is asked about as many of them, drawn
anew each time (see `zoo.tasks`).  Where teachers of several networks take part, each
network is asked by a program of its own, and what follows is another.

Reference:
  Hu et al., "Learning to Learn from APIs: Black-Box Data-Free Meta-Learning",
  ICML 2023, and its released code; every difference between the two and our default is
  an option here, in `bilevel`, `inversion.Estimator` or `inversion.Objective`, listed
  in docs/reference/differences.md.

Example::

    levels = bidf_bilevel.bilevel(student, inner_lr=0.01, num_steps=10)
    algorithm = bidf(
        (inverter,), zoo.networks, learner, student, levels, episode_gradients,
        replay, optax.adam(1e-3), num_teachers=(zoo.num_teachers,),
        num_classes=zoo.num_classes, options=BidfOptions(images_per_class=20),
    )
    state = jax.jit(algorithm.init)(key)
    step = algorithm.compiled()
    state, info = step(step_key, state, zoo.teachers)
    variables = algorithm.model(state)  # {"params": ...}
"""

from collections.abc import Callable
from typing import Annotated, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, Key

from free_jax import augment, optimizers
from free_jax.algorithm import Algorithm, all_finite, bind
from free_jax.algorithms.bidf_bilevel import Bilevel, Taught
from free_jax.algorithms.drawn import Drawn, read, teachers_of
from free_jax.fewshot import banks
from free_jax.fewshot.banks import CapacityOptions
from free_jax.fewshot.episodes import balanced_labels
from free_jax.fewshot.learners import MetaLearner
from free_jax.inversion import Adversary, InversionInfo, Inverter
from free_jax.options import AtLeast, check, sgd
from free_jax.types import ImageBank, PyTree, Recovered, Teachers
from free_jax.zoo.network import Network
from free_jax.zoo.tasks import draw_classes, take_task


class BidfOptions(NamedTuple):
    """The task recovered in each step.

    Attributes:
      images_per_class: of the support set, and of the query set.
      boundary_after: steps before query sets are sought at the boundary.
      outer_optimizer: of the shared generator; a quarter of both inversions' sum is
        half of the way to what they found, on average.
      generator_init: each inversion starts from the generator "shared" by all teachers
        so far, or from a "fresh" one (released code).
    """

    images_per_class: Annotated[int, AtLeast(1)] = 30
    boundary_after: Annotated[int, AtLeast(0)] = 20
    outer_optimizer: optimizers.Optimizer = sgd(0.25)
    generator_init: Literal["shared", "fresh"] = "shared"


class BidfState(NamedTuple):
    """Everything that training carries.

    Attributes:
      step: [] int32 steps made.
      generator: parameters that inversions start from.
      generator_opt: state of their outer optimiser.
      params: parameters of the meta-model.
      opt: state of its optimiser, shared by distillation and replay.
      memory: recovered images by absolute class id.
      queries: a group each, [T] int32 images that a teacher was asked about.
    """

    step: jax.Array
    generator: PyTree
    generator_opt: PyTree
    params: PyTree
    opt: PyTree
    memory: ImageBank
    queries: tuple[jax.Array, ...]


class BidfInfo(NamedTuple):
    """Scalars of one step.

    Attributes:
      inversion_ce: cross-entropy at the last inner step, mean over both sets.
      teacher_accuracy: share of recovered images with the wanted label, in [0, 1].
      boundary_loss: of the query set at its last inner step, without cross-entropy.
      distill_loss, distill_accuracy: of the adapted model on the query set.
      replay_loss, replay_accuracy: means over replayed episodes.
      replay_updates: optimiser steps made on replayed episodes alone.
      step_queries: images that the step's teacher was asked about.
      is_finite: whether losses and parameters are finite.
    """

    inversion_ce: jax.Array
    teacher_accuracy: jax.Array
    boundary_loss: jax.Array
    distill_loss: jax.Array
    distill_accuracy: jax.Array
    replay_loss: jax.Array
    replay_accuracy: jax.Array
    replay_updates: jax.Array
    step_queries: jax.Array
    is_finite: jax.Array


class Parts(NamedTuple):
    """What BiDf-MKD is composed of; the arguments of `bidf`.

    Attributes:
      inverters: one a network.
      networks: of the zoo's groups, in its order, as `zoo.tasks.narrowed` to the
        student's number of classes; a step draws a group, then a teacher of it, both
        uniformly.
      learner: trained on replayed episodes; gives the initialisation.
      student: the meta-model's network.
      levels: from `bidf_bilevel.bilevel`.
      episode_gradients: of the episodes that share an update with the distillation
        (three in the released code), from `replay.episodic_gradients`.
      replay: from `replay.replay`.
      optimizer: of the meta-model, shared by distillation and replay.
      num_teachers: of each group.
      num_classes: absolute class ids in the zoo.
      options: see `BidfOptions`; the released code seeks the boundary after 4000
        updates of 60000.
      memory: see `CapacityOptions`.
      augment_per_image: one crop and flip an image or one for all (released code).
    """

    inverters: tuple[Inverter, ...]
    networks: tuple[Network, ...]
    learner: MetaLearner
    student: Network
    levels: Bilevel
    episode_gradients: Callable
    replay: Callable
    optimizer: optax.GradientTransformation
    num_teachers: tuple[int, ...]
    num_classes: int
    options: BidfOptions
    memory: CapacityOptions
    augment_per_image: bool

    @property
    def outer_optimizer(self) -> optax.GradientTransformation:
        """Of the generator, fed the SUM of both inversions' gradients."""
        return optimizers.optimizer(self.options.outer_optimizer)

    @property
    def labels(self) -> Int[Array, " n"]:
        """What each of a teacher's two sets is recovered for."""
        per_class = self.options.images_per_class
        return balanced_labels(self.student.num_classes, per_class)


class Given(NamedTuple):
    """What a teacher's program is given of the state, see `BidfState`."""

    step: jax.Array
    generator: PyTree
    params: PyTree


class TaskResult(NamedTuple):
    """What a step got out of its teacher; images have the student's size.

    Attributes:
      support, query: both recovered sets.
      loss, accuracy: of the adapted model on the query set.
      grads: of the meta-model, through both levels.
      direction: sum of both inversions' gradients of the generator.
      infos: of both inversions.
      queries: [] int32 images that the teacher was asked about.
    """

    support: Recovered
    query: Recovered
    loss: jax.Array
    accuracy: jax.Array
    grads: PyTree
    direction: PyTree
    infos: tuple[InversionInfo, InversionInfo]
    queries: jax.Array


def init(parts: Parts, key: Key[Array, ""]) -> BidfState:
    """Random generator, the learner's initialisation and an empty memory."""
    key_generator, key_params = jax.random.split(key)
    generator = parts.inverters[0].init(key_generator)
    params = parts.learner.init(key_params)
    return BidfState(
        step=jnp.int32(0),
        generator=generator,
        generator_opt=parts.outer_optimizer.init(generator),
        params=params,
        opt=parts.optimizer.init(params),
        memory=banks.init(
            parts.num_classes, parts.memory.per_class, parts.student.image_shape
        ),
        queries=tuple(jnp.zeros(n, jnp.int32) for n in parts.num_teachers),
    )


def step(
    parts: Parts,
    key: Key[Array, ""],
    state: BidfState,
    data: tuple[Teachers, ...] | Drawn,
    programs: Callable,
) -> tuple[BidfState, BidfInfo]:
    """Asks one teacher, remembers its images, distils it and replays."""
    key_group, key_teacher, key_task, key_episodes, key_replay = jax.random.split(
        key, 5
    )
    group = _group(parts, key_group)
    row = _draw_teacher(key_teacher, parts.num_teachers[group])
    teachers, at = teachers_of(data, 0, group, lambda: row)
    given = Given(state.step, state.generator, state.params)
    # Of a stack that holds no other teacher it is the first.
    rows = (row, jnp.zeros_like(row) if at is None else at)
    result, queries = programs(learn_from, group)(
        key_task, rows, given, teachers, state.queries[group]
    )
    queries = (*state.queries[:group], queries, *state.queries[group + 1 :])
    return programs(learn, donate=0)(
        state._replace(queries=queries), result, (key_episodes, key_replay)
    )


def draws(
    parts: Parts, key: Key[Array, ""], step: jax.Array, data: tuple[Teachers, ...]
) -> tuple[jax.Array, ...]:
    """How often a step draws each teacher, see `Algorithm.draws`."""
    del step, data
    key_group, key_teacher, _, _, _ = jax.random.split(key, 5)
    drawn = _draw_group(parts, key_group)
    return tuple(
        jnp.zeros(held, jnp.int32)
        .at[_draw_teacher(key_teacher, held)]
        .set((drawn == group).astype(jnp.int32))
        for group, held in enumerate(parts.num_teachers)
    )


def feed(
    parts: Parts, key: Key[Array, ""], step: int, data: tuple[Teachers, ...]
) -> Drawn:
    """The teacher that a step draws, see `Algorithm.feed`."""
    del step
    key_group, key_teacher, _, _, _ = jax.random.split(key, 5)
    group = _group(parts, key_group)
    row = _draw_teacher(key_teacher, parts.num_teachers[group])
    return read(data, (group,), (row[None],))


def _group(parts: Parts, key: jax.Array) -> int:
    """Whose turn it is; a number, which is drawn where there are several."""
    return int(_draw_group(parts, key)) if len(parts.num_teachers) > 1 else 0


def _draw_group(parts: Parts, key: jax.Array) -> jax.Array:
    return jax.random.randint(key, (), 0, len(parts.num_teachers))


def _draw_teacher(key: jax.Array, held: int) -> jax.Array:
    return jax.random.randint(key, (), 0, held)


def learn(
    parts: Parts,
    state: BidfState,
    result: TaskResult,
    keys: tuple[jax.Array, jax.Array],
) -> tuple[BidfState, BidfInfo]:
    """All of a step but the teacher's part: memory, generator and meta-model."""
    key_episodes, key_replay = keys
    memory = banks.add(state.memory, result.support)
    memory = banks.add(memory, result.query)
    generator, generator_opt = state.generator, state.generator_opt
    if parts.options.generator_init == "shared":
        generator, generator_opt = _move(
            parts.outer_optimizer, result.direction, generator_opt, generator
        )
    episodes, _ = parts.episode_gradients(key_episodes, state.params, memory)
    grads = jax.tree.map(jnp.add, result.grads, episodes)
    params, opt = _move(parts.optimizer, grads, state.opt, state.params)
    params, opt, replayed = parts.replay(key_replay, params, opt, memory)

    first, second = result.infos
    info = BidfInfo(
        inversion_ce=(first.cross_entropy[-1] + second.cross_entropy[-1]) / 2,
        teacher_accuracy=(first.teacher_accuracy + second.teacher_accuracy) / 2,
        boundary_loss=second.loss[-1] - second.cross_entropy[-1],
        distill_loss=result.loss,
        distill_accuracy=result.accuracy,
        replay_loss=replayed.loss,
        replay_accuracy=replayed.accuracy,
        replay_updates=replayed.num_updates,
        step_queries=result.queries,
        is_finite=all_finite(generator, params) & first.is_finite & second.is_finite,
    )
    return BidfState(
        step=state.step + 1,
        generator=generator,
        generator_opt=generator_opt,
        params=params,
        opt=opt,
        memory=memory,
        queries=state.queries,
    ), info


def learn_from(
    parts: Parts,
    group: int,
    key: jax.Array,
    rows: tuple[jax.Array, jax.Array],
    given: Given,
    teachers: Teachers,
    queries: Int[Array, " t"],
) -> tuple[TaskResult, Int[Array, " t"]]:
    """Both sets of one teacher and the gradient of both levels.

    Args:
      parts: of the algorithm.
      group: the teacher's.
      key: of all that is drawn.
      rows: the teacher in its group, and in `teachers`.
      given: of the state.
      teachers: a stack of the group.
      queries: [T] images that each of the group was asked about so far.

    Returns:
      What the teacher gave, and the queries with its own.
    """
    each = jax.random.split(key, 6)
    row, at = rows
    chosen = draw_classes(
        # Beyond the six.
        jax.random.fold_in(key, 6),
        1,
        teachers.class_ids.shape[-1],
        parts.networks[group].num_classes,
    )
    teacher = take_task(teachers, at, None if chosen is None else chosen[0])
    support, support_info, support_direction = recover(
        parts, group, given, teacher, each[0], each[1], None
    )
    taught = teach(parts, group, each[2], teacher, support)
    fast, pull_back = jax.vjp(lambda p: parts.levels.adapt(p, taught), given.params)
    sought = (given.step >= parts.options.boundary_after).astype(jnp.float32)
    query, query_info, query_direction = recover(
        parts,
        group,
        given,
        teacher,
        each[3],
        each[4],
        Adversary(fast, sought),
    )
    asked = teach(parts, group, each[5], teacher, query)
    (loss, accuracy), outer = jax.value_and_grad(parts.levels.loss, has_aux=True)(
        fast, asked
    )
    # Both inversions, and each set once more for the distillation.
    spent = support_info.queries + query_info.queries + 2 * len(parts.labels)
    result = TaskResult(
        support=_fitted(parts, support),
        query=_fitted(parts, query),
        loss=loss,
        accuracy=accuracy,
        grads=pull_back(outer)[0],
        direction=jax.tree.map(jnp.add, support_direction, query_direction),
        infos=(support_info, query_info),
        queries=spent,
    )
    return result, queries.at[row].add(spent)


def recover(
    parts: Parts,
    group: int,
    given: Given,
    teacher: Teachers,
    key_start: jax.Array,
    key: jax.Array,
    adversary: Adversary | None,
) -> tuple[Recovered, InversionInfo, PyTree]:
    """One set of a teacher's images; see `Inverter.invert`."""
    start, inverter = given.generator, parts.inverters[group]
    if parts.options.generator_init == "fresh":
        start = inverter.init(key_start)
    return inverter.invert(key, start, teacher, parts.labels, adversary)


def teach(
    parts: Parts, group: int, key: jax.Array, teacher: Teachers, recovered: Recovered
) -> Taught:
    """A teacher's answers to augmented views of a recovered set."""
    network = parts.networks[group]
    views = augment.crop_flip(key, recovered.images, per_image=parts.augment_per_image)
    seen = augment.fit_to(views, network.image_shape)
    logits = network.apply(teacher.variables, seen)
    views = augment.fit_to(views, parts.student.image_shape)
    return Taught(views, logits, parts.labels)


def _fitted(parts: Parts, recovered: Recovered) -> Recovered:
    fitted = augment.fit_to(recovered.images, parts.student.image_shape)
    return recovered._replace(images=fitted)


def _move(
    tx: optax.GradientTransformation, grads: PyTree, opt_state: PyTree, params: PyTree
) -> tuple[PyTree, PyTree]:
    updates, opt_state = tx.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), opt_state


def bidf(
    inverters: tuple[Inverter, ...],
    networks: tuple[Network, ...],
    learner: MetaLearner,
    student: Network,
    levels: Bilevel,
    episode_gradients: Callable,
    replay: Callable,
    optimizer: optax.GradientTransformation,
    *,
    num_teachers: tuple[int, ...],
    num_classes: int,
    options: BidfOptions = BidfOptions(),
    memory: CapacityOptions = CapacityOptions(),
    augment_per_image: bool = True,
) -> Algorithm:
    """Composes inversion by queries, bi-level distillation and replay.

    The arguments are described by `Parts`.  The algorithm's data is the zoo's tuple of
    teacher stacks; those of a zoo in files are fed to it (`Algorithm.feed`).

    Raises:
      ValueError: options out of range, or arguments that contradict each other.
    """
    parts = Parts(
        inverters=inverters,
        networks=networks,
        learner=learner,
        student=student,
        levels=levels,
        episode_gradients=episode_gradients,
        replay=replay,
        optimizer=optimizer,
        num_teachers=num_teachers,
        num_classes=num_classes,
        options=options,
        memory=memory,
        augment_per_image=augment_per_image,
    )
    _check(parts)
    return bind(init, step, parts, num_programs=len(networks), draws=draws, feed=feed)


def _check(parts: Parts) -> None:
    """Refuses options out of range, and parts that contradict each other."""
    check(parts.options, parts.memory)
    optimizers.optimizer(parts.options.outer_optimizer)
    groups = len(parts.networks)
    if not len(parts.inverters) == len(parts.num_teachers) == groups:
        raise ValueError(
            f"the zoo has {groups} groups but there are {len(parts.inverters)} "
            f"inverters and num_teachers={parts.num_teachers}; give one a group"
        )
    for network in parts.networks:
        if network.num_classes != parts.student.num_classes:
            raise ValueError(
                f"{network.name} teachers are {network.num_classes}-way but the meta-"
                f"model is {parts.student.num_classes}-way; BiDf-MKD distils outputs "
                "one to one: give narrowed networks (zoo.tasks.narrowed)"
            )
    if parts.options.images_per_class > parts.memory.per_class:
        raise ValueError(
            f"images_per_class={parts.options.images_per_class} exceeds "
            f"memory.per_class={parts.memory.per_class}"
        )
