"""TGR: learn from teachers that conflict, and from what they agree in.

One step: draw a group of dissimilar teachers and some of its members, take the images
that were recovered from them beforehand, and move the meta-model down their mean loss
AFTER each has been given a small step of its own: to first order, the mean loss plus
the variance of the teachers' gradients.  Then train it on episodes replayed from
memory.

A teacher of more classes than the meta-model is asked about as many of them, drawn anew
each time.  Teachers of any network take part: a step needs their answers only (see
`recovered_tasks`).

Reference:
  Wei et al., "Task Groupings Regularization: Data-Free Meta-Learning with
  Heterogeneous Pre-trained Models", ICML 2024, and its released code
  (T2 to T6, docs/reference/released_codes.md);
  every difference between the two and our default is a keyword here, in
  `tgr_grouping.GroupOptions` or in `recovered_tasks.OwnTaskOptions`.

Example::

    algorithm = tgr(learner, student, replay, optimizer, num_classes=64)
    state = jax.jit(algorithm.init)(key)
    data = TgrData(tasks, groups, bank_of(tasks, 64))
    state, info = algorithm.compiled()(step_key, state, data)
    variables = algorithm.model(state)  # {"params": ...}
"""

from collections.abc import Callable
from typing import Annotated, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Key

from free_jax import objectives, parallel
from free_jax.algorithm import Algorithm, all_finite, bind
from free_jax.algorithms.recovered_tasks import (
    RecoveredTasks,
    Task,
    draw_task,
    remember,
)
from free_jax.fewshot import banks
from free_jax.fewshot.learners import MetaLearner, batch_apply
from free_jax.options import AtLeast, check
from free_jax.types import ImageBank, PyTree
from free_jax.zoo.network import Network


class TgrOptions(NamedTuple):
    """The regularised step.

    Attributes:
      teachers_per_step: of one group.
      replacement: draw them with replacement (released code), so that one may be drawn
        twice and then does not differ from itself; else each of a group once before
        any twice.
      displacement: beta, of the step that each teacher is given of its own; 0 leaves
        the mean loss alone, without regulariser.
      second_order: differentiate through those steps (released code); False takes the
        gradients where they end.
      distill: loss against the teacher's answers: "kl", or "prob_dot" (released code).
      hard_label_weight: of the cross-entropy on the wanted labels beside it.
      replay_from: episodes are of "all" recovered images from the first step, or of
        those "drawn" so far (released code).
    """

    teachers_per_step: Annotated[int, AtLeast(2)] = 4
    replacement: bool = False
    displacement: Annotated[float, AtLeast(0)] = 1e-3
    second_order: bool = True
    distill: objectives.Distill = "kl"
    hard_label_weight: Annotated[float, AtLeast(0)] = 1.0
    replay_from: Literal["all", "drawn"] = "all"


class TgrData(NamedTuple):
    """What a step learns from.

    Attributes:
      tasks: of all teachers that take part.
      groups: [T] int32 the group of each, numbered without gaps.
      bank: all recovered images by class.
    """

    tasks: RecoveredTasks
    groups: Int[np.ndarray, " t"] | Int[Array, " t"]
    bank: ImageBank


class TgrState(NamedTuple):
    """Everything that training carries.

    Attributes:
      step: [] int32 steps made.
      params: parameters of the meta-model.
      opt: state of its optimiser, shared by the regularised step and replay.
      memory: images drawn so far, by class; None where all are replayed.
    """

    step: jax.Array
    params: PyTree
    opt: PyTree
    memory: ImageBank | None


class TgrInfo(NamedTuple):
    """Scalars of one step.

    Attributes:
      distill_loss: mean over the step's teachers, hard labels included.
      conflict: mean squared distance of their gradients from the mean gradient, over
        the squared length of that.
      replay_loss, replay_accuracy: means over replayed episodes.
      replay_updates: optimiser steps made on replayed episodes.
      is_finite: whether losses and parameters are finite.
    """

    distill_loss: jax.Array
    conflict: jax.Array
    replay_loss: jax.Array
    replay_accuracy: jax.Array
    replay_updates: jax.Array
    is_finite: jax.Array


