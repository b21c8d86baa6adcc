"""Meta-training of FIVE's generator by itself, and the update FREE shares with it."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, Key

from free_jax import parallel, zoo
from free_jax.inversion.loop import Inverter
from free_jax.types import PyTree, Teachers


class GeneratorState(NamedTuple):
    """Step count, the shared generator and the state of its outer optimiser."""

    step: jax.Array
    generator: PyTree
    opt: PyTree


class GeneratorInfo(NamedTuple):
    """Means over the step's teachers, see `InversionInfo`."""

    loss: jax.Array
    teacher_accuracy: jax.Array
    is_finite: jax.Array


def outer_update(
    optimizer: optax.GradientTransformation,
    generator: PyTree,
    opt: PyTree,
    gradients: Sequence[PyTree],
) -> tuple[PyTree, PyTree]:
    """One step along the SUM of the teachers' meta-gradients.

    Args:
      optimizer: outer optimiser.
      generator: shared parameters.
      opt: its state.
      gradients: one a group of teachers, each the sum over its teachers.

    Returns:
      ``(generator, opt)``.
    """
    total = jax.tree.map(lambda *g: sum(g), *gradients)
    updates, opt = optimizer.update(total, opt, generator)
    return optax.apply_updates(generator, updates), opt


def draw(key: Key[Array, ""], count: int, pool: int) -> Int[Array, " t"]:
    """Rows of the teachers that the step of a key takes: uniform, with replacement."""
    return jax.random.randint(jax.random.split(key)[0], (count,), 0, pool)


def step_on_drawn(
    inverter: Inverter,
    labels: Int[Array, " n"],
    *,
    optimizer: optax.GradientTransformation,
    map_tasks: Callable = parallel.map_tasks,
) -> Callable:
    """A step of `meta_training` on teachers that were drawn beforehand.

    Those of a large zoo are read from files for it, which no compiled program does.

    Returns:
      ``(key, state, drawn) -> (state, GeneratorInfo)`` for a stack `drawn`, of the rows
      that `draw` gives for the same key.
    """

    def one(generator, task):
        task_key, teacher = task
        return inverter.invert(task_key, generator, teacher, labels)[1:]

    mapped = map_tasks(one, everywhere=True, summed=True)

    def step(
        key: Key[Array, ""], state: GeneratorState, drawn: Teachers
    ) -> tuple[GeneratorState, GeneratorInfo]:
        key_invert = jax.random.split(key)[1]
        each = jax.random.split(key_invert, drawn.class_ids.shape[0])
        info, grads = mapped(state.generator, (each, drawn))
        generator, opt = outer_update(optimizer, state.generator, state.opt, [grads])
        new = GeneratorState(state.step + 1, generator, opt)
        return new, GeneratorInfo(
            info.loss[:, -1].mean(),
            info.teacher_accuracy.mean(),
            info.is_finite.all(),
        )

    return step


def meta_training(
    inverter: Inverter,
    labels: Int[Array, " n"],
    *,
    optimizer: optax.GradientTransformation,
    teachers_per_step: int,
    map_tasks: Callable = parallel.map_tasks,
) -> tuple[Callable, Callable]:
    """Trains what an inverter's inversions start from.

    Args:
      inverter: of one architecture, with a shared generator.
      labels: of the images recovered from each teacher.
      optimizer: outer optimiser.
      teachers_per_step: drawn with replacement.
      map_tasks: see `parallel.map_tasks`.

    Returns:
      ``init: key -> GeneratorState`` and ``step: (key, state, teachers) ->
      (state, GeneratorInfo)`` for a stack of teachers.
    """
    on_drawn = step_on_drawn(inverter, labels, optimizer=optimizer, map_tasks=map_tasks)

    def init(key: Key[Array, ""]) -> GeneratorState:
        generator = inverter.init(key)
        return GeneratorState(jnp.int32(0), generator, optimizer.init(generator))

    def step(
        key: Key[Array, ""], state: GeneratorState, teachers: Teachers
    ) -> tuple[GeneratorState, GeneratorInfo]:
        rows = draw(key, teachers_per_step, teachers.class_ids.shape[0])
        return on_drawn(key, state, zoo.take(teachers, rows))

    return init, step
