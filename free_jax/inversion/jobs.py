"""Inversion of a whole zoo as lists of named jobs, each made when it is run.

Images are 8-bit on the host; owners are rows over the teachers of all groups.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Key

from free_jax import augment, keys, optimizers, parallel, rows
from free_jax import zoo as zoo_lib
from free_jax.fewshot import banks
from free_jax.fewshot.episodes import balanced_labels
from free_jax.inversion import dead_leaves, recipe
from free_jax.inversion.loop import Inverter
from free_jax.inversion.meta_training import (
    GeneratorInfo,
    GeneratorState,
    draw,
    meta_training,
    step_on_drawn,
)
from free_jax.inversion.objective import Adversary
from free_jax.jobs import Job
from free_jax.optimizers import Optimizer
from free_jax.types import PyTree, SyntheticImages, Teachers
from free_jax.zoo.network import Network


class Adversaries(NamedTuple):
    """Models that recovered images should be new to, one for each teacher.

    Attributes:
      student: the network of all of them.
      of_teachers: ``rows [n] over all teachers -> a stack of n adversaries``.
    """

    student: Network
    of_teachers: Callable[[np.ndarray], Adversary]


class Quota(NamedTuple):
    """How many images are recovered from a teacher.

    Attributes:
      per_class: of each class, where the teacher's classes are few.
      per_teacher: at most; None: as many as its classes ask for.
    """

    per_class: int
    per_teacher: int | None = None

    def images(self, num_classes: int) -> int:
        """Of a teacher of so many classes.

        >>> [Quota(40, 200).images(classes) for classes in (2, 5, 7, 1000)]
        [80, 200, 196, 200]
        """
        most = self.per_class * num_classes
        if self.per_teacher is None or most <= self.per_teacher:
            return most
        classes = min(num_classes, self.per_teacher)
        return self.per_teacher // classes * classes

    def labels(self, key: Key[Array, ""], num_classes: int) -> Int[Array, " n"]:
        """The labels of the images of one teacher, each equally often.

        Args:
          key: draws classes of a teacher that has more than it may have images.
          num_classes: of the teacher.
        """
        count = self.images(num_classes)
        if num_classes <= count:
            return balanced_labels(num_classes, count // num_classes)
        return jax.random.permutation(key, num_classes)[:count].astype(jnp.int32)


def recovery_jobs(
    key: Key[Array, ""],
    zoo: zoo_lib.Zoo,
    inversion: recipe.Recipe,
    *,
    images_per_class: int,
    images_per_teacher: int | None = None,
    at_once: int = 1,
    image_shape: tuple[int, int, int],
    shared: Sequence[PyTree] | None = None,
    adversaries: Adversaries | None = None,
    map_tasks: Callable = parallel.map_tasks,
) -> list[Job]:
    """Recovers images from every teacher; one job for some teachers of one group.

    One program a group is compiled, when the first of its jobs runs; the weights of a
    job's teachers are taken only then.  Of a zoo of unequals, those that give no
    gradients are passed over; without batch norm there are no statistics to match.

    Args:
      key: of the whole recovery; each teacher has a key of its own by its row.
      zoo: teachers.
      inversion: how images are recovered.
      images_per_class: from each teacher; 0 makes no job.
      images_per_teacher: at most, see `Quota`; None: no limit.
      at_once: teachers a job.
      image_shape: (h, w, c) that images are resized to.
      shared: what the inversions of each group start from, such as a meta-trained
        generator; None: a random one.
      adversaries: what images should be new to.
      map_tasks: how a job's teachers are spread, see `parallel.map_tasks`.

    Returns:
      Jobs whose results hold the fields of `SyntheticImages` and ``teacher_accuracy``
      [teachers], the share of its images that a teacher gives the wanted label.

    Raises:
      ValueError: the recipe does not fit a network, or a number is out of range.
    """
    if at_once < 1:
        raise ValueError(f"at_once={at_once} teachers must be at least 1")
    if images_per_teacher is not None and images_per_teacher < 1:
        raise ValueError(f"images_per_teacher={images_per_teacher} must be at least 1")
    jobs: list[Job] = []
    some = any(recipe.invertible(inversion, network) for network in zoo.networks)
    first = 0  # Row of the group's first teacher over all groups.
    for number, group in enumerate(zoo.groups if images_per_class else ()):
        if some and not recipe.invertible(inversion, group.network):
            first += group.num_teachers
            continue
        inverter = recipe.build(
            recipe.suited(inversion, group.network),
            group.network,
            adversaries.student if adversaries else None,
        )
        start = None if shared is None else shared[number]
        invert = _inversion_of(
            key,
            number,
            group,
            inverter,
            quota=Quota(images_per_class, images_per_teacher),
            image_shape=image_shape,
            natural=inversion.init == "dead_leaves",
            start=start,
            first=first,
            adversaries=adversaries,
            map_tasks=map_tasks,
        )
        jobs += _jobs_of(f"group{number}", group.num_teachers, at_once, invert)
        first += group.num_teachers
    return jobs


def _jobs_of(name: str, count: int, at_once: int, run: Callable) -> list[Job]:
    """A job for each `at_once` of `count` rows; their names sort in this order."""
    return [
        Job(
            f"{name}-{start:05d}",
            lambda rows=np.arange(start, min(start + at_once, count)): run(rows),
            by_rows=("images",),
        )
        for start in range(0, count, at_once)
    ]


def _inversion_of(
    key: jax.Array,
    number: int,
    group: zoo_lib.ZooGroup,
    inverter: Inverter,
    *,
    quota: Quota,
    image_shape: tuple[int, int, int],
    natural: bool,
    start: PyTree | None,
    first: int,
    adversaries: Adversaries | None,
    map_tasks: Callable,
) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """``rows of the group -> a job's result``, by one program."""

    def one(shared, task):
        key, labels, teacher, adversary = task
        recovered, info, _ = inverter.invert(key, shared, teacher, labels, adversary)
        fitted = augment.fit_to(recovered.images, image_shape)
        return banks.to_bytes(fitted), info.teacher_accuracy

    run = jax.jit(map_tasks(one, everywhere=True))
    num_classes = group.network.num_classes

    def wanted(owner: jax.Array) -> jax.Array:
        return quota.labels(keys.named(key, "classes", owner), num_classes)

    @functools.cache
    def begin() -> PyTree:
        if start is not None:
            return start
        return inverter.init(keys.named(key, "generator", number))

    def invert(rows: np.ndarray) -> dict[str, np.ndarray]:
        owners = first + rows
        each = jax.vmap(lambda i: keys.named(key, "teacher", i))(jnp.asarray(owners))
        teachers = zoo_lib.take(group.teachers, rows)
        adversary = adversaries.of_teachers(owners) if adversaries else None
        labels = jax.vmap(wanted)(jnp.asarray(owners))
        tasks = (each, labels, teachers, adversary)
        images, known = jax.device_get(run(begin(), tasks))
        ids = np.take_along_axis(np.asarray(teachers.class_ids), np.asarray(labels), 1)
        count = ids.size
        return {
            "images": images.reshape(-1, *image_shape),
            "classes": ids.reshape(-1).astype(np.int32),
            "owners": np.repeat(owners, ids.shape[1]).astype(np.int32),
            "natural": np.full(count, natural),
            "teacher_accuracy": known,
        }

    return invert


