"""BiDf-MKD: meta-learn from black boxes by queries alone.

One step: draw a teacher; recover a support set from what it answers; adapt a copy of
the meta-model to it; recover a query set, later on where teacher and copy agree least
(the boundary query set); store both; move the meta-model by the gradient of both levels
of distillation together with that of replayed episodes; then replay until it stops
helping.

Reference:
  Hu et al., "Learning to Learn from APIs: Black-Box Data-Free Meta-Learning",
  ICML 2023, and its released code; every difference between the two and our default is
  a keyword here, in `bilevel`, `inversion.Estimator` or `inversion.Objective`, listed
  in BUILD_NOTES.md.
"""

import functools
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Key

from free_jax import augment, zoo
from free_jax.algorithm import Algorithm
from free_jax.algorithms.bidf_bilevel import Bilevel, Taught
from free_jax.fewshot import banks
from free_jax.fewshot.episodes import balanced_labels
from free_jax.fewshot.learners import MetaLearner
from free_jax.inversion import Adversary, InversionInfo, Inverter
from free_jax.types import ImageBank, PyTree, Recovered, Teachers
from free_jax.zoo.network import Network


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


class _Lesson(NamedTuple):
    """What a step got out of its teacher; images have the student's size."""

    support: Recovered
    query: Recovered
    loss: jax.Array
    accuracy: jax.Array
    grads: PyTree  # of the meta-model
    direction: PyTree  # of the generator
    infos: tuple[InversionInfo, InversionInfo]
    queries: jax.Array


