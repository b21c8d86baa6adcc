"""PURER: one learnable data set, inverted and made harder while a learner trains on it.

One step: all teachers (or a few drawn ones) judge the pixels of their classes, now and
then a random episode is made harder for the meta-model, the pixels make one optimiser
step; then the meta-model makes one on episodes drawn from the pixels.

A teacher of more classes than a task has judges as many of them, drawn anew each time
(see `zoo.tasks`).  Where teachers of several networks take part, each network judges by
a program of its own, and what follows is another.

Reference:
  Hu et al., "Architecture, Dataset and Model-Scale Agnostic Data-free Meta-Learning",
  CVPR 2023, and the released codes of PURER and PURER-Plus; what those do by mistake is
  an option here, listed in docs/reference/differences.md.

Example::

    update = replay.episodic_update(
        learner, optimizer, way=5, shots=1, queries=15, episodes_per_update=1
    )
    algorithm = purer(
        inversion.normalized_source(shape, mean, std), (gradient,), learner, update,
        functools.partial(sample_episode, way=5, shots=1, queries=15),
        pixels_optimizer=optax.adam(0.25), optimizer=optimizer,
        num_classes=zoo.num_classes, options=PurerOptions(teachers_per_step=4),
    )
    state = jax.jit(algorithm.init)(key)
    step = algorithm.compiled()
    state, info = step(step_key, state, zoo.teachers)
    variables = algorithm.model(state)  # {"params": ...}
"""

import functools
from collections.abc import Callable, Sequence
from typing import Annotated, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, Key

from free_jax import parallel, zoo
from free_jax.algorithm import Algorithm, all_finite, bind
from free_jax.algorithms import purer_curriculum as curriculum_lib
from free_jax.algorithms import turns
from free_jax.algorithms.drawn import Drawn, known, read, teachers_of
from free_jax.algorithms.purer_curriculum import Curriculum, CurriculumOptions
from free_jax.fewshot import banks
from free_jax.fewshot.learners import MetaLearner
from free_jax.inversion import ObjectiveGradient, Source
from free_jax.options import AtLeast, check
from free_jax.types import Episode, ImageBank, PyTree, Teachers
from free_jax.zoo.tasks import about

LabelOrder = Literal["teacher", "sorted"]


class PurerOptions(NamedTuple):
    """The images that are learned, a set for every class that a teacher knows.

    Attributes:
      images_per_class: learned; an episode takes its shots and queries of them.
      teachers_per_step: whose images are moved.
      weighting: of the teachers' losses: "uniform", or "prefix" (the released code).
      label_order: of a batch: the "teacher"'s, or "sorted" (PURER-Plus's code).
    """

    images_per_class: Annotated[int, AtLeast(1)] = 16
    teachers_per_step: Annotated[int, AtLeast(1)] = 13
    weighting: Literal["uniform", "prefix"] = "uniform"
    label_order: LabelOrder = "teacher"


class PurerState(NamedTuple):
    """Everything that training carries.

    Attributes:
      step: [] int32 steps made.
      pixels: [C, n, h, w, c] of all classes, before `Source.render`.
      pixels_opt: state of their optimiser.
      params: parameters of the meta-model.
      opt: state of its optimiser.
      curriculum: when the next adversarial step is due.
    """

    step: jax.Array
    pixels: jax.Array
    pixels_opt: PyTree
    params: PyTree
    opt: PyTree
    curriculum: Curriculum


class PurerInfo(NamedTuple):
    """Scalars of one step.

    Attributes:
      inversion_loss: before the pixel step, mean over the step's teachers.
      inversion_ce: its cross-entropy part.
      adversarial: 1 where the pixel step was an adversarial one, else 0.
      replay_loss, replay_accuracy: means over the step's episodes, after adaptation.
      is_finite: whether losses, pixels and parameters are finite.
    """

    inversion_loss: jax.Array
    inversion_ce: jax.Array
    adversarial: jax.Array
    replay_loss: jax.Array
    replay_accuracy: jax.Array
    is_finite: jax.Array


