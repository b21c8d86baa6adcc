"""FREE: recover tasks with FIVE, learn from them with BELL and replay.

One step: draw teachers, invert each with the meta-generator, move the generator; then,
after a warm-up, store the recovered tasks, align the meta-model with the teachers one
after the other, and train it on episodes replayed from memory.

Reference:
  Wei et al., "FREE: Faster and Better Data-Free Meta-Learning", CVPR 2024, and its
  released code; every difference between the two and our default is a keyword here
  or in `inversion.Objective`, listed in BUILD_NOTES.md.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Key

from free_jax import augment, objectives, parallel, zoo
from free_jax.algorithm import Algorithm
from free_jax.algorithms import bell
from free_jax.fewshot import banks
from free_jax.fewshot.episodes import balanced_labels
from free_jax.fewshot.learners import MetaLearner, batch_apply
from free_jax.inversion import Adversary, InversionInfo, Inverter, outer_update
from free_jax.types import ImageBank, PyTree, Recovered, Teachers
from free_jax.zoo.network import Network


class FreeState(NamedTuple):
    """Everything that training carries.

    Attributes:
      step: [] int32 steps made.
      generator: parameters of the shared generator.
      generator_opt: state of its outer optimiser.
      params: parameters of the meta-model.
      opt: state of its optimiser, shared by alignment and replay.
      memory: recovered images by absolute class id.
    """

    step: jax.Array
    generator: PyTree
    generator_opt: PyTree
    params: PyTree
    opt: PyTree
    memory: ImageBank


class FreeInfo(NamedTuple):
    """Scalars of one step; the learner's are 0 during warm-up.

    Attributes:
      inversion_loss: at the last inner step, mean over teachers.
      inversion_ce: its cross-entropy part.
      teacher_accuracy: share of recovered images with the wanted label, in [0, 1].
      distill_loss: mean over the step's teachers.
      replay_loss, replay_accuracy: means over replayed episodes.
      replay_updates: optimiser steps made on replayed episodes.
      is_finite: whether losses and parameters are finite.
    """

    inversion_loss: jax.Array
    inversion_ce: jax.Array
    teacher_accuracy: jax.Array
    distill_loss: jax.Array
    replay_loss: jax.Array
    replay_accuracy: jax.Array
    replay_updates: jax.Array
    is_finite: jax.Array


def free(
    inverters: tuple[Inverter, ...],
    architectures: tuple[Network, ...],
    learner: MetaLearner,
    student: Network,
    replay: Callable,
    *,
    generator_optimizer: optax.GradientTransformation,
    optimizer: optax.GradientTransformation,
    align_optimizer: optax.GradientTransformation,
    teachers_per_step: tuple[int, ...],
    num_classes: int,
    images_per_class: int = 20,
    memory_per_class: int = 400,
    warmup_steps: int = 20,
    distill: objectives.Distill = "kl",
    hard_label_weight: float = 0.0,
    align_scale: float = 67.0,
    augment_per_image: bool = True,
    store: Literal["all", "last"] = "all",
    generator_optimizer_state: Literal["persistent", "fresh"] = "persistent",
    map_tasks: Callable = parallel.map_tasks,
) -> Algorithm:
    """Composes the meta-generator and the meta-learner.

    Args:
      inverters: one an architecture group; they share one generator.
      architectures: of the zoo's groups, in its order.
      learner: trained on replayed episodes; gives the initialisation.
      student: the meta-model's architecture.
      replay: from `replay.replay`.
      generator_optimizer: outer optimiser of the generator, fed the SUM of the
        teachers' gradients.
      optimizer: of the meta-model, shared by alignment and replay.
      align_optimizer: inner optimiser of the alignment, fresh in each step.
      teachers_per_step: how many teachers each group contributes to a step.
      num_classes: absolute class ids in the zoo.
      images_per_class: recovered per teacher.
      memory_per_class: capacity of the memory.
      warmup_steps: first steps that train the generator only.
      distill: "kl" or "prob_dot" (released code).
      hard_label_weight: weight of the cross-entropy on the wanted labels beside the
        distillation (0 in FREE, 1 in TGR).
      align_scale: factor of the pseudo-gradient; under Adam it only sets the weight
        of alignment against replay in the moments.
      augment_per_image: one crop and flip an image or one for all (released code).
      store: remember the images of "all" the step's teachers, or of the "last" one,
        which is what the released code's placement of its call does.
      generator_optimizer_state: "fresh" re-creates the outer optimiser each step
        (released code), which makes Adam a sign step.
      map_tasks: see `parallel.map_tasks`.

    Returns:
      An `Algorithm` whose data is the zoo's tuple of teacher stacks.

    Raises:
      ValueError: arguments that contradict each other.
    """
    groups = len(architectures)
    if not len(inverters) == len(teachers_per_step) == groups:
        raise ValueError(
            f"the zoo has {groups} groups but there are {len(inverters)} "
            f"generators and teachers_per_step={teachers_per_step}; give one a group"
        )
    if min(teachers_per_step) < 0 or sum(teachers_per_step) < 1:
        raise ValueError(
            f"teachers_per_step={teachers_per_step} must not be negative and must "
            "add up to at least 1"
        )
    for arch in architectures:
        if arch.num_classes != student.num_classes:
            raise ValueError(
                f"{arch.name} teachers are {arch.num_classes}-way but the meta-"
                f"model is {student.num_classes}-way; FREE distils outputs one to one"
            )
    if store not in ("all", "last"):
        raise ValueError(f"store={store!r} must be 'all' or 'last'")
    if generator_optimizer_state not in ("persistent", "fresh"):
        raise ValueError(
            f"generator_optimizer_state={generator_optimizer_state!r} must be "
            "'persistent' or 'fresh'"
        )
    if images_per_class > memory_per_class:
        raise ValueError(
            f"images_per_class={images_per_class} exceeds memory_per_class="
            f"{memory_per_class}"
        )
    distill_loss = objectives.distillation(distill)
    labels = balanced_labels(student.num_classes, images_per_class)
    used = [i for i in range(groups) if teachers_per_step[i]]

    def align_loss(params: PyTree, task: tuple[jax.Array, jax.Array]) -> jax.Array:
        images, teacher_logits = task
        logits = batch_apply(student, params, images)
        loss = distill_loss(logits, teacher_logits)
        if hard_label_weight:
            loss += hard_label_weight * objectives.cross_entropy(logits, labels)
        return loss

    sequential = bell.sequential_update(align_loss, align_optimizer)

    def init(key: Key[Array, ""]) -> FreeState:
        key_generator, key_params = jax.random.split(key)
        generator = inverters[0].init(key_generator)
        params = learner.init(key_params)
        return FreeState(
            step=jnp.int32(0),
            generator=generator,
            generator_opt=generator_optimizer.init(generator),
            params=params,
            opt=optimizer.init(params),
            memory=banks.init(num_classes, memory_per_class, student.image_shape),
        )

    def recover(
        key: jax.Array, state: FreeState, group: int, pool: Teachers, draw: jax.Array
    ) -> tuple[Recovered, InversionInfo, PyTree]:
        """Inverts the group's drawn teachers; results [T, ...], gradients summed."""

        def one(shared, task):
            # Taken here, a device copies the weights of its own teachers only.
            generator, adversary, pool = shared
            task_key, index = task
            found, info, grads = inverters[group].invert(
                task_key, generator, zoo.take(pool, index), labels, adversary
            )
            return (found.images, info), grads

        # The student knows nothing during warm-up; disagreeing with it would be noise.
        adversarial = (state.step >= warmup_steps).astype(jnp.float32)
        keys = jax.random.split(key, teachers_per_step[group])
        shared = (state.generator, Adversary(state.params, adversarial), pool)
        mapped = map_tasks(one, everywhere=True, summed=True)
        (images, info), grads = mapped(shared, (keys, draw))
        repeated = jnp.broadcast_to(labels, images.shape[:2])
        return Recovered(images, repeated, pool.class_ids[draw]), info, grads

    def update_generator(state: FreeState, grads: list[PyTree]) -> FreeState:
        opt_state = state.generator_opt
        if generator_optimizer_state == "fresh":
            opt_state = generator_optimizer.init(state.generator)
        generator, opt_state = outer_update(
            generator_optimizer, state.generator, opt_state, grads
        )
        return state._replace(generator=generator, generator_opt=opt_state)

    def remember(state: FreeState, recovered: list[Recovered]) -> FreeState:
        bank = state.memory
        kept = recovered if store == "all" else recovered[-1:]
        for stack in kept:
            stack = stack if store == "all" else jax.tree.map(lambda x: x[-1:], stack)
            fitted = jax.vmap(lambda x: augment.fit_to(x, student.image_shape))
            bank = banks.add_many(bank, stack._replace(images=fitted(stack.images)))
        return state._replace(memory=bank)

    def teach(
        key: jax.Array,
        recovered: Recovered,
        group: int,
        pool: Teachers,
        draw: jax.Array,
    ):
        """One group's alignment tasks: (student views, teacher logits), [T, N, ...]."""
        arch = architectures[group]

        def one(pool, task):
            task_key, images, index = task
            variables = zoo.take(pool, index).variables
            views = augment.crop_flip(task_key, images, per_image=augment_per_image)
            logits = arch.apply(variables, augment.fit_to(views, arch.image_shape))
            return augment.fit_to(views, student.image_shape), logits

        keys = jnp.broadcast_to(key, (teachers_per_step[group],))
        if augment_per_image:
            keys = jax.random.split(key, teachers_per_step[group])
        mapped = map_tasks(one, everywhere=True)
        return mapped(pool, (keys, recovered.images, draw))

    def learn(key: jax.Array, state: FreeState, recovered, pools, draws):
        key_views, key_order, key_replay = jax.random.split(key, 3)
        state = remember(state, recovered)
        tasks = [
            teach(jax.random.fold_in(key_views, group), found, group, pool, draw)
            for found, group, pool, draw in zip(
                recovered, used, pools, draws, strict=True
            )
        ]
        tasks = jax.tree.map(lambda *x: jnp.concatenate(x), *tasks)
        direction, losses = sequential(state.params, bell.shuffled(key_order, tasks))
        direction = jax.tree.map(lambda d: align_scale * d, direction)
        updates, opt = optimizer.update(direction, state.opt, state.params)
        params = optax.apply_updates(state.params, updates)
        params, opt, info = replay(key_replay, params, opt, state.memory)
        learned = (losses.mean(), info.loss, info.accuracy, info.num_updates)
        return state._replace(params=params, opt=opt), learned

    def idle(key: jax.Array, state: FreeState, recovered, pools, draws):
        del key, recovered, pools, draws
        zero = jnp.zeros(())
        return state, (zero, zero, zero, jnp.int32(0))

    def recover_all(
        key_draw: jax.Array,
        key_invert: jax.Array,
        state: FreeState,
        pools: list[Teachers],
    ) -> tuple[list[jax.Array], list[tuple[Recovered, InversionInfo, PyTree]]]:
        """Draws and inverts the step's teachers, one entry a group."""
        draws, results = [], []
        for group, pool in zip(used, pools, strict=True):
            draw = jax.random.randint(
                jax.random.fold_in(key_draw, group),
                (teachers_per_step[group],),
                0,
                pool.class_ids.shape[0],
            )
            draws.append(draw)
            group_key = jax.random.fold_in(key_invert, group)
            results.append(recover(group_key, state, group, pool, draw))
        return draws, results

    def step(
        key: Key[Array, ""], state: FreeState, data: tuple[Teachers, ...]
    ) -> tuple[FreeState, FreeInfo]:
        key_draw, key_invert, key_learn = jax.random.split(key, 3)
        pools = [data[group] for group in used]
        draws, results = recover_all(key_draw, key_invert, state, pools)
        recovered = [found for found, _, _ in results]
        infos = [info for _, info, _ in results]
        warm = state.step >= warmup_steps
        state = update_generator(state, [grads for _, _, grads in results])
        state, learned = jax.lax.cond(
            warm, learn, idle, key_learn, state, recovered, pools, draws
        )
        distilled, replay_loss, replay_accuracy, replay_updates = learned

        def mean(pick: Callable[[InversionInfo], jax.Array]) -> jax.Array:
            return jnp.concatenate([pick(info) for info in infos]).mean()

        leaves = jax.tree.leaves((state.generator, state.params))
        finite = jnp.stack([jnp.isfinite(leaf).all() for leaf in leaves]).all()
        info = FreeInfo(
            inversion_loss=mean(lambda i: i.loss[:, -1]),
            inversion_ce=mean(lambda i: i.cross_entropy[:, -1]),
            teacher_accuracy=mean(lambda i: i.teacher_accuracy),
            distill_loss=distilled,
            replay_loss=replay_loss,
            replay_accuracy=replay_accuracy,
            replay_updates=replay_updates,
            is_finite=finite & jnp.stack([i.is_finite.all() for i in infos]).all(),
        )
        return state._replace(step=state.step + 1), info

    def recover_only(key: Key[Array, ""], state: FreeState, data):
        key_draw, key_invert, _ = jax.random.split(key, 3)
        pools = [data[group] for group in used]
        _, results = recover_all(key_draw, key_invert, state, pools)
        return [found.images for found, _, _ in results], [g for *_, g in results]

    return Algorithm(init, step, lambda state: state.params, recover_only)
