"""FREE: recover tasks with FIVE, learn from them with BELL and replay.

One step: draw teachers, invert each with the meta-generator, move the generator; then,
after a warm-up, store the recovered tasks, align the meta-model with the teachers one
after the other, and train it on episodes replayed from memory.

A teacher of more classes than the meta-model is inverted for as many of them, drawn
anew each time (see `zoo.tasks`).  Where teachers of several networks take part, each
network is inverted by a program of its own, and what follows is another.

Reference:
  Wei et al., "FREE: Faster and Better Data-Free Meta-Learning", CVPR 2024, and its
  released code; every difference between the two and our default is a field of the
  records here or of `inversion.Objective`, listed in docs/reference/differences.md.

Example::

    algorithm = free(
        (inverter,), zoo.networks, learner, student, replay, optax.adam(1e-3),
        num_classes=zoo.num_classes, options=FreeOptions(teachers_per_step=4),
    )
    state = jax.jit(algorithm.init)(key)
    step = algorithm.compiled()
    state, info = step(step_key, state, zoo.teachers)
    variables = algorithm.model(state)  # {"params": ...}
"""

import functools
from collections.abc import Callable
from typing import Annotated, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, Key

from free_jax import augment, objectives, optimizers, parallel
from free_jax.algorithm import Algorithm, all_finite, bind
from free_jax.algorithms import bell, turns
from free_jax.algorithms.bell import AlignOptions
from free_jax.algorithms.drawn import Drawn, known, read, teachers_of
from free_jax.fewshot import banks
from free_jax.fewshot.banks import MemoryOptions
from free_jax.fewshot.episodes import balanced_labels
from free_jax.fewshot.learners import MetaLearner, batch_apply
from free_jax.inversion import Adversary, InversionInfo, Inverter, outer_update
from free_jax.options import AtLeast, adam, check
from free_jax.types import ImageBank, PyTree, Recovered, Teachers
from free_jax.zoo.network import Network
from free_jax.zoo.tasks import take_task