class Parts(NamedTuple):
    """What TGR is composed of; the arguments of `tgr`.

    Attributes:
      learner: trained on replayed episodes; gives the initialisation.
      student: the meta-model's network.
      replay: from `replay.replay`.
      optimizer: of the meta-model.
      num_classes: absolute class ids in the zoo.
      num_groups: of teachers.
      images_per_class: of a teacher's class in a step.
      memory_per_class: images that the memory has room for.
      options: see `TgrOptions`.
      map_tasks: see `parallel.map_tasks`.
    """

    learner: MetaLearner
    student: Network
    replay: Callable
    optimizer: optax.GradientTransformation
    num_classes: int
    num_groups: int
    images_per_class: int
    memory_per_class: int
    options: TgrOptions
    map_tasks: Callable


def init(parts: Parts, key: Key[Array, ""]) -> TgrState:
    """The learner's initialisation and, where it is filled by steps, a memory."""
    params = parts.learner.init(key)
    memory = None
    if parts.options.replay_from == "drawn":
        memory = banks.init(
            parts.num_classes, parts.memory_per_class, parts.student.image_shape
        )
    return TgrState(jnp.int32(0), params, parts.optimizer.init(params), memory)


def step(
    parts: Parts, key: Key[Array, ""], state: TgrState, data: TgrData
) -> tuple[TgrState, TgrInfo]:
    """One regularised step on a group's teachers, then replay."""
    key_draw, key_tasks, key_version, key_replay = jax.random.split(key, 4)
    rows = draw(parts, key_draw, data.groups)
    # One version for all: the released code moves a step's images alike.
    version = jax.random.randint(key_version, (), 0, data.tasks.images.shape[1])
    each = jax.random.split(key_tasks, parts.options.teachers_per_step)
    tasks = jax.vmap(
        lambda key, row: draw_task(
            key,
            data.tasks,
            row,
            way=parts.student.num_classes,
            count=parts.images_per_class,
            version=version,
        )
    )(each, rows)
    direction, loss, conflict = regularised(parts, state.params, tasks)
    updates, opt = parts.optimizer.update(direction, state.opt, state.params)
    params = optax.apply_updates(state.params, updates)
    memory, bank = state.memory, data.bank
    if memory is not None:
        memory, _ = jax.lax.scan(lambda m, t: (remember(m, t), None), memory, tasks)
        bank = memory
    params, opt, replayed = parts.replay(key_replay, params, opt, bank)
    info = TgrInfo(
        distill_loss=loss,
        conflict=conflict,
        replay_loss=replayed.loss,
        replay_accuracy=replayed.accuracy,
        replay_updates=replayed.num_updates,
        is_finite=all_finite(params, loss),
    )
    return TgrState(state.step + 1, params, opt, memory), info


def draw(
    parts: Parts, key: Key[Array, ""], groups: jax.Array | np.ndarray
) -> Int[Array, " t"]:
    """Rows of a step's teachers: a uniform group, then members of it."""
    key_group, key_members = jax.random.split(key)
    count = parts.options.teachers_per_step
    group = jax.random.randint(key_group, (), 0, parts.num_groups)
    member = jnp.asarray(groups) == group
    if parts.options.replacement:
        scores = jnp.where(member, 0.0, -jnp.inf)
        return jax.random.categorical(key_members, scores, shape=(count,))
    scores = jax.random.uniform(key_members, member.shape)
    order = jnp.argsort(jnp.where(member, scores, 2.0))  # Members first, at random.
    return order[jnp.arange(count) % member.sum()]


def draws(
    parts: Parts, key: Key[Array, ""], step: jax.Array, data: TgrData
) -> tuple[jax.Array, ...]:
    """How often a step draws each teacher, see `Algorithm.draws`."""
    del step
    rows = draw(parts, jax.random.split(key, 4)[0], data.groups)
    return (jnp.zeros(data.groups.shape[0], jnp.int32).at[rows].add(1),)


def task_loss(parts: Parts, params: PyTree, task: Task) -> Float[Array, ""]:
    """How far the meta-model is from one teacher on its images."""
    images, teacher_logits, labels = task.rows
    logits = batch_apply(parts.student, params, images)
    loss = objectives.distillation(parts.options.distill)(logits, teacher_logits)
    if parts.options.hard_label_weight:
        hard = objectives.cross_entropy(logits, labels)
        loss += parts.options.hard_label_weight * hard
    return loss


