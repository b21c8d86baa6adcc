"""PURER: one learnable data set, inverted and made harder while a learner trains on it.

One step: all teachers (or a few drawn ones) judge the pixels of their classes, now and
then a random episode is made harder for the meta-model, the pixels make one optimiser
step; then the meta-model makes one on episodes drawn from the pixels.

Reference:
  Hu et al., "Architecture, Dataset and Model-Scale Agnostic Data-free Meta-Learning",
  CVPR 2023, and the released codes of PURER and PURER-Plus; what those do by mistake is
  a keyword here, listed in BUILD_NOTES.md.
"""

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, Key

from free_jax import parallel, zoo
from free_jax.algorithm import Algorithm
from free_jax.algorithms import purer_curriculum as curriculum_lib
from free_jax.algorithms.purer_curriculum import Curriculum
from free_jax.fewshot import banks
from free_jax.fewshot.learners import MetaLearner
from free_jax.inversion import Critic, Source
from free_jax.types import Episode, ImageBank, PyTree, Teachers

Weighting = Literal["uniform", "prefix"]
LabelOrder = Literal["teacher", "sorted"]


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


def purer(
    source: Source,
    critics: tuple[Critic, ...],
    learner: MetaLearner,
    update: Callable,
    sample: Callable[[jax.Array, ImageBank], Episode],
    *,
    pixels_optimizer: optax.GradientTransformation,
    optimizer: optax.GradientTransformation,
    teachers_per_step: tuple[int, ...],
    num_classes: int,
    images_per_class: int = 16,
    adversarial: float = 10.0,
    curriculum_start: int = 4000,
    patience: int = 6,
    begin: curriculum_lib.Begin = "adversarial",
    weighting: Weighting = "uniform",
    label_order: LabelOrder = "teacher",
    map_tasks: Callable = parallel.map_tasks,
) -> Algorithm:
    """Composes the learnable data set and the meta-learner.

    Args:
      source: how pixels become images; nothing of it is shared.
      critics: one an architecture group, from `inversion.white_box`.
      learner: its loss is what adversarial steps raise; gives the initialisation.
      update: from `replay.episodic_update`, of the same learner and `optimizer`.
      sample: ``(key, bank) -> Episode``, the kind of episodes that `update` draws.
      pixels_optimizer: of the data set, one step a step.
      optimizer: of the meta-model.
      teachers_per_step: how many teachers each group contributes, drawn without
        replacement; as many as the group holds are taken in order, without a draw.
      num_classes: absolute class ids in the zoo; those that no teacher knows are
        never drawn.
      images_per_class: n; shots + queries in the released codes.
      adversarial: weight of the episode's loss in an adversarial step.
      curriculum_start: last update that is not judged, see `curriculum.advance`.
      patience: updates without a new best that trigger an adversarial step.
      begin: whether the curriculum begins with an adversarial step.
      weighting: of the teachers' losses: "uniform", or "prefix", where the i-th of N
        weighs N - i + 1 (both released codes add up a running sum).
      label_order: which class an image block of a teacher's output belongs to: the one
        of the "teacher"'s output, or that of the "sorted" class ids (PURER-Plus
        gathers images by a mask and keeps the unsorted targets).
      map_tasks: see `parallel.map_tasks`.

    Returns:
      An `Algorithm` whose data is the zoo's tuple of teacher stacks.

    Raises:
      ValueError: arguments that contradict each other.
    """
    if len(critics) != len(teachers_per_step):
        raise ValueError(
            f"{len(critics)} critics but teachers_per_step={teachers_per_step}; give "
            "one a group of the zoo"
        )
    if min(teachers_per_step) < 0 or sum(teachers_per_step) < 1:
        raise ValueError(
            f"teachers_per_step={teachers_per_step} must not be negative and must "
            "add up to at least 1"
        )
    if weighting not in ("uniform", "prefix"):
        raise ValueError(f"weighting={weighting!r} must be 'uniform' or 'prefix'")
    if label_order not in ("teacher", "sorted"):
        raise ValueError(f"label_order={label_order!r} must be 'teacher' or 'sorted'")
    if begin not in ("adversarial", "patience"):
        raise ValueError(f"begin={begin!r} must be 'adversarial' or 'patience'")
    if patience < 1 or images_per_class < 1:
        raise ValueError(
            f"patience={patience} and images_per_class={images_per_class} must be at "
            "least 1"
        )
    total = sum(teachers_per_step)
    render = functools.partial(render_pixels, source)
    harder = hardness(learner, sample)

    def init(key: Key[Array, ""]) -> PurerState:
        key_pixels, key_params = jax.random.split(key)
        labels = jnp.repeat(jnp.arange(num_classes), images_per_class)
        pixels = source.start(key_pixels, (), labels)
        pixels = pixels.reshape(num_classes, images_per_class, *source.image_shape)
        params = learner.init(key_params)
        return PurerState(
            step=jnp.int32(0),
            pixels=pixels,
            pixels_opt=pixels_optimizer.init(pixels),
            params=params,
            opt=optimizer.init(params),
            curriculum=curriculum_lib.init(),
        )

    def judge(key: jax.Array, images: jax.Array, data: tuple[Teachers, ...]):
        """The teachers' losses and CEs [T], and their sum's gradient [C, n, ...]."""
        weights = jnp.ones(total)
        if weighting == "prefix":
            weights = jnp.arange(total, 0, -1.0)
        gradient, losses, ces, first = jnp.zeros_like(images), [], [], 0
        for group, count in enumerate(teachers_per_step):
            if not count:
                continue
            key_draw, key_judge = jax.random.split(jax.random.fold_in(key, group))
            teachers = draw_teachers(key_draw, data[group], count)
            one = functools.partial(
                judge_block, critics[group], label_order=label_order
            )
            keys = jax.random.split(key_judge, count)
            loss, ce, ids, blocks = map_tasks(one)(images, (keys, teachers))
            blocks *= weights[first : first + count, None, None, None, None, None]
            gradient = gradient.at[ids].add(blocks)
            losses.append(loss)
            ces.append(ce)
            first += count
        return jnp.concatenate(losses), jnp.concatenate(ces), gradient

    def move(state: PurerState, gradient: jax.Array) -> tuple[Any, Any]:
        updates, opt = pixels_optimizer.update(gradient, state.pixels_opt, state.pixels)
        return optax.apply_updates(state.pixels, updates), opt

    def step(
        key: Key[Array, ""], state: PurerState, data: tuple[Teachers, ...]
    ) -> tuple[PurerState, PurerInfo]:
        key_judge, key_harder, key_learn = jax.random.split(key, 3)
        images, pull_back = jax.vjp(render, state.pixels)
        losses, ces, gradient = judge(key_judge, images, data)
        counts = known_classes(data, num_classes) * images_per_class

        def make_harder(gradient: jax.Array) -> jax.Array:
            _, direction = harder(images, key_harder, state.params, counts)
            return gradient - adversarial * direction

        is_adversarial = state.curriculum.adversarial
        gradient = jax.lax.cond(is_adversarial, make_harder, lambda g: g, gradient)
        pixels, pixels_opt = move(state, pull_back(gradient)[0])
        bank = ImageBank(render(pixels), counts, jnp.zeros_like(counts))
        params, opt, learned = update(key_learn, state.params, state.opt, bank)
        number = state.step + 1
        rule = curriculum_lib.advance(
            state.curriculum,
            number,
            learned.accuracy,
            start=curriculum_start,
            patience=patience,
            begin=begin,
        )
        leaves = [losses, pixels, *jax.tree.leaves(params)]
        info = PurerInfo(
            inversion_loss=losses.mean(),
            inversion_ce=ces.mean(),
            adversarial=is_adversarial.astype(jnp.float32),
            replay_loss=learned.loss,
            replay_accuracy=learned.accuracy,
            is_finite=jnp.stack([jnp.isfinite(leaf).all() for leaf in leaves]).all(),
        )
        return PurerState(number, pixels, pixels_opt, params, opt, rule), info

    def recover_only(
        key: Key[Array, ""], state: PurerState, data: tuple[Teachers, ...]
    ) -> jax.Array:
        """A step's update of the pixels, without the curriculum."""
        images, pull_back = jax.vjp(render, state.pixels)
        _, _, gradient = judge(key, images, data)
        return move(state, pull_back(gradient)[0])[0]

    return Algorithm(init, step, lambda state: state.params, recover_only)


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
    critic: Critic,
    images: jax.Array,
    task: tuple[jax.Array, Teachers],
    *,
    label_order: LabelOrder = "teacher",
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """One teacher's loss on the images of its classes.

    Args:
      critic: of the teacher's architecture.
      images: [C, n, h, w, c] of all classes.
      task: (key, one teacher).
      label_order: see `purer`.

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
    loss, ce, gradient = critic(key, rows, labels, teacher, None)
    return loss, ce, ids, gradient.reshape(block.shape)


def draw_teachers(key: jax.Array, teachers: Teachers, count: int) -> Teachers:
    """`count` distinct teachers in random order, or all of them as they are."""
    held = teachers.class_ids.shape[0]
    if count == held:
        return teachers
    return zoo.take(teachers, jax.random.permutation(key, held)[:count])


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
