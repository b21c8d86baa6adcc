"""Trustworthy data-free meta-learning: tasks between tasks, and teachers by reward.

Now and then, when nothing more is learned, a policy chooses some teachers; the
meta-model is distilled from their recovered tasks, which enter a memory.  All other
steps learn from the memory: from its tasks, and from tasks between two of its tasks.
What accuracy the model then has on episodes of a bank of images, recovered or real, is
the reward by which the policy learns whom to choose (REINFORCE), so that teachers which
teach nothing, or something wrong, come less often.

Teachers of any network and of any number of classes take part: a step needs their
answers about their own images only (see `recovered_tasks`).

Reference:
  The released code of Trustworthy-DFML: TEAPOT, the memory, and ROSY, the policy
  (R1 to R10, docs/reference/released_codes.md); every difference between it and our
  default is a keyword here or in `recovered_tasks.OwnTaskOptions`.

Example::

    algorithm = trustworthy(
        learner, student, optimizer, num_classes=64, num_teachers=100
    )
    state = jax.jit(algorithm.init)(key)
    state, info = algorithm.compiled()(step_key, state, TrustworthyData(tasks, bank))
    jax.nn.softmax(state.policy.weights)  # how likely each teacher is chosen
"""

import functools
from collections.abc import Callable
from typing import Annotated, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Key

from free_jax import objectives, parallel
from free_jax.algorithm import Algorithm, all_finite, bind
from free_jax.algorithms import selection, task_memory
from free_jax.algorithms.bidf_bilevel import Taught, bilevel
from free_jax.algorithms.recovered_tasks import (
    RecoveredTasks,
    Task,
    draw_task,
)
from free_jax.algorithms.selection import Policy, SelectionOptions
from free_jax.algorithms.task_memory import InterpolationOptions
from free_jax.fewshot.episodes import sample_episode
from free_jax.fewshot.learners import MetaLearner
from free_jax.options import AtLeast, Positive, check
from free_jax.types import ImageBank, PyTree
from free_jax.zoo.network import Network


class ScheduleOptions(NamedTuple):
    """When teachers are chosen anew, and what is learned then.

    Attributes:
      renew: by "patience": once so many steps brought no better reward; or at an
        "interval" of steps.
      every: those steps.
      distil: learn from the chosen teachers' answers in that step; else their images
        enter the memory and nothing is learned from answers.
      loss: of the distillation: "kl" (released code) or "prob_dot".
      inner_lr: rate of the distillation of a learner that adapts by gradient.
      inner_steps: of that distillation.
    """

    renew: Literal["patience", "interval"] = "patience"
    every: Annotated[int, AtLeast(1)] = 10
    distil: bool = True
    loss: objectives.Distill = "kl"
    inner_lr: Annotated[float, Positive()] = 0.01
    inner_steps: Annotated[int, AtLeast(0)] = 5


class StepOptions(NamedTuple):
    """The tasks of a step.

    Attributes:
      teachers_per_step: chosen when teachers are, without replacement.
      tasks_per_step: of the memory, in all other steps; losses are averaged.
      shots: support images a class.
      queries: query images a class.
      memory: support and query images are drawn from all of a class "together", or
        from two memories "apart", which share their places, so that each has half of
        them (released code).
      memory_per_class: images that a class has room for.
    """

    teachers_per_step: Annotated[int, AtLeast(1)] = 4
    tasks_per_step: Annotated[int, AtLeast(1)] = 4
    shots: Annotated[int, AtLeast(1)] = 1
    queries: Annotated[int, AtLeast(1)] = 15
    memory: Literal["together", "apart"] = "together"
    memory_per_class: Annotated[int, AtLeast(1)] = 320


class TrustworthyData(NamedTuple):
    """What a step learns from.

    Attributes:
      tasks: of all teachers that take part.
      rewards: images whose episodes say how good the model is: real ones (released
        code), or those of `tasks`, which are not held out and bear the names that
        their teachers claim.
    """

    tasks: RecoveredTasks
    rewards: ImageBank