class FreeOptions(NamedTuple):
    """Tasks recovered in each step.

    Attributes:
      teachers_per_step: how many are inverted.
      images_per_class: of each teacher.
      warmup_steps: first steps that train the generator only.
      outer_optimizer: of the shared generator.
      outer_state: its state is "persistent", or "fresh" in each step (FREE's released
        code), which makes Adam a sign step.
    """

    teachers_per_step: Annotated[int, AtLeast(1)] = 4
    images_per_class: Annotated[int, AtLeast(1)] = 20
    warmup_steps: Annotated[int, AtLeast(0)] = 20
    outer_optimizer: optimizers.Optimizer = adam(1e-3, b1=0.5)
    outer_state: Literal["persistent", "fresh"] = "persistent"


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
      inverters: one a network; they share one generator.
      networks: of the zoo's groups, in its order, as `zoo.tasks.narrowed` to the
        student's number of classes.
      learner: trained on replayed episodes; gives the initialisation.
      student: the meta-model's network.
      replay: from `replay.replay`.
      optimizer: of the meta-model, shared by alignment and replay.
      num_classes: absolute class ids in the zoo.
      options: see `FreeOptions`; all groups' teachers of a step are counted together
        and spread evenly (see `turns`).
      memory: see `MemoryOptions`.
      align: see `AlignOptions`; under Adam `scale` only sets the weight of alignment
        against replay in the moments.
      augment_per_image: one crop and flip an image or one for all (released code).
      map_tasks: see `parallel.map_tasks`.
    """

    inverters: tuple[Inverter, ...]
    networks: tuple[Network, ...]
    learner: MetaLearner
    student: Network
    replay: Callable
    optimizer: optax.GradientTransformation
    num_classes: int
    options: FreeOptions
    memory: MemoryOptions
    align: AlignOptions
    augment_per_image: bool
    map_tasks: Callable

    @property
    def outer_optimizer(self) -> optax.GradientTransformation:
        """Of the generator, fed the SUM of the teachers' gradients."""
        return optimizers.optimizer(self.options.outer_optimizer)

    @property
    def batches(self) -> tuple[turns.Batch, ...]:
        """A step's teachers by groups."""
        return turns.batches(self.options.teachers_per_step, len(self.networks))

    @property
    def labels(self) -> Int[Array, " n"]:
        """What a teacher's images are recovered for."""
        per_class = self.options.images_per_class
        return balanced_labels(self.student.num_classes, per_class)


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
        generator_opt=parts.outer_optimizer.init(generator),
        params=params,
        opt=parts.optimizer.init(params),
        memory=banks.init(
            parts.num_classes, parts.memory.per_class, parts.student.image_shape
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
    after = (state.step >= parts.options.warmup_steps).astype(jnp.float32)
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
            key_draw, place, teachers, parts.networks[place.group].num_classes
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
    shape, labels, network = (
        parts.student.image_shape,
        parts.labels,
        parts.networks[group],
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
        logits = network.apply(
            teacher.variables, augment.fit_to(views, network.image_shape)
        )
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
    warm = state.step >= parts.options.warmup_steps
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
    outer, opt_state = parts.outer_optimizer, state.generator_opt
    if parts.options.outer_state == "fresh":
        opt_state = outer.init(state.generator)
    generator, opt_state = outer_update(outer, state.generator, opt_state, grads)
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
    store = parts.memory.store
    kept = recovered if store == "all" else recovered[-1:]
    for stack in kept:
        if store == "last":
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
        functools.partial(align_loss, parts),
        optimizers.optimizer(parts.align.optimizer),
    )
    direction, losses = update(params, bell.shuffled(key, tasks))
    direction = jax.tree.map(lambda d: parts.align.scale * d, direction)
    updates, opt = parts.optimizer.update(direction, opt, params)
    return optax.apply_updates(params, updates), opt, losses


def align_loss(
    parts: Parts, params: PyTree, task: tuple[jax.Array, jax.Array]
) -> jax.Array:
    """How far the meta-model is from one teacher on its views [N, h, w, c]."""
    images, teacher_logits = task
    logits = batch_apply(parts.student, params, images)
    loss = objectives.distillation(parts.align.distill)(logits, teacher_logits)
    if parts.align.hard_label_weight:
        hard = objectives.cross_entropy(logits, parts.labels)
        loss += parts.align.hard_label_weight * hard
    return loss


def free(
    inverters: tuple[Inverter, ...],
    networks: tuple[Network, ...],
    learner: MetaLearner,
    student: Network,
    replay: Callable,
    optimizer: optax.GradientTransformation,
    *,
    num_classes: int,
    options: FreeOptions = FreeOptions(),
    memory: MemoryOptions = MemoryOptions(),
    align: AlignOptions = AlignOptions(),
    augment_per_image: bool = True,
    map_tasks: Callable = parallel.map_tasks,
) -> Algorithm:
    """Composes the meta-generator and the meta-learner.

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
        replay=replay,
        optimizer=optimizer,
        num_classes=num_classes,
        options=options,
        memory=memory,
        align=align,
        augment_per_image=augment_per_image,
        map_tasks=map_tasks,
    )
    _check(parts)
    return bind(init, step, parts, num_programs=len(networks), draws=draws, feed=feed)


def _check(parts: Parts) -> None:
    """Refuses options out of range, and parts that contradict each other."""
    check(parts.options, parts.memory, parts.align)
    for named in (parts.options.outer_optimizer, parts.align.optimizer):
        optimizers.optimizer(named)
    groups = len(parts.networks)
    if len(parts.inverters) != groups:
        raise ValueError(
            f"the zoo has {groups} groups but there are {len(parts.inverters)} "
            "inverters; give one a group"
        )
    for network in parts.networks:
        if network.num_classes != parts.student.num_classes:
            raise ValueError(
                f"{network.name} teachers are {network.num_classes}-way but the meta-"
                f"model is {parts.student.num_classes}-way; FREE distils outputs "
                "one to one: give narrowed networks (zoo.tasks.narrowed)"
            )
    if parts.options.images_per_class > parts.memory.per_class:
        raise ValueError(
            f"images_per_class={parts.options.images_per_class} exceeds "
            f"memory.per_class={parts.memory.per_class}"
        )
