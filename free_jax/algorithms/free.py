"""FREE: recover tasks with FIVE, learn from them with BELL and replay.

One step: draw teachers, invert each with the meta-generator, move the generator; then,
after a warm-up, store the recovered tasks, align the meta-model with the teachers one
after the other, and train it on episodes replayed from memory.

A teacher of more classes than the meta-model is inverted for as many of them, drawn
anew each time (see `zoo.tasks`).  Where teachers of several networks take part, each
network is inverted by a program of its own, and what follows is another.

Reference:
  Wei et al., "FREE: Faster and Better Data-Free Meta-Learning", CVPR 2024, and its
  released code; every difference between the two and our default is a keyword here
  or in `inversion.Objective`, listed in docs/reference/differences.md.

Example::

    algorithm = free(
        (inverter,), zoo.networks, learner, student, replay, teachers_per_step=4,
        num_classes=zoo.num_classes, generator_optimizer=optax.adam(1e-3),
        optimizer=optax.adam(1e-3), align_optimizer=optax.sgd(1e-2),
    )
    state = jax.jit(algorithm.init)(key)
    step = algorithm.compiled()
    state, info = step(step_key, state, zoo.teachers)
    variables = algorithm.model(state)  # {"params": ...}
"""

import functools
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, Key

from free_jax import augment, objectives, parallel
from free_jax.algorithm import Algorithm, all_finite, bind
from free_jax.algorithms import bell, turns
from free_jax.algorithms.drawn import Drawn, known, read, teachers_of
from free_jax.fewshot import banks
from free_jax.fewshot.episodes import balanced_labels
from free_jax.fewshot.learners import MetaLearner, batch_apply
from free_jax.inversion import Adversary, InversionInfo, Inverter, outer_update
from free_jax.types import ImageBank, PyTree, Recovered, Teachers
from free_jax.zoo.network import Network
from free_jax.zoo.tasks import take_task


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


class Parts(NamedTuple):
    """What FREE is composed of; the arguments of `free`.

    Attributes:
      inverters: one an architecture group; they share one generator.
      architectures: of the zoo's groups, in its order, as `zoo.tasks.narrowed` to the
        student's number of classes.
      learner: trained on replayed episodes; gives the initialisation.
      student: the meta-model's architecture.
      replay: from `replay.replay`.
      generator_optimizer: outer optimiser of the generator, fed the SUM of the
        teachers' gradients.
      optimizer: of the meta-model, shared by alignment and replay.
      align_optimizer: inner optimiser of the alignment, fresh in each step.
      teachers_per_step: all groups' teachers of a step together, spread evenly (see
        `turns`), or how many each group contributes.
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
    """

    inverters: tuple[Inverter, ...]
    architectures: tuple[Network, ...]
    learner: MetaLearner
    student: Network
    replay: Callable
    generator_optimizer: optax.GradientTransformation
    optimizer: optax.GradientTransformation
    align_optimizer: optax.GradientTransformation
    teachers_per_step: turns.PerStep
    num_classes: int
    images_per_class: int
    memory_per_class: int
    warmup_steps: int
    distill: objectives.Distill
    hard_label_weight: float
    align_scale: float
    augment_per_image: bool
    store: Literal["all", "last"]
    generator_optimizer_state: Literal["persistent", "fresh"]
    map_tasks: Callable

    @property
    def batches(self) -> tuple[turns.Batch, ...]:
        """A step's teachers by groups."""
        return turns.batches(self.teachers_per_step, len(self.architectures))

    @property
    def labels(self) -> Int[Array, " n"]:
        """What a teacher's images are recovered for."""
        return balanced_labels(self.student.num_classes, self.images_per_class)


class Given(NamedTuple):
    """What an inversion is given of the state.

    Attributes:
      generator: parameters of the shared generator.
      adversary: the meta-model, which counts from the end of the warm-up on.
    """

    generator: PyTree
    adversary: Adversary