class TrustworthyState(NamedTuple):
    """Everything that training carries.

    Attributes:
      step: [] int32 steps made.
      params: parameters of the meta-model.
      opt: state of its optimiser.
      memory: images of chosen teachers: support and query images, or one bank.
      policy: whom to choose, see `selection.Policy`.
      renews: [] bool, whether teachers are chosen in the next step.
      best: [] best reward since they last were.
      waited: [] int32 steps since that.
      drawn: [T] int32 how often each was chosen.
    """

    step: jax.Array
    params: PyTree
    opt: PyTree
    memory: tuple[ImageBank, ...]
    policy: Policy
    renews: jax.Array
    best: jax.Array
    waited: jax.Array
    drawn: jax.Array


class TrustworthyInfo(NamedTuple):
    """Scalars of one step.

    Attributes:
      distill_loss: of a step that chose teachers; 0 in others.
      memory_loss: of a step that did not; 0 in others.
      reward: percent of queries that are right, after the step, in episodes of
        `TrustworthyData.rewards`: of images that were learned from, where it holds
        recovered ones.
      renewed: whether teachers were chosen.
      entropy: of the policy, in nats.
      is_finite: whether losses, parameters and policy are finite.
    """

    distill_loss: jax.Array
    memory_loss: jax.Array
    reward: jax.Array
    renewed: jax.Array
    entropy: jax.Array
    is_finite: jax.Array


class Parts(NamedTuple):
    """What the method is composed of; the arguments of `trustworthy`.

    Attributes:
      learner: trained on the memory's tasks, and adapted for the reward.
      student: the meta-model's network.
      optimizer: of the meta-model.
      num_classes: absolute class ids in the zoo.
      num_teachers: that take part.
      adapts: whether the learner adapts by gradient; else it is a ProtoNet.
      options: see `StepOptions`.
      schedule: see `ScheduleOptions`.
      interpolation: see `InterpolationOptions`.
      select: see `selection.SelectionOptions`.
      map_tasks: see `parallel.map_tasks`.
    """

    learner: MetaLearner
    student: Network
    optimizer: optax.GradientTransformation
    num_classes: int
    num_teachers: int
    adapts: bool
    options: StepOptions
    schedule: ScheduleOptions
    interpolation: InterpolationOptions
    select: SelectionOptions
    map_tasks: Callable


def init(parts: Parts, key: Key[Array, ""]) -> TrustworthyState:
    """The learner's initialisation, an empty memory and a uniform policy."""
    params, options = parts.learner.init(key), parts.options
    memory = task_memory.init(
        parts.num_classes,
        parts.student.image_shape,
        shots=options.shots,
        queries=options.queries,
        per_class=options.memory_per_class,
        kind=options.memory,
    )
    return TrustworthyState(
        step=jnp.int32(0),
        params=params,
        opt=parts.optimizer.init(params),
        memory=memory,
        policy=selection.init(
            parts.select, parts.num_teachers, options.teachers_per_step
        ),
        renews=jnp.asarray(True),
        best=jnp.float32(-1.0),
        waited=jnp.int32(0),
        drawn=jnp.zeros(parts.num_teachers, jnp.int32),
    )