def leaves_jobs(
    key: Key[Array, ""],
    count: int,
    image_shape: tuple[int, int, int],
    *,
    chunk: int = 500,
) -> list[Job]:
    """Draws images of dead leaves, which need no teacher.

    Args:
      key: of the whole recovery.
      count: images in all; 0 makes no job.
      image_shape: (h, w, c), c one or three.
      chunk: images a job.

    Returns:
      Jobs whose results hold the fields of `SyntheticImages`.

    Raises:
      ValueError: `chunk` is not positive.
    """
    if chunk < 1:
        raise ValueError(f"chunk={chunk} images must be at least 1")
    run = jax.jit(jax.vmap(lambda key: dead_leaves.draw(key, image_shape)))

    def draw(start: int) -> dict[str, np.ndarray]:
        each = jax.random.split(keys.named(key, "dead leaves"), count)
        images = jax.device_get(run(each[start : start + chunk]))
        nobody = np.full(len(images), -1, np.int32)
        return {
            "images": np.floor(255 * np.clip(images, 0, 1)).astype(np.uint8),
            "classes": nobody,
            "owners": nobody,
            "natural": np.full(len(images), True),
        }

    # "leaves" comes after "group", in the alphabet too.
    return [
        Job(f"leaves-{start:06d}", lambda start=start: draw(start), by_rows=("images",))
        for start in range(0, count, chunk)
    ]


def images_of(
    results: Sequence[dict[str, Any]], *, natural: bool = False
) -> SyntheticImages:
    """The images of all jobs together, in this order.

    Args:
      results: of `recovery_jobs` and `leaves_jobs`; images may be `rows.FileRows`.
      natural: whether inversions are like real images, where a result was kept before
        it said so itself; dead leaves are.

    Raises:
      ValueError: there is no result.
    """
    if not results:
        raise ValueError("there are no images: neither inversions nor dead leaves")
    full = [{"natural": (part["owners"] < 0) | natural, **part} for part in results]
    return SyntheticImages(
        *(
            rows.joined([part[name] for part in full])
            for name in SyntheticImages._fields
        )
    )