class Found(NamedTuple):
    """What some teachers gave, with a leading axis T; images have the student's size.

    Attributes:
      recovered: images, labels and absolute classes.
      info: of the inversions.
      views: [T, N, h, w, c] the images, augmented.
      logits: [T, N, W] what each teacher answers about its own.
      direction: the sum of their gradients for the generator.
    """

    recovered: Recovered
    info: InversionInfo
    views: jax.Array
    logits: jax.Array
    direction: PyTree


class Learned(NamedTuple):
    """Scalars of the part of a step that trains the meta-model, see `FreeInfo`."""

    distill_loss: jax.Array
    replay_loss: jax.Array
    replay_accuracy: jax.Array
    replay_updates: jax.Array


def init(parts: Parts, key: Key[Array, ""]) -> FreeState:
    """Random generator, the learner's initialisation and an empty memory."""
    key_generator, key_params = jax.random.split(key)
    generator = parts.inverters[0].init(key_generator)
    params = parts.learner.init(key_params)
    return FreeState(
        step=jnp.int32(0),
        generator=generator,
        generator_opt=parts.generator_optimizer.init(generator),
        params=params,
        opt=parts.optimizer.init(params),
        memory=banks.init(
            parts.num_classes, parts.memory_per_class, parts.student.image_shape
        ),
    )


def step(
    parts: Parts,
    key: Key[Array, ""],
    state: FreeState,
    data: tuple[Teachers, ...] | Drawn,
    programs: Callable,
) -> tuple[FreeState, FreeInfo]:
    """Recovers tasks, moves the generator and, after the warm-up, learns."""
    key_draw, key_invert, key_learn = jax.random.split(key, 3)
    key_views, key_order, key_replay = jax.random.split(key_learn, 3)
    # The student knows nothing during warm-up; disagreeing with it would be noise.
    after = (state.step >= parts.warmup_steps).astype(jnp.float32)
    given = Given(state.generator, Adversary(state.params, after))
    found, everyone = [], known(data)
    for number, place in enumerate(turns.places(parts.batches, state.step)):
        batch = place.batch
        keys = [jax.random.fold_in(k, batch.number) for k in (key_invert, key_views)]
        invert, view = (jax.random.split(k, batch.count) for k in keys)
        if not parts.augment_per_image:
            view = jnp.broadcast_to(keys[1], (batch.count,))
        draw = functools.partial(_rows, key_draw, place, state.step, everyone)
        teachers, rows = teachers_of(data, number, place.group, draw)
        rows = jnp.arange(place.count) if rows is None else rows
        chosen = turns.draw_tasks(
            key_draw, place, teachers, parts.architectures[place.group].num_classes
        )
        tasks = (*map(place.of, (invert, view)), rows, chosen)
        found.append(programs(recover, place.group)(given, teachers, tasks))
    return programs(learn, donate=0)(state, found, (key_order, key_replay))


def recover(
    parts: Parts, group: int, given: Given, teachers: Teachers, tasks: PyTree
) -> Found:
    """Inverts teachers of one group, and asks them about what they gave.

    Args:
      parts: of the algorithm.
      group: the teachers'.
      given: of the state.
      teachers: a stack of the group.
      tasks: (keys of the inversions [T], keys of the views [T], rows of the stack [T],
        the chosen classes [T, W] or None).
    """
    shape, labels, arch = (
        parts.student.image_shape,
        parts.labels,
        parts.architectures[group],
    )

    def one(both: PyTree, task: PyTree) -> PyTree:
        # A task takes its teacher itself: a device copies the weights of its own only.
        (given, teachers), (key, view_key, row, chosen) = both, task
        teacher = take_task(teachers, row, chosen)
        recovered, info, direction = parts.inverters[group].invert(
            key, given.generator, teacher, labels, given.adversary
        )
        views = augment.crop_flip(
            view_key, recovered.images, per_image=parts.augment_per_image
        )
        logits = arch.apply(teacher.variables, augment.fit_to(views, arch.image_shape))
        images = augment.fit_to(recovered.images, shape)
        return (images, info, augment.fit_to(views, shape), logits), direction

    mapped = parts.map_tasks(one, everywhere=True, summed=True)
    (images, info, views, logits), direction = mapped((given, teachers), tasks)
    # Known here: devices need not tell each other.
    _, _, rows, chosen = tasks
    ids = teachers.class_ids[rows]
    ids = ids if chosen is None else jnp.take_along_axis(ids, chosen, axis=1)
    recovered = Recovered(images, jnp.broadcast_to(labels, images.shape[:2]), ids)
    return Found(recovered, info, views, logits, direction)


