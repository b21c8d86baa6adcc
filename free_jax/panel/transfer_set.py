"""The images that a student learns from, and what a zoo's teachers say about them.

A *transfer set* (Hinton et al. 2015) without any data: images recovered from teachers,
dead leaves, and what all teachers answer about each of them.

    zoo = load_zoo("zoo")
    found = panel.describe_zoo(jax.random.key(0), zoo)

What takes minutes is a list of named jobs, given to ``run``: `free_jax.jobs.in_memory`
does them one after the other, a harness keeps their results.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Key

from free_jax import inversion, keys, parallel
from free_jax import jobs as jobs_lib
from free_jax import zoo as zoo_lib
from free_jax.errors import InputError
from free_jax.fewshot import banks
from free_jax.panel import judging
from free_jax.panel.aggregate import vote
from free_jax.panel.asking import answered_images, ask_zoo
from free_jax.panel.distillation import Described
from free_jax.panel.membership import PanelChoice, choose
from free_jax.panel.options import PanelOptions, RecoverOptions
from free_jax.panel.ragged import answers_of, outputs_of
from free_jax.panel.trust import rows_of, trust
from free_jax.panel.verdicts import Trust
from free_jax.panel.voices import drawn_voices, heard, silenced
from free_jax.types import Answers, ImageBank, PyTree, SyntheticImages

Known = tuple[SyntheticImages, Answers]
_NOBODY = "no teacher of the zoo answers anything that depends on the image"


class DescribedZoo(NamedTuple):
    """A described set and what is known about it.

    Attributes:
      described: what a model is distilled from, see `distil`.
      choice: the T' teachers that were asked.
      trust: in them; None where it was not wanted.
      held_out: images of the held-out classes, which are not in `described`; None where
        there are none.
      tasks: what each held-out teacher makes of images that none of them made.
      recovered: images made by this call, whether or not they are in `described`; None
        where all were known before.
      made: how many images this call had made.
      asked: about how many of those teachers were asked, fewer where a service was
        exhausted.
    """

    described: Described
    choice: PanelChoice
    trust: Trust | None
    held_out: ImageBank | None
    recovered: SyntheticImages | None
    made: int
    asked: int
    tasks: tuple[ImageBank, ...] = ()


# Images of a class that a held-out teacher judges by.
_PER_TASK_CLASS = 60


def describe_zoo(
    key: Key[Array, ""],
    zoo: zoo_lib.Zoo,
    options: PanelOptions = PanelOptions(),
    run: jobs_lib.Run = jobs_lib.in_memory,
    *,
    known: Known | None = None,
    choice: PanelChoice | None = None,
    adversaries: inversion.Adversaries | None = None,
    map_tasks: Callable = parallel.map_tasks,
) -> DescribedZoo:
    """Recovers images from all teachers and asks the panel about them.

    Args:
      key: of the whole recovery.
      zoo: teachers that images are recovered from.
      options: see `PanelOptions`.
      run: does the jobs of the stages "meta_generator", "recovered" and "described".
      known: images and all asked teachers' answers of earlier runs, put first; where
        `options` ask for no image they are all.
      choice: the teachers to ask; None: drawn, see `choose`.
      adversaries: models that recovered images should be new to.
      map_tasks: how teachers are spread, see `parallel.map_tasks`.

    Returns:
      A `DescribedZoo`.

    Raises:
      InputError: no teacher is left to ask or to trust.
      ValueError: an option is out of range, or the recipe does not fit a network.
    """
    if choice is None:
        choice = choose(keys.rng(key, "held-out classes"), zoo, options)
    recover = options.recover
    recovered, parts, made, asked = None, [], 0, 0
    if known:
        parts.append(_of_voices(known, key, choice, options))
    if recover.images_per_class or recover.dead_leaves:
        recovered = recover_zoo(
            key, zoo, recover, run, adversaries=adversaries, map_tasks=map_tasks
        )
        panel = zoo_lib.select(zoo, choice.everyone)
        answers = ask_zoo(
            panel,
            recovered.images,
            run,
            voices=_voices(key, recovered, choice, options, "voices"),
            map_tasks=map_tasks,
        )
        made, asked = len(recovered.images), len(answers.logits)
        if panel.service is not None:
            used = answered_images(answers)
            recovered = SyntheticImages(*(x[used] for x in recovered))
            answers = answers._replace(logits=answers.logits[used])
        parts.append((recovered, answers))
    images, answers = joined(parts)
    held_out = None
    if choice.held_out.size:
        held_out = bank_of_classes(images, choice.held_out)
        seen = np.isin(images.owners, choice.asked) | (images.owners < 0)
        images = SyntheticImages(*(x[seen] for x in images))
        answers = answers._replace(logits=answers.logits[seen])
    tasks = ()
    if choice.judges.size:
        images, answers, tasks = _without_judges(images, answers, choice)
    voices = None
    if asks_some(options, choice, known):
        voices = heard(answers)
    judged = None
    if options.trust:
        judged = judge(zoo, images, answers, choice.asked, voices, options.trust_passes)
    weights = judged.weights if judged else None
    described = to_described(images, answers, weights, voices)
    ids = zoo.class_ids[outputs_of(zoo.columns, choice.asked)]
    described = described._replace(class_ids=ids)
    return DescribedZoo(
        described, choice, judged, held_out, recovered, made, asked, tasks
    )


def asks_some(
    options: PanelOptions, choice: PanelChoice, known: Known | None = None
) -> bool:
    """Whether some teachers are asked about each image, not all.

    Args:
      options: how many an image is wanted.
      choice: who may be asked.
      known: images and answers of earlier runs, which may have asked some only.
    """
    few = 0 < options.asked_per_image < len(choice.asked)
    return few or (known is not None and bool(np.isnan(known[1].logits).any()))


def _voices(
    key: jax.Array,
    images: SyntheticImages,
    choice: PanelChoice,
    options: PanelOptions,
    purpose: str,
) -> np.ndarray | None:
    """[N, T'] whom to ask about which image; None: all about all."""
    if not 0 < options.asked_per_image < len(choice.asked):
        return None
    owners = rows_of(images.owners, choice.asked)
    drawn = drawn_voices(
        keys.rng(key, purpose), owners, len(choice.asked), options.asked_per_image
    )
    # Judges hear everything: they make tasks of what they are surest of.
    voices = np.ones((len(owners), len(choice.everyone)), bool)
    voices[:, np.searchsorted(choice.everyone, choice.asked)] = drawn
    return voices


def _of_voices(
    known: Known, key: jax.Array, choice: PanelChoice, options: PanelOptions
) -> Known:
    """Answers that are there, as if some teachers only had been asked."""
    images, answers = known
    voices = _voices(key, images, choice, options, "voices of known images")
    if voices is None:
        return known
    if np.isnan(answers.logits).any():
        asked = heard(answers)[:, np.searchsorted(choice.everyone, choice.asked)]
        usual = int(np.median(asked.sum(1)))
        if usual == options.asked_per_image:
            return known
        raise InputError(
            f"panel.asked_per_image={options.asked_per_image}: of the earlier run "
            f"about {usual} teachers were asked about an image; set it to {usual}, or "
            "to 0 for what is there"
        )
    logits = silenced(answers.logits, answers.columns, voices)
    return images, answers._replace(logits=logits)


def _without_judges(
    images: SyntheticImages, answers: Answers, choice: PanelChoice
) -> tuple[SyntheticImages, Answers, tuple[ImageBank, ...]]:
    """What is left to distil from, and the judges' tasks."""
    seen = ~np.isin(images.owners, choice.judges)
    images = SyntheticImages(*(x[seen] for x in images))
    answers = answers._replace(logits=answers.logits[seen])
    columns = answers.columns
    parts = [
        np.arange(int(columns[row]), int(columns[row + 1]))
        for row in np.searchsorted(choice.everyone, choice.judges)
    ]
    tasks = judging.task_banks(images.images, answers.logits, parts, _PER_TASK_CLASS)
    asked = np.searchsorted(choice.everyone, choice.asked)
    return images, answers_of(answers, asked), tasks


def recover_zoo(
    key: Key[Array, ""],
    zoo: zoo_lib.Zoo,
    options: RecoverOptions = RecoverOptions(),
    run: jobs_lib.Run = jobs_lib.in_memory,
    *,
    adversaries: inversion.Adversaries | None = None,
    map_tasks: Callable = parallel.map_tasks,
) -> SyntheticImages:
    """Images of every teacher, in the zoo's order, and dead leaves.

    Args:
      key: of the whole recovery.
      zoo: teachers.
      options: see `RecoverOptions`.
      run: does the jobs of the stages "meta_generator" and "recovered".
      adversaries: models that recovered images should be new to.
      map_tasks: how teachers are spread, see `parallel.map_tasks`.

    Raises:
      ValueError: there is nothing to make, or the recipe does not fit a network.
    """
    image_shape = common_shape(zoo, options.image_size)
    shared = None
    trains = options.inversion.source == "generator" and options.meta_training.num_steps
    if options.images_per_class and trains:
        shared = [
            _meta_trained(key, number, group, options, run, map_tasks)
            if inversion.invertible(options.inversion, group.network)
            else None
            for number, group in enumerate(zoo.groups)
        ]
    jobs = inversion.recovery_jobs(
        key,
        zoo,
        options.inversion,
        images_per_class=options.images_per_class,
        images_per_teacher=options.images_per_teacher,
        at_once=options.at_once,
        image_shape=image_shape,
        shared=shared,
        adversaries=adversaries,
        map_tasks=map_tasks,
    )
    jobs += inversion.leaves_jobs(key, options.dead_leaves, image_shape)
    # What an earlier version kept does not say whether it is like real images.
    natural = options.inversion.init == "dead_leaves"
    return inversion.images_of(list(run("recovered", jobs)), natural=natural)


def quota_of(options: RecoverOptions) -> inversion.Quota:
    """How many images are recovered from each teacher."""
    return inversion.Quota(options.images_per_class, options.images_per_teacher)


def common_shape(zoo: zoo_lib.Zoo, image_size: int = 0) -> tuple[int, int, int]:
    """(h, w, c) of images that all teachers of a zoo are asked about.

    Args:
      zoo: teachers, whose images may be of different shapes.
      image_size: height and width wanted; 0: those of most teachers, of the larger ones
        where as many see smaller ones.

    Returns:
      The shape; in colours where any teacher sees them.
    """
    counts: Counter[tuple[int, int]] = Counter()
    for group in zoo.groups:
        counts[group.network.image_shape[:2]] += group.num_teachers
    h, w = max(counts, key=lambda size: (counts[size], size))
    channels = max(network.image_shape[2] for network in zoo.networks)
    return image_size or h, image_size or w, channels


def _meta_trained(
    key: jax.Array,
    number: int,
    group: zoo_lib.ZooGroup,
    options: RecoverOptions,
    run: jobs_lib.Run,
    map_tasks: Callable,
) -> PyTree:
    """The generator of one group of teachers."""
    wanted, network = options.meta_training, group.network
    jobs, left = inversion.generator_jobs(
        keys.named(key, "generator", number),
        inversion.build(inversion.suited(options.inversion, network), network),
        group.teachers,
        # Of a teacher of very many classes, those of one draw.
        quota_of(options).labels(keys.named(key, "classes"), network.num_classes),
        num_steps=wanted.num_steps,
        teachers_per_step=wanted.teachers_per_step,
        optimizer=wanted.optimizer,
        name=f"group{number}",
        map_tasks=map_tasks,
    )
    states = [left(result) for result in run("meta_generator", jobs)]
    return states[-1].generator


def joined(parts: Sequence[Known]) -> Known:
    """All images and answers, in this order.

    Raises:
      ValueError: there are none, or their teachers differ in their numbers of classes.
    """
    if not parts:
        raise ValueError("there is nothing to describe: neither made nor known images")
    images, answers = zip(*parts, strict=True)
    columns = answers[0].columns
    if any(not np.array_equal(columns, other.columns) for other in answers):
        raise ValueError("answers of different teachers cannot be joined")
    logits = np.concatenate([part.logits for part in answers])
    together = SyntheticImages(*map(np.concatenate, zip(*images, strict=True)))
    return together, Answers(logits, columns)


def judge(
    zoo: zoo_lib.Zoo,
    images: SyntheticImages,
    answers: Answers,
    asked: Int[np.ndarray, " t"] | None = None,
    voices: np.ndarray | None = None,
    passes: int = 1,
) -> Trust:
    """How far the teachers that were asked are trusted, see `trust`.

    Args:
      zoo: all teachers, of which `images` are owned.
      images: what they were asked about.
      answers: of those that were asked.
      asked: their rows in the zoo; None: all were.
      voices: [N, t] which of them were asked about which image; None: all about all.
      passes: see `trust`.
    """
    rows = np.arange(zoo.num_teachers) if asked is None else asked
    ids = zoo.class_ids[outputs_of(zoo.columns, rows)]
    owned = images._replace(owners=rows_of(images.owners, rows))
    return trust(answers, ids, owned, voices, passes)


def to_described(
    images: SyntheticImages,
    answers: Answers,
    weights: np.ndarray | None = None,
    asked: np.ndarray | None = None,
) -> Described:
    """What a model is distilled from.

    Args:
      images: that teachers were asked about.
      answers: of the teachers.
      weights: [T] trust in them; None: full in all whose answers are finite.
      asked: [N, T] which of them were asked about which image; None: all about all.

    Raises:
      InputError: no teacher is trusted.
    """
    logits, columns = answers
    if weights is None:
        broken = np.logical_or.reduceat(~np.isfinite(logits), columns[:-1], axis=1)
        left_out = broken.any(0)
        if asked is not None:
            left_out = (broken & asked).any(0) | ~asked.any(0)
        weights = np.asarray(~left_out, np.float32)
    if not np.any(weights):
        raise InputError(_NOBODY)
    logits = np.where(np.isfinite(logits), logits, 0.0)
    if asked is not None:
        logits = silenced(logits, columns, asked)
    return Described(
        images=jnp.asarray(images.images),
        logits=jnp.asarray(logits),
        columns=columns,
        weights=jnp.asarray(weights),
        recovered=jnp.asarray(images.owners >= 0),
        natural=jnp.asarray(images.natural),
    )


class Voted(NamedTuple):
    """What all trusted teachers together take images for.

    Attributes:
      classes: [N] int32 absolute class ids; -1 where nobody who is trusted was asked.
      voters: how many teachers voted.
    """

    classes: np.ndarray
    voters: int


def voted_classes(
    zoo: zoo_lib.Zoo,
    images: SyntheticImages,
    answers: Answers,
    voices: np.ndarray | None = None,
) -> Voted:
    """The class of each image by those teachers of a zoo that can be trusted.

    Args:
      zoo: all teachers.
      images: that they were asked about.
      answers: of all of them; NaN where one was not asked.
      voices: [N, T] which of them were asked about which image; None: all about all.

    Raises:
      InputError: no teacher is trusted.
    """
    believed = np.flatnonzero(judge(zoo, images, answers, voices=voices).weights)
    if not believed.size:
        raise InputError(_NOBODY)
    ids = zoo.class_ids[outputs_of(zoo.columns, believed)]
    classes = vote(answers_of(answers, believed), ids, zoo.num_classes)
    return Voted(classes, believed.size)


def bank_of_classes(
    images: SyntheticImages, classes: Int[np.ndarray, " c"]
) -> ImageBank:
    """A row of images for each of some absolute classes, in this order."""
    of_class = [images.images[images.classes == known] for known in classes]
    counts = np.asarray([len(found) for found in of_class], np.int32)
    rows = np.zeros((len(classes), counts.max(), *images.images.shape[1:]), np.uint8)
    for row, found in zip(rows, of_class, strict=True):
        row[: len(found)] = found
    return banks.from_arrays(rows, counts)