def regularised(
    parts: Parts, params: PyTree, tasks: Task
) -> tuple[PyTree, jax.Array, jax.Array]:
    r"""Gradient of the mean loss after each teacher's own small step.

    With :math:`g_i` the gradients at theta and :math:`\theta_i = \theta + \beta (g_i -
    \bar g)`, the gradient of :math:`\frac1T \sum_i L_i(\theta_i)` is, as Hessians are
    symmetric, :math:`\bar g' + \frac\beta T \sum_i H_i (g'_i - \bar g')`, where
    :math:`g'_i` are the gradients at :math:`\theta_i`.  So no program is differentiated
    twice over all teachers, and each may be on a device of its own.

    Args:
      parts: of the algorithm.
      params: theta.
      tasks: leaves [T, ...].

    Returns:
      The gradient; the mean loss at theta; `TgrInfo.conflict`.
    """
    options, count = parts.options, tasks.images.shape[0]

    def loss(params: PyTree, task: Task) -> jax.Array:
        return task_loss(parts, params, task)

    def add(x: PyTree, scale: float | jax.Array, y: PyTree) -> PyTree:
        return jax.tree.map(lambda a, b: a + scale * b, x, y)

    def mean(total: PyTree) -> PyTree:
        return jax.tree.map(lambda x: x / count, total)

    def first(params: PyTree, task: Task) -> tuple[PyTree, PyTree]:
        value, grads = jax.value_and_grad(loss)(params, task)
        return (value, grads), grads

    (losses, grads), total = parts.map_tasks(first, summed=True)(params, tasks)
    centre = mean(total)
    conflict = _conflict(grads, centre)
    if not options.displacement:
        return centre, losses.mean(), conflict

    def second(shared: PyTree, task: PyTree) -> tuple[PyTree, PyTree]:
        (params, centre), (own, images) = shared, task
        away = add(own, -1.0, centre)
        moved = jax.grad(loss)(add(params, options.displacement, away), images)
        return moved, moved

    moved, total = parts.map_tasks(second, summed=True)(
        (params, centre), (grads, tasks)
    )
    direction = mean(total)
    if not options.second_order:
        return direction, losses.mean(), conflict

    def third(shared: PyTree, task: PyTree) -> tuple[tuple[()], PyTree]:
        params, direction = shared
        after, images = task
        along = add(after, -1.0, direction)

        def slope(params: PyTree) -> jax.Array:
            grads = jax.grad(loss)(params, images)
            dots = jax.tree.map(jnp.vdot, grads, along)
            return jnp.stack(jax.tree.leaves(dots)).sum()

        # Backwards twice: not every layer here has a forward derivative.
        return (), jax.grad(slope)(params)

    _, total = parts.map_tasks(third, summed=True)((params, direction), (moved, tasks))
    return add(direction, options.displacement, mean(total)), losses.mean(), conflict


def _conflict(grads: PyTree, centre: PyTree) -> jax.Array:
    """Variance of gradients [T, ...] over the squared length of their mean."""
    count = len(jax.tree.leaves(grads)[0])
    apart = jax.tree.map(lambda g, c: jnp.square(g - c).sum(), grads, centre)
    length = jax.tree.map(lambda c: jnp.square(c).sum(), centre)
    both = [jnp.stack(jax.tree.leaves(x)).sum() for x in (apart, length)]
    return both[0] / count / jnp.maximum(both[1], 1e-30)


def tgr(
    learner: MetaLearner,
    student: Network,
    replay: Callable,
    optimizer: optax.GradientTransformation,
    *,
    num_classes: int,
    num_groups: int = 1,
    images_per_class: int = 20,
    memory_per_class: int = 600,
    options: TgrOptions = TgrOptions(),
    map_tasks: Callable = parallel.map_tasks,
) -> Algorithm:
    """Composes the regularised step and replay.

    The arguments are described by `Parts`; the algorithm's data is a `TgrData`.

    Raises:
      InputError: an option is out of range.
      ValueError: the memory has no room for the images of a step.
    """
    check(options)
    if images_per_class > memory_per_class:
        raise ValueError(
            f"images_per_class={images_per_class} exceeds memory_per_class="
            f"{memory_per_class}"
        )
    parts = Parts(
        learner=learner,
        student=student,
        replay=replay,
        optimizer=optimizer,
        num_classes=num_classes,
        num_groups=num_groups,
        images_per_class=images_per_class,
        memory_per_class=memory_per_class,
        options=options,
        map_tasks=map_tasks,
    )
    return bind(init, step, parts, draws=draws)