class Parts(NamedTuple):
    """What PURER is composed of; the arguments of `purer`.

    Attributes:
      source: how pixels become images; nothing of it is shared.
      objective_gradients: one a network, from `inversion.white_box`.
      learner: its loss is what adversarial steps raise; gives the initialisation.
      update: from `replay.episodic_update`, of the same learner and `optimizer`.
      sample: ``(key, bank) -> Episode``, the kind of episodes that `update` draws.
      pixels_optimizer: of the data set, one step a step.
      optimizer: of the meta-model.
      num_classes: absolute class ids in the zoo; those that no teacher knows are
        never drawn.
      way: classes that a teacher judges at a time, drawn where it knows more; the
        objectives are those of networks `zoo.tasks.narrowed` to it.  None: all.
      options: see `PurerOptions`.  All groups' teachers of a step are counted together
        and spread evenly (see `turns`); of a group at most all are drawn, without
        replacement, and as many as it holds are taken in order, without a draw.  The
        released codes learn shots + queries images a class.
      curriculum: see `CurriculumOptions`.
      map_tasks: see `parallel.map_tasks`.
    """

    source: Source
    objective_gradients: tuple[ObjectiveGradient, ...]
    learner: MetaLearner
    update: Callable
    sample: Callable[[jax.Array, ImageBank], Episode]
    pixels_optimizer: optax.GradientTransformation
    optimizer: optax.GradientTransformation
    num_classes: int
    way: int | None
    options: PurerOptions
    curriculum: CurriculumOptions
    map_tasks: Callable


def init(parts: Parts, key: Key[Array, ""]) -> PurerState:
    """Random pixels and the learner's initialisation."""
    key_pixels, key_params = jax.random.split(key)
    n, classes = parts.options.images_per_class, parts.num_classes
    labels = jnp.repeat(jnp.arange(classes), n)
    pixels = parts.source.start(key_pixels, (), labels)
    pixels = pixels.reshape(classes, n, *parts.source.image_shape)
    params = parts.learner.init(key_params)
    return PurerState(
        step=jnp.int32(0),
        pixels=pixels,
        pixels_opt=parts.pixels_optimizer.init(pixels),
        params=params,
        opt=parts.optimizer.init(params),
        curriculum=curriculum_lib.init(),
    )


def step(
    parts: Parts,
    key: Key[Array, ""],
    state: PurerState,
    data: tuple[Teachers, ...] | Drawn,
    programs: Callable,
) -> tuple[PurerState, PurerInfo]:
    """Moves the pixels as teachers and curriculum want, then learns from them."""
    key_judge, key_harder, key_learn = jax.random.split(key, 3)
    images = programs(render)(state.pixels)
    gradient, losses, ces = jnp.zeros_like(images), [], []
    everyone = known(data)
    batches, held = _batches(parts, everyone)
    weights, first = _weights(parts, sum(batch.count for batch in batches)), 0
    for number, place in enumerate(turns.places(batches, state.step)):
        draw = functools.partial(_rows, key_judge, batches, place, held)
        teachers, rows = teachers_of(data, number, place.group, draw)
        tasks = (
            _task_keys(key_judge, place),
            weights[first : first + place.count],
            turns.draw_tasks(
                key_judge, place, teachers, parts.way or teachers.class_ids.shape[1]
            ),
        )
        loss, ce, gradient = programs(judge, place.group, donate=1)(
            images, gradient, teachers, rows, tasks
        )
        losses.append(loss)
        ces.append(ce)
        first += place.count
    return programs(learn, donate=0)(
        state, gradient, (losses, ces), everyone, (key_harder, key_learn)
    )


def draws(
    parts: Parts, key: Key[Array, ""], step: jax.Array, data: tuple[Teachers, ...]
) -> tuple[jax.Array, ...]:
    """How often a step draws each teacher, see `Algorithm.draws`."""
    key, _, _ = jax.random.split(key, 3)
    batches, held = _batches(parts, data)
    found = [jnp.zeros(many, jnp.int32) for many in held]
    for batch in batches:
        turn = turns.positions(batch, step)
        for position, group in enumerate(batch.groups):
            share = batch.number == group
            place = turns.Place(batch, group, 0, batch.count if share else 1)
            rows = _rows(key, batches, place, held)
            rows = jnp.arange(held[group]) if rows is None else rows
            mine = (turn == position).any().astype(jnp.int32)
            found[group] = found[group].at[rows].add(mine)
    return tuple(found)


def feed(
    parts: Parts, key: Key[Array, ""], step: int, data: tuple[Teachers, ...]
) -> Drawn:
    """The teachers that a step draws, see `Algorithm.feed`."""
    key, _, _ = jax.random.split(key, 3)
    batches, held = _batches(parts, data)
    places = turns.places(batches, step)
    rows = [_rows(key, batches, place, held) for place in places]
    return read(data, [place.group for place in places], rows)


def _batches(
    parts: Parts, everyone: Sequence[Teachers]
) -> tuple[tuple[turns.Batch, ...], list[int]]:
    """A step's teachers by groups, and how many each group holds."""
    held = [teachers.class_ids.shape[0] for teachers in everyone]
    return turns.batches(parts.options.teachers_per_step, len(held), held), held


def _weights(parts: Parts, total: int) -> jax.Array:
    """Of a step's teachers, in their order."""
    # Both released codes add up a running sum.
    if parts.options.weighting == "prefix":
        return jnp.arange(total, 0, -1.0)
    return jnp.ones(total)