class GeneratorJobs(NamedTuple):
    """A meta-training in parts, each of which starts where the one before ended.

    Attributes:
      jobs: in order; results are flat arrays.
      left: ``result -> GeneratorState``: the state that a job left, whether it was just
        run or kept from an earlier time.  Call it with every result in turn: the next
        job starts from it.
    """

    jobs: list[Job]
    left: Callable[[dict[str, np.ndarray]], GeneratorState]


def generator_jobs(
    key: Key[Array, ""],
    inverter: Inverter,
    teachers: Teachers,
    labels: Int[Array, " n"],
    *,
    num_steps: int,
    teachers_per_step: int,
    optimizer: Optimizer,
    chunk: int = 10,
    name: str = "group0",
    map_tasks: Callable = parallel.map_tasks,
) -> GeneratorJobs:
    """FIVE's meta-training of what inversions start from, `chunk` outer steps a job.

    Whoever stores results and runs the list again gets the same bits as without a
    stop, because every job starts from arrays as they are stored.

    Args:
      key: of the whole training.
      inverter: of the teachers' network, with a shared generator.
      teachers: a stack, in memory or in files.
      labels: of the images recovered from each teacher.
      num_steps: outer steps, at least 1.
      teachers_per_step: drawn with replacement.
      optimizer: outer optimiser, or its name and keywords.
      chunk: outer steps a job.
      name: jobs are named after it.
      map_tasks: how a step's teachers are spread, see `parallel.map_tasks`.

    Returns:
      `GeneratorJobs`.  A result holds ``loss`` and ``teacher_accuracy`` [chunk] of its
      steps, and the leaves of the state.

    Raises:
      ValueError: a number is out of range.
    """
    if min(num_steps, teachers_per_step, chunk) < 1:
        raise ValueError(
            f"num_steps={num_steps}, teachers_per_step={teachers_per_step} and chunk="
            f"{chunk} must be at least 1"
        )
    tx, pool = optimizers.optimizer(optimizer), teachers.class_ids.shape[0]
    init, _ = meta_training(
        inverter, labels, optimizer=tx, teachers_per_step=teachers_per_step
    )
    step = step_on_drawn(inverter, labels, optimizer=tx, map_tasks=map_tasks)
    run, begin = jax.jit(step, donate_argnums=1), jax.jit(init)
    shapes = jax.eval_shape(init, key)
    structure = jax.tree.structure(shapes)
    latest: dict[int, GeneratorState] = {}  # By steps made; at most one.

    def left(result: dict[str, Any]) -> GeneratorState:
        leaves = [result[_leaf(i)] for i in range(structure.num_leaves)]
        state = jax.tree.unflatten(structure, leaves)
        latest.clear()
        latest[int(state.step)] = state
        return state

    def train(start: int) -> dict[str, np.ndarray]:
        if start and start not in latest:
            raise ValueError(
                f"{name}: steps after {start} start from the result of those before; "
                "give every result to `left` before the next job runs"
            )
        state = latest.get(start)
        if state is None:
            state = begin(keys.named(key, "init"))
        infos = []
        for number in range(start, min(start + chunk, num_steps)):
            step_key = keys.named(key, "step", number)
            rows = np.asarray(draw(step_key, teachers_per_step, pool))
            # Weights of a large zoo are in files, which are read here.
            state, info = run(step_key, state, zoo_lib.take(teachers, rows))
            infos.append(info)
        return _result_of(name, start, state, infos)

    jobs = [
        # One after the other, each from what `left` was given here.
        Job(f"{name}-{start:05d}", lambda start=start: train(start), here=True)
        for start in range(0, num_steps, chunk)
    ]
    return GeneratorJobs(jobs, left)


def _leaf(number: int) -> str:
    """Under which name a result holds a leaf of the state."""
    return f"leaf{number:04d}"


def _result_of(
    name: str, start: int, state: GeneratorState, infos: list[GeneratorInfo]
) -> dict[str, np.ndarray]:
    """The result of a job that made the steps after `start`.

    Raises:
      FloatingPointError: a loss is not finite.
    """
    state, infos = jax.device_get((state, infos))
    losses = np.asarray([info.loss for info in infos])
    if not np.isfinite(losses).all():
        bad = int(np.isfinite(losses).argmin())
        raise FloatingPointError(
            f"meta-training of {name}: the loss is {losses[bad]} at step "
            f"{start + bad + 1}; lower the learning rates"
        )
    leaves = {_leaf(i): x for i, x in enumerate(jax.tree.leaves(state))}
    accuracy = np.asarray([info.teacher_accuracy for info in infos])
    return {"loss": losses, "teacher_accuracy": accuracy, **leaves}