def learn(
    parts: Parts,
    state: FreeState,
    found: list[Found],
    keys: tuple[jax.Array, jax.Array],
) -> tuple[FreeState, FreeInfo]:
    """All of a step but the inversions: moves the generator, then the meta-model."""
    warm = state.step >= parts.warmup_steps
    state = update_generator(parts, state, [batch.direction for batch in found])
    state, learned = jax.lax.cond(
        warm,
        functools.partial(meta_train, parts),
        functools.partial(idle, parts),
        keys,
        state,
        found,
    )

    def mean(pick: Callable[[InversionInfo], jax.Array]) -> jax.Array:
        return jnp.concatenate([pick(batch.info) for batch in found]).mean()

    finite = jnp.stack([batch.info.is_finite.all() for batch in found]).all()
    info = FreeInfo(
        inversion_loss=mean(lambda i: i.loss[:, -1]),
        inversion_ce=mean(lambda i: i.cross_entropy[:, -1]),
        teacher_accuracy=mean(lambda i: i.teacher_accuracy),
        **learned._asdict(),
        is_finite=all_finite(state.generator, state.params) & finite,
    )
    return state._replace(step=state.step + 1), info


def update_generator(parts: Parts, state: FreeState, grads: list[PyTree]) -> FreeState:
    """One outer step along the sum of all teachers' gradients."""
    opt_state = state.generator_opt
    if parts.generator_optimizer_state == "fresh":
        opt_state = parts.generator_optimizer.init(state.generator)
    generator, opt_state = outer_update(
        parts.generator_optimizer, state.generator, opt_state, grads
    )
    return state._replace(generator=generator, generator_opt=opt_state)


def meta_train(
    parts: Parts,
    keys: tuple[jax.Array, jax.Array],
    state: FreeState,
    found: list[Found],
) -> tuple[FreeState, Learned]:
    """Remembers what was found, aligns the meta-model and replays."""
    key_order, key_replay = keys
    memory = remember(parts, state.memory, [batch.recovered for batch in found])
    tasks = jax.tree.map(
        lambda *x: jnp.concatenate(x), *[(batch.views, batch.logits) for batch in found]
    )
    params, opt, losses = align(parts, key_order, state.params, state.opt, tasks)
    params, opt, info = parts.replay(key_replay, params, opt, memory)
    learned = Learned(losses.mean(), info.loss, info.accuracy, info.num_updates)
    return state._replace(params=params, opt=opt, memory=memory), learned


def idle(
    parts: Parts,
    keys: tuple[jax.Array, jax.Array],
    state: FreeState,
    found: list[Found],
) -> tuple[FreeState, Learned]:
    """What `meta_train` is during the warm-up."""
    del parts, keys, found
    zero = jnp.zeros(())
    return state, Learned(zero, zero, zero, jnp.int32(0))


def draws(
    parts: Parts, key: Key[Array, ""], step: jax.Array, data: tuple[Teachers, ...]
) -> tuple[jax.Array, ...]:
    """How often a step draws each teacher, see `Algorithm.draws`."""
    key_draw, _, _ = jax.random.split(key, 3)
    return turns.counts(key_draw, parts.batches, step, data)


def feed(
    parts: Parts, key: Key[Array, ""], step: int, data: tuple[Teachers, ...]
) -> Drawn:
    """The teachers that a step draws, see `Algorithm.feed`."""
    key_draw, _, _ = jax.random.split(key, 3)
    places = turns.places(parts.batches, step)
    rows = [_rows(key_draw, place, step, data) for place in places]
    return read(data, [place.group for place in places], rows)


def _rows(
    key: jax.Array,
    place: turns.Place,
    step: int | jax.Array,
    everyone: tuple[Teachers, ...],
) -> Int[Array, " t"]:
    """Teachers of a place in their group, with replacement."""
    key = jax.random.fold_in(key, place.batch.number)
    return place.of(turns.draw(key, place.batch, step, everyone))