def _task_keys(key: jax.Array, place: turns.Place) -> jax.Array:
    """Of the views of a place's teachers."""
    batch = place.batch
    key = jax.random.fold_in(key, batch.number)
    if batch.number == place.group:  # The other half draws its teachers.
        _, key = jax.random.split(key)
    return place.of(jax.random.split(key, batch.count))


def _rows(
    key: jax.Array,
    batches: tuple[turns.Batch, ...],
    place: turns.Place,
    held: Sequence[int],
) -> Int[Array, " t"] | None:
    """Distinct teachers in random order; None: all of the group, as they are.

    Those whose turn it is are the first that the group's share leaves.
    """
    group, many = place.group, held[place.group]
    key_draw, _ = jax.random.split(jax.random.fold_in(key, group))
    # What is left may go round one group alone, and is not its share.
    if place.batch.number == group:
        if place.count == many:
            return None
        return jax.random.permutation(key_draw, many)[: place.count]
    taken = sum(batch.count for batch in batches if batch.number == group)
    return jax.random.permutation(key_draw, many)[taken : taken + 1]


def render(parts: Parts, pixels: jax.Array) -> jax.Array:
    """The images [C, n, h, w, c] of all classes."""
    return render_pixels(parts.source, pixels)


def judge(
    parts: Parts,
    group: int,
    images: jax.Array,
    gradient: jax.Array,
    teachers: Teachers,
    rows: Int[Array, " t"] | None,
    tasks: PyTree,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The losses of some teachers of a group on the images of their classes.

    Args:
      parts: of the algorithm.
      group: the teachers'.
      images: [C, n, h, w, c] of all classes.
      gradient: of the teachers before, the same shape.
      teachers: a stack of the group.
      rows: [T] which of them; None: all.
      tasks: (keys of their views [T], weights [T], chosen classes [T, W] or None).

    Returns:
      Losses [T], their cross-entropy parts [T] and the gradient with theirs added.
    """
    keys, weights, chosen = tasks
    some = teachers if rows is None else zoo.take(teachers, rows)

    def one(images: jax.Array, task: PyTree) -> PyTree:
        key, teacher, chosen = task
        return judge_block(
            parts.objective_gradients[group],
            images,
            (key, about(teacher, chosen)),
            label_order=parts.options.label_order,
        )

    losses, ces, ids, blocks = parts.map_tasks(one)(images, (keys, some, chosen))
    blocks *= weights[:, None, None, None, None, None]
    return losses, ces, gradient.at[ids].add(blocks)


def learn(
    parts: Parts,
    state: PurerState,
    gradient: jax.Array,
    judged: tuple[list[jax.Array], list[jax.Array]],
    everyone: tuple[Teachers, ...],
    keys: tuple[jax.Array, jax.Array],
) -> tuple[PurerState, PurerInfo]:
    """All of a step but the teachers' part: moves the pixels, trains the meta-model."""
    key_harder, key_learn = keys
    losses, ces = map(jnp.concatenate, judged)
    images, pull_back = jax.vjp(functools.partial(render, parts), state.pixels)
    per_class = parts.options.images_per_class
    counts = known_classes(everyone, parts.num_classes) * per_class
    gradient = jax.lax.cond(
        state.curriculum.adversarial,
        functools.partial(make_harder, parts),
        lambda key, images, params, counts, gradient: gradient,
        key_harder,
        images,
        state.params,
        counts,
        gradient,
    )
    pixels, pixels_opt = move(parts, state, pull_back(gradient)[0])
    bank = ImageBank(render(parts, pixels), counts, jnp.zeros_like(counts))
    params, opt, learned = parts.update(key_learn, state.params, state.opt, bank)
    number = state.step + 1
    rule = curriculum_lib.advance(
        state.curriculum, number, learned.accuracy, parts.curriculum
    )
    info = PurerInfo(
        inversion_loss=losses.mean(),
        inversion_ce=ces.mean(),
        adversarial=state.curriculum.adversarial.astype(jnp.float32),
        replay_loss=learned.loss,
        replay_accuracy=learned.accuracy,
        is_finite=all_finite(losses, pixels, params),
    )
    return PurerState(number, pixels, pixels_opt, params, opt, rule), info


def make_harder(
    parts: Parts,
    key: jax.Array,
    images: jax.Array,
    params: PyTree,
    counts: jax.Array,
    gradient: jax.Array,
) -> jax.Array:
    """The pixels' gradient of an adversarial step, which raises an episode's loss."""
    harder = hardness(parts.learner, parts.sample)
    _, direction = harder(images, key, params, counts)
    return gradient - parts.curriculum.adversarial * direction


def move(
    parts: Parts, state: PurerState, gradient: jax.Array
) -> tuple[jax.Array, PyTree]:
    """The pixels after one step of their optimiser, and its state."""
    updates, opt = parts.pixels_optimizer.update(
        gradient, state.pixels_opt, state.pixels
    )
    pixels: jax.Array = optax.apply_updates(state.pixels, updates)  # type: ignore
    return pixels, opt


def hardness(
    learner: MetaLearner, sample: Callable[[jax.Array, ImageBank], Episode]
) -> Callable[..., tuple[jax.Array, jax.Array]]:
    """How hard a random episode is, and its gradient with respect to all images.

    The gradient passes through the queries and, by the inner loop's derivative,
    through the support images.

    Returns:
      ``(images [C, n, h, w, c], key, params, counts [C]) -> (query loss, gradient)``.
    """

    def loss(images: jax.Array, key: jax.Array, params: PyTree, counts: jax.Array):
        bank = ImageBank(images, counts, jnp.zeros_like(counts))
        return learner.loss(params, sample(key, bank))[0]

    return jax.value_and_grad(loss)


def judge_block(
    objective_gradient: ObjectiveGradient,
    images: jax.Array,
    task: tuple[jax.Array, Teachers],
    *,
    label_order: LabelOrder = "teacher",
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """One teacher's loss on the images of its classes.

    Args:
      objective_gradient: of the teacher's network.
      images: [C, n, h, w, c] of all classes.
      task: (key, one teacher).
      label_order: which class an image block of a teacher's output belongs to: the one
        of the "teacher"'s output, or that of the "sorted" class ids (PURER-Plus
        gathers images by a mask and keeps the unsorted targets).

    Returns:
      Loss, its cross-entropy part, the classes [W] and their gradient [W, n, h, w, c].
    """
    key, teacher = task
    ids = teacher.class_ids
    if label_order == "sorted":
        ids = jnp.sort(ids)
    block = images[ids]
    labels = jnp.repeat(jnp.arange(ids.shape[0]), images.shape[1])
    rows = block.reshape(-1, *images.shape[2:])
    loss, ce, gradient = objective_gradient(key, rows, labels, teacher, None)
    return loss, ce, ids, gradient.reshape(block.shape)


def known_classes(
    data: tuple[Teachers, ...], num_classes: int
) -> Int[Array, " classes"]:
    """1 for classes that some teacher of the zoo knows, else 0."""
    known = jnp.zeros((num_classes,), jnp.int32)
    for teachers in data:
        known = known.at[teachers.class_ids].set(1)
    return known


def render_pixels(source: Source, pixels: jax.Array) -> jax.Array:
    """Images [C, n, h, w, c] of a data set; labels do not matter to pixels."""
    labels = jnp.repeat(jnp.arange(pixels.shape[0]), pixels.shape[1])
    rows = source.render(pixels.reshape(-1, *pixels.shape[2:]), labels)
    return rows.reshape(pixels.shape)


def as_bank(source: Source, state: PurerState, data: tuple[Teachers, ...]) -> ImageBank:
    """The data set as 8-bit images, to look at or to keep."""
    images = render_pixels(source, state.pixels)
    counts = known_classes(data, images.shape[0]) * images.shape[1]
    return ImageBank(banks.to_bytes(images), counts, jnp.zeros_like(counts))


def purer(
    source: Source,
    objective_gradients: tuple[ObjectiveGradient, ...],
    learner: MetaLearner,
    update: Callable,
    sample: Callable[[jax.Array, ImageBank], Episode],
    *,
    pixels_optimizer: optax.GradientTransformation,
    optimizer: optax.GradientTransformation,
    num_classes: int,
    way: int | None = None,
    options: PurerOptions = PurerOptions(),
    curriculum: CurriculumOptions = CurriculumOptions(),
    map_tasks: Callable = parallel.map_tasks,
) -> Algorithm:
    """Composes the learnable data set and the meta-learner.

    The arguments are described by `Parts`.  The algorithm's data is the zoo's tuple of
    teacher stacks; those of a zoo in files are fed to it (`Algorithm.feed`).

    Raises:
      InputError: options out of range.
    """
    check(options, curriculum)
    parts = Parts(
        source=source,
        objective_gradients=objective_gradients,
        learner=learner,
        update=update,
        sample=sample,
        pixels_optimizer=pixels_optimizer,
        optimizer=optimizer,
        num_classes=num_classes,
        way=way,
        options=options,
        curriculum=curriculum,
        map_tasks=map_tasks,
    )
    groups = len(objective_gradients)
    return bind(init, step, parts, num_programs=groups, draws=draws, feed=feed)