def bidf(
    inverters: tuple[Inverter, ...],
    architectures: tuple[Network, ...],
    learner: MetaLearner,
    student: Network,
    levels: Bilevel,
    episode_gradients: Callable,
    replay: Callable,
    *,
    optimizer: optax.GradientTransformation,
    generator_optimizer: optax.GradientTransformation,
    num_teachers: tuple[int, ...],
    num_classes: int,
    images_per_class: int = 30,
    memory_per_class: int = 600,
    boundary_after: int = 0,
    generator_start: Literal["shared", "fresh"] = "shared",
    augment_per_image: bool = True,
    respond: Callable[[jax.Array], jax.Array] = lambda logits: logits,
) -> Algorithm:
    """Composes inversion by queries, bi-level distillation and replay.

    Args:
      inverters: one an architecture group.
      architectures: of the zoo's groups, in its order; a step draws a group, then a
        teacher of it, both uniformly.
      learner: trained on replayed episodes; gives the initialisation.
      student: the meta-model's architecture.
      levels: from `bilevel.bilevel`.
      episode_gradients: of the episodes that share an update with the distillation
        (three in the released code), from `replay.episodic_gradients`.
      replay: from `replay.replay`.
      optimizer: of the meta-model, shared by distillation and replay.
      generator_optimizer: outer optimiser of the shared generator, fed the SUM of both
        inversions' gradients.
      num_teachers: of each group.
      num_classes: absolute class ids in the zoo.
      images_per_class: recovered for each of the two sets.
      memory_per_class: capacity of the memory.
      boundary_after: steps before query sets are sought at the boundary (4000 updates
        of 60000 in the released code).
      generator_start: each inversion starts from the generator "shared" by all
        teachers so far, or from a "fresh" one (released code).
      augment_per_image: one crop and flip an image or one for all (released code).
      respond: what of its logits a teacher tells, see `black_box.answers`.

    Returns:
      An `Algorithm` whose data is the zoo's tuple of teacher stacks.

    Raises:
      ValueError: arguments that contradict each other.
    """
    groups = len(architectures)
    if not len(inverters) == len(num_teachers) == groups:
        raise ValueError(
            f"the zoo has {groups} groups but there are {len(inverters)} inverters and "
            f"num_teachers={num_teachers}; give one a group"
        )
    for arch in architectures:
        if arch.num_classes != student.num_classes:
            raise ValueError(
                f"{arch.name} teachers are {arch.num_classes}-way but the meta-"
                f"model is {student.num_classes}-way; BiDf-MKD distils outputs one to "
                "one"
            )
    if images_per_class > memory_per_class:
        raise ValueError(
            f"images_per_class={images_per_class} exceeds memory_per_class="
            f"{memory_per_class}"
        )
    if generator_start not in ("shared", "fresh"):
        raise ValueError(
            f"generator_start={generator_start!r} must be 'shared' or 'fresh'"
        )
    labels = balanced_labels(student.num_classes, images_per_class)

    def init(key: Key[Array, ""]) -> BidfState:
        key_generator, key_params = jax.random.split(key)
        generator = inverters[0].init(key_generator)
        params = learner.init(key_params)
        return BidfState(
            step=jnp.int32(0),
            generator=generator,
            generator_opt=generator_optimizer.init(generator),
            params=params,
            opt=optimizer.init(params),
            memory=banks.init(num_classes, memory_per_class, student.image_shape),
            queries=tuple(jnp.zeros(n, jnp.int32) for n in num_teachers),
        )

    def recover_set(group, state, teacher, key_start, key, adversary):
        start, inverter = state.generator, inverters[group]
        if generator_start == "fresh":
            start = inverter.init(key_start)
        return inverter.invert(key, start, teacher, labels, adversary)

    def take_lesson(
        group: int, key: jax.Array, state: BidfState, teacher: Teachers
    ) -> _Lesson:
        """Both sets of one teacher and the gradient of both levels."""
        arch = architectures[group]
        keys = jax.random.split(key, 6)
        recover = functools.partial(recover_set, group, state, teacher)

        def teach(key: jax.Array, recovered: Recovered) -> Taught:
            views = augment.crop_flip(
                key, recovered.images, per_image=augment_per_image
            )
            seen = augment.fit_to(views, arch.image_shape)
            logits = respond(arch.apply(teacher.variables, seen))
            views = augment.fit_to(views, student.image_shape)
            return Taught(views, logits, labels)

        def fit(recovered: Recovered) -> Recovered:
            fitted = augment.fit_to(recovered.images, student.image_shape)
            return recovered._replace(images=fitted)

        support, support_info, support_direction = recover(keys[0], keys[1], None)
        taught = teach(keys[2], support)
        fast, pull_back = jax.vjp(lambda p: levels.adapt(p, taught), state.params)
        sought = (state.step >= boundary_after).astype(jnp.float32)
        query, query_info, query_direction = recover(
            keys[3], keys[4], Adversary(fast, sought)
        )
        asked = teach(keys[5], query)
        (loss, accuracy), outer = jax.value_and_grad(levels.loss, has_aux=True)(
            fast, asked
        )
        return _Lesson(
            support=fit(support),
            query=fit(query),
            loss=loss,
            accuracy=accuracy,
            grads=pull_back(outer)[0],
            direction=jax.tree.map(jnp.add, support_direction, query_direction),
            infos=(support_info, query_info),
            # Both inversions, and each set once more for the distillation.
            queries=support_info.queries + query_info.queries + 2 * len(labels),
        )

    def move(tx, grads, opt_state, params):
        updates, opt_state = tx.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    def step(
        key: Key[Array, ""], state: BidfState, data: tuple[Teachers, ...]
    ) -> tuple[BidfState, BidfInfo]:
        key_group, key_teacher, key_lesson, key_episodes, key_replay = jax.random.split(
            key, 5
        )
        group = jax.random.randint(key_group, (), 0, groups)

        def lesson_of(number: int):
            def run(state: BidfState) -> tuple[_Lesson, tuple[jax.Array, ...]]:
                index = jax.random.randint(key_teacher, (), 0, num_teachers[number])
                teacher = zoo.take(data[number], index)
                lesson = take_lesson(number, key_lesson, state, teacher)
                spent = state.queries[number].at[index].add(lesson.queries)
                return lesson, (
                    *state.queries[:number],
                    spent,
                    *state.queries[number + 1 :],
                )

            return run

        lesson, queries = jax.lax.switch(
            group, [lesson_of(number) for number in range(groups)], state
        )
        bank = banks.add(state.memory, lesson.support)
        bank = banks.add(bank, lesson.query)
        generator, generator_opt = state.generator, state.generator_opt
        if generator_start == "shared":
            generator, generator_opt = move(
                generator_optimizer, lesson.direction, generator_opt, generator
            )
        episodes, _ = episode_gradients(key_episodes, state.params, bank)
        grads = jax.tree.map(jnp.add, lesson.grads, episodes)
        params, opt = move(optimizer, grads, state.opt, state.params)
        params, opt, replayed = replay(key_replay, params, opt, bank)

        first, second = lesson.infos
        leaves = jax.tree.leaves((generator, params))
        finite = jnp.stack([jnp.isfinite(leaf).all() for leaf in leaves]).all()
        info = BidfInfo(
            inversion_ce=(first.cross_entropy[-1] + second.cross_entropy[-1]) / 2,
            teacher_accuracy=(first.teacher_accuracy + second.teacher_accuracy) / 2,
            boundary_loss=second.loss[-1] - second.cross_entropy[-1],
            distill_loss=lesson.loss,
            distill_accuracy=lesson.accuracy,
            replay_loss=replayed.loss,
            replay_accuracy=replayed.accuracy,
            replay_updates=replayed.num_updates,
            step_queries=lesson.queries,
            is_finite=finite & first.is_finite & second.is_finite,
        )
        return BidfState(
            step=state.step + 1,
            generator=generator,
            generator_opt=generator_opt,
            params=params,
            opt=opt,
            memory=bank,
            queries=queries,
        ), info

    def recover_only(
        key: Key[Array, ""], state: BidfState, data: tuple[Teachers, ...]
    ) -> jax.Array:
        """Both sets of a step, the query set without its boundary term."""
        key_group, key_teacher, *keys = jax.random.split(key, 6)

        def sets_of(number: int):
            def run() -> jax.Array:
                index = jax.random.randint(key_teacher, (), 0, num_teachers[number])
                teacher = zoo.take(data[number], index)
                found = [
                    recover_set(number, state, teacher, first, second, None)[0].images
                    for first, second in (keys[:2], keys[2:])
                ]
                images = jnp.concatenate(found)
                return augment.fit_to(images, student.image_shape)

            return run

        group = jax.random.randint(key_group, (), 0, groups)
        return jax.lax.switch(group, [sets_of(number) for number in range(groups)])

    return Algorithm(init, step, lambda state: state.params, recover_only)