def step(
    parts: Parts, key: Key[Array, ""], state: TrustworthyState, data: TrustworthyData
) -> tuple[TrustworthyState, TrustworthyInfo]:
    """Learns from chosen teachers or from the memory, then rewards the choice."""
    key_choose, key_learn, key_reward = jax.random.split(key, 3)
    chosen = selection.choose(
        parts.select, key_choose, state.policy, parts.options.teachers_per_step
    )
    policy = jax.tree.map(
        lambda new, old: jnp.where(state.renews, new, old),
        chosen,
        state.policy,
    )

    def taught(args: PyTree) -> tuple[PyTree, PyTree, jax.Array, jax.Array]:
        key, params, memory = args
        loss, grads, memory = distil(parts, key, params, memory, policy, data.tasks)
        return grads, memory, loss, jnp.float32(0.0)

    def recalled(args: PyTree) -> tuple[PyTree, PyTree, jax.Array, jax.Array]:
        key, params, memory = args
        loss, grads = recall(parts, key, params, memory)
        return grads, memory, jnp.float32(0.0), loss

    grads, memory, distill_loss, memory_loss = jax.lax.cond(
        state.renews, taught, recalled, (key_learn, state.params, state.memory)
    )
    updates, opt = parts.optimizer.update(grads, state.opt, state.params)
    params = optax.apply_updates(state.params, updates)
    reward = rewarded(parts, key_reward, params, data.rewards)
    better = state.renews | (reward > state.best)
    waited = jnp.where(better, 0, state.waited + 1)
    if parts.schedule.renew == "patience":
        renews = waited >= parts.schedule.every
    else:
        renews = (state.step + 1) % parts.schedule.every == 0
    drawn = state.drawn.at[policy.chosen].add(state.renews.astype(jnp.int32))
    policy = selection.update(parts.select, policy, reward, renews, state.step + 1)
    log_p = jax.nn.log_softmax(policy.weights)
    info = TrustworthyInfo(
        distill_loss=distill_loss,
        memory_loss=memory_loss,
        reward=reward,
        renewed=state.renews.astype(jnp.float32),
        entropy=-(jnp.exp(log_p) * log_p).sum(),
        is_finite=all_finite(params, policy.weights, distill_loss, memory_loss),
    )
    new = TrustworthyState(
        step=state.step + 1,
        params=params,
        opt=opt,
        memory=memory,
        policy=policy,
        renews=renews,
        best=jnp.where(better, reward, state.best),
        waited=waited,
        drawn=drawn,
    )
    return new, info


def distil(
    parts: Parts,
    key: Key[Array, ""],
    params: PyTree,
    memory: tuple[ImageBank, ...],
    policy: Policy,
    tasks: RecoveredTasks,
) -> tuple[jax.Array, PyTree, tuple[ImageBank, ...]]:
    """Mean loss on the chosen teachers' tasks, its gradient, and the fuller memory."""
    options, schedule = parts.options, parts.schedule
    count, shots = options.teachers_per_step, options.shots
    key_tasks, key_version, key_memory = jax.random.split(key, 3)
    version = jax.random.randint(key_version, (), 0, tasks.images.shape[1])
    chosen = jax.vmap(
        lambda key, row: draw_task(
            key,
            tasks,
            row,
            way=parts.student.num_classes,
            count=shots + options.queries,
            version=version,
        )
    )(jax.random.split(key_tasks, count), policy.chosen)
    support = jax.vmap(lambda t: t.part(0, shots))(chosen)
    query = jax.vmap(lambda t: t.part(shots, shots + options.queries))(chosen)
    memory = task_memory.add(memory, support, query)
    if not schedule.distil:
        loss, grads = recall(parts, key_memory, params, memory)
        return loss, grads, memory

    def one(params: PyTree, both: tuple[Task, Task]) -> tuple[jax.Array, PyTree]:
        loss, grads = jax.value_and_grad(distill_loss, argnums=1)(parts, params, *both)
        return loss, grads

    mapped = parts.map_tasks(one, everywhere=True, summed=True)
    losses, total = mapped(params, (support, query))
    return losses.mean(), jax.tree.map(lambda x: x / count, total), memory


def distill_loss(
    parts: Parts, params: PyTree, support: Task, query: Task
) -> Float[Array, ""]:
    """How far the model, adapted to a task's support images, is from its teacher."""
    schedule = parts.schedule
    images, logits, labels = query.rows
    if parts.adapts:
        both = bilevel(
            parts.student,
            distill=schedule.loss,
            inner_lr=schedule.inner_lr,
            num_steps=schedule.inner_steps,
        )
        shown, said, wanted = support.rows
        fast = both.adapt(params, Taught(shown, said, wanted))
        return both.loss(fast, Taught(images, logits, labels))[0]
    shown, _, wanted = support.rows
    said = parts.learner.predict(parts.learner.adapt(params, shown, wanted), images)
    return objectives.distillation(schedule.loss)(said, logits)