def remember(parts: Parts, memory: ImageBank, recovered: list[Recovered]) -> ImageBank:
    """Stores images under their classes."""
    kept = recovered if parts.store == "all" else recovered[-1:]
    for stack in kept:
        if parts.store == "last":
            stack = jax.tree.map(lambda x: x[-1:], stack)
        memory = banks.add_many(memory, stack)
    return memory


def align(
    parts: Parts,
    key: jax.Array,
    params: PyTree,
    opt: PyTree,
    tasks: tuple[jax.Array, jax.Array],
) -> tuple[PyTree, PyTree, jax.Array]:
    """One step of BELL towards all teachers; (params, opt, losses [T])."""
    update = bell.sequential_update(
        functools.partial(align_loss, parts), parts.align_optimizer
    )
    direction, losses = update(params, bell.shuffled(key, tasks))
    direction = jax.tree.map(lambda d: parts.align_scale * d, direction)
    updates, opt = parts.optimizer.update(direction, opt, params)
    return optax.apply_updates(params, updates), opt, losses


def align_loss(
    parts: Parts, params: PyTree, task: tuple[jax.Array, jax.Array]
) -> jax.Array:
    """How far the meta-model is from one teacher on its views [N, h, w, c]."""
    images, teacher_logits = task
    logits = batch_apply(parts.student, params, images)
    loss = objectives.distillation(parts.distill)(logits, teacher_logits)
    if parts.hard_label_weight:
        hard = objectives.cross_entropy(logits, parts.labels)
        loss += parts.hard_label_weight * hard
    return loss


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
    teachers_per_step: turns.PerStep,
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

    The arguments are described by `Parts`.  The algorithm's data is the zoo's tuple of
    teacher stacks; those of a zoo in files are fed to it (`Algorithm.feed`).

    Raises:
      ValueError: arguments that contradict each other.
    """
    parts = Parts(
        inverters=inverters,
        architectures=architectures,
        learner=learner,
        student=student,
        replay=replay,
        generator_optimizer=generator_optimizer,
        optimizer=optimizer,
        align_optimizer=align_optimizer,
        teachers_per_step=teachers_per_step,
        num_classes=num_classes,
        images_per_class=images_per_class,
        memory_per_class=memory_per_class,
        warmup_steps=warmup_steps,
        distill=distill,
        hard_label_weight=hard_label_weight,
        align_scale=align_scale,
        augment_per_image=augment_per_image,
        store=store,
        generator_optimizer_state=generator_optimizer_state,
        map_tasks=map_tasks,
    )
    _check(parts)
    return bind(
        init, step, parts, num_programs=len(architectures), draws=draws, feed=feed
    )


def _check(parts: Parts) -> None:
    """Refuses parts that contradict each other."""
    groups = len(parts.architectures)
    if len(parts.inverters) != groups:
        raise ValueError(
            f"the zoo has {groups} groups but there are {len(parts.inverters)} "
            "inverters; give one a group"
        )
    turns.batches(parts.teachers_per_step, groups)
    for arch in parts.architectures:
        if arch.num_classes != parts.student.num_classes:
            raise ValueError(
                f"{arch.name} teachers are {arch.num_classes}-way but the meta-model "
                f"is {parts.student.num_classes}-way; FREE distils outputs one to one: "
                "give narrowed networks (zoo.tasks.narrowed)"
            )
    objectives.distillation(parts.distill)
    if parts.store not in ("all", "last"):
        raise ValueError(f"store={parts.store!r} must be 'all' or 'last'")
    if parts.generator_optimizer_state not in ("persistent", "fresh"):
        raise ValueError(
            f"generator_optimizer_state={parts.generator_optimizer_state!r} must be "
            "'persistent' or 'fresh'"
        )
    if parts.images_per_class > parts.memory_per_class:
        raise ValueError(
            f"images_per_class={parts.images_per_class} exceeds memory_per_class="
            f"{parts.memory_per_class}"
        )
