"""The images that a student learns from, and what a zoo's teachers say about them.

A *transfer set* (Hinton et al. 2015) without any data: images recovered from teachers,
dead leaves, and what all teachers answer about each of them.

    zoo = load_zoo("zoo")
    found = panel.describe_zoo(jax.random.key(0), zoo)

What takes minutes is a list of named jobs, given to ``run``: `free_jax.jobs.in_memory`
does them one after the other, a harness keeps their results.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Key

from free_jax import inversion, keys, parallel, rows
from free_jax import jobs as jobs_lib
from free_jax import zoo as zoo_lib
from free_jax.errors import InputError
from free_jax.fewshot import banks
from free_jax.panel import held_out_tasks, partial_answers
from free_jax.panel.asking import answered_images, ask_zoo
from free_jax.panel.described import Described
from free_jax.panel.membership import PanelChoice, choose
from free_jax.panel.options import PanelOptions
from free_jax.panel.ragged import outputs_of
from free_jax.panel.recovery import recover_zoo
from free_jax.panel.trust import NONE_INFORMATIVE, judge
from free_jax.panel.verdicts import Trust
from free_jax.panel.voices import as_if_asked, chosen_voices
from free_jax.split import Split
from free_jax.types import Answers, ImageBank, Known, SyntheticImages


class DescribedZoo(NamedTuple):
    """A described set and what is known about it.

    Attributes:
      described: what a model is distilled from, see `distil`.
      choice: the T' teachers that were asked.
      trust: in them; None where it was not wanted.
      held_out: images of the held-out classes, which are not in `described`; None where
        there are none.
      tasks: what each held-out teacher makes of images that none of them made.
      images: that `described` holds, on the host.
      answers: of the asked teachers about them, as they were given.
      recovered: images made by this call, whether or not they are in `described`; None
        where all were known before.
      made: how many images this call had made.
      asked: about how many of those teachers were asked, fewer where a service was
        exhausted.
      num_answers: single answers behind all of this, earlier runs' included: also those
        of held-out teachers, and about images that are not in `described`.
    """

    described: Described
    choice: PanelChoice
    trust: Trust | None
    held_out: ImageBank | None
    recovered: SyntheticImages | None
    made: int
    asked: int
    tasks: tuple[ImageBank, ...] = ()
    images: SyntheticImages | None = None
    answers: Answers | None = None
    num_answers: int = 0


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
    split: Split | None = None,
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
      split: of the teachers that are asked, see `ask_zoo`.

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
        parts.append(as_if_asked(known, key, choice, options))
    if recover.images_per_class or recover.dead_leaves:
        recovered = recover_zoo(
            key, zoo, recover, run, adversaries=adversaries, map_tasks=map_tasks
        )
        panel = zoo_lib.select(zoo, choice.everyone)
        answers = ask_zoo(
            panel,
            recovered.images,
            run,
            voices=chosen_voices(key, recovered, choice, options, "voices"),
            map_tasks=map_tasks,
            split=split,
        )
        made, asked = len(recovered.images), len(answers.logits)
        if panel.service is not None:
            used = answered_images(answers)
            recovered, answers = (
                _kept(recovered, used),
                partial_answers.of_images(answers, used),
            )
        parts.append((recovered, answers))
    images, answers = joined(parts)
    # Before any are set aside: they were asked for all the same.
    num_answers = partial_answers.num_asked(answers)
    held_out = None
    if choice.held_out.size:
        held_out = bank_of_classes(images, choice.held_out)
        seen = np.isin(images.owners, choice.asked) | (images.owners < 0)
        images, answers = _kept(images, seen), partial_answers.of_images(answers, seen)
    tasks = ()
    if choice.judges.size:
        images, answers, tasks = _without_judges(images, answers, choice)
    judged = None
    if options.trust:
        judged = judge(zoo, images, answers, choice.asked, options.trust_passes)
    described = to_described(images, answers, judged.weights if judged else None)
    ids = zoo.class_ids[outputs_of(zoo.columns, choice.asked)]
    described = described._replace(class_ids=ids)
    return DescribedZoo(
        described,
        choice,
        judged,
        held_out,
        recovered,
        made,
        asked,
        tasks,
        images,
        answers,
        num_answers,
    )


def _without_judges(
    images: SyntheticImages, answers: Answers, choice: PanelChoice
) -> tuple[SyntheticImages, Answers, tuple[ImageBank, ...]]:
    """What is left to distil from, and the judges' tasks."""
    seen = ~np.isin(images.owners, choice.judges)
    images, answers = _kept(images, seen), partial_answers.of_images(answers, seen)
    judges, asked = (
        np.searchsorted(choice.everyone, rows) for rows in (choice.judges, choice.asked)
    )
    tasks = held_out_tasks.task_banks(images.images, answers, judges, _PER_TASK_CLASS)
    return images, partial_answers.answers_of(answers, asked), tasks


def _kept(images: SyntheticImages, index: np.ndarray) -> SyntheticImages:
    """Some of the images; of those in files nothing is read."""
    return SyntheticImages(*(rows.chosen(x, index) for x in images))


def joined(parts: Sequence[Known]) -> Known:
    """All images and answers, in this order.

    Raises:
      ValueError: there are none, or their teachers differ in their numbers of classes.
    """
    if not parts:
        raise ValueError("there is nothing to describe: neither made nor known images")
    images, answers = zip(*parts, strict=True)
    together = map(rows.joined, zip(*images, strict=True))
    return SyntheticImages(*together), partial_answers.joined(answers)


def to_described(
    images: SyntheticImages, answers: Answers, weights: np.ndarray | None = None
) -> Described:
    """What a model is distilled from, on the host.

    Args:
      images: that teachers were asked about.
      answers: of the teachers about each image, or of some of them.
      weights: [T] trust in them; None: full in all whose answers are finite.

    Raises:
      InputError: no teacher is trusted.
    """
    if weights is None:
        weights = np.asarray(~partial_answers.broken(answers), np.float32)
    if not np.any(weights):
        raise InputError(NONE_INFORMATIVE)
    logits = answers.logits
    return Described(
        images=images.images,
        logits=np.where(np.isfinite(logits), logits, np.float32(0)),
        columns=answers.columns,
        weights=jnp.asarray(weights),
        recovered=np.asarray(images.owners >= 0),
        natural=np.asarray(images.natural),
        teachers=answers.teachers,
    )


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