def recall(
    parts: Parts, key: Key[Array, ""], params: PyTree, memory: tuple[ImageBank, ...]
) -> tuple[jax.Array, PyTree]:
    """Mean loss on tasks of the memory, and its gradient."""
    count = parts.options.tasks_per_step

    def loss(
        params: PyTree, memory: tuple[ImageBank, ...], key: Key[Array, ""]
    ) -> jax.Array:
        key_kind, key_first, key_second, key_share = jax.random.split(key, 4)
        draw = functools.partial(
            task_memory.draw,
            memory=memory,
            way=parts.student.num_classes,
            shots=parts.options.shots,
            queries=parts.options.queries,
        )
        first = draw(key_first)

        def within(params: PyTree) -> jax.Array:
            return parts.learner.loss(params, first)[0]

        def between(params: PyTree) -> jax.Array:
            c = parts.interpolation.concentration
            share = jax.random.beta(key_share, c, c)
            return task_memory.interpolated_loss(
                parts.student, params, first, draw(key_second), share
            )

        if not parts.interpolation.probability:
            return within(params)
        mixes = jax.random.bernoulli(key_kind, parts.interpolation.probability)
        return jax.lax.cond(mixes, between, within, params)

    def one(shared: PyTree, key: Key[Array, ""]) -> tuple[jax.Array, PyTree]:
        value, grads = jax.value_and_grad(loss)(*shared, key)
        return value, grads

    mapped = parts.map_tasks(one, everywhere=True, summed=True)
    losses, total = mapped((params, memory), jax.random.split(key, count))
    return losses.mean(), jax.tree.map(lambda x: x / count, total)


def rewarded(
    parts: Parts, key: Key[Array, ""], params: PyTree, bank: ImageBank
) -> Float[Array, ""]:
    """Percent of queries that the adapted model gets right, over episodes of a bank.

    Of recovered images these are not held out: the model learned from them, and right
    is what their teachers claim.
    """
    options = parts.options

    def one(shared: PyTree, key: Key[Array, ""]) -> jax.Array:
        params, bank = shared
        episode = sample_episode(
            key,
            bank,
            way=parts.student.num_classes,
            shots=options.shots,
            queries=options.queries,
        )
        return parts.learner.loss(params, episode)[1].accuracy

    keys = jax.random.split(key, parts.select.episodes)
    mapped = parts.map_tasks(one, everywhere=True)
    return 100.0 * mapped((params, bank), keys).mean()


def trustworthy(
    learner: MetaLearner,
    student: Network,
    optimizer: optax.GradientTransformation,
    *,
    num_classes: int,
    num_teachers: int,
    adapts: bool = False,
    options: StepOptions = StepOptions(),
    schedule: ScheduleOptions = ScheduleOptions(),
    interpolation: InterpolationOptions = InterpolationOptions(),
    select: SelectionOptions = SelectionOptions(),
    map_tasks: Callable = parallel.map_tasks,
) -> Algorithm:
    """Composes the memory and the policy.

    The arguments are described by `Parts`; the algorithm's data is a
    `TrustworthyData`.

    Raises:
      InputError: an option is out of range.
      ValueError: fewer teachers, or places in the memory, than a step takes.
    """
    check(options, schedule, interpolation, select)
    selection.check(select, num_teachers, options.teachers_per_step)
    if options.memory_per_class < options.shots + options.queries:
        raise ValueError(
            f"memory_per_class={options.memory_per_class} holds no task of "
            f"{options.shots} + {options.queries} images a class"
        )
    parts = Parts(
        learner=learner,
        student=student,
        optimizer=optimizer,
        num_classes=num_classes,
        num_teachers=num_teachers,
        adapts=adapts,
        options=options,
        schedule=schedule,
        interpolation=interpolation,
        select=select,
        map_tasks=map_tasks,
    )
    return bind(init, step, parts)
