"""From a zoo to a described set to a distilled model, without any data.

    zoo = load_zoo("zoo")
    found = panel.describe_zoo(jax.random.key(0), zoo)
    student = make_network("conv4", num_classes=5, image_shape=(32, 32, 3))
    made = panel.distil(jax.random.key(1), found.described, student, num_steps=8000)
    save_model("model.npz", made.network, made.variables)

What takes minutes is a list of named jobs, given to ``run``: `free_jax.jobs.in_memory`
does them one after the other, a harness keeps their results.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Int, Key, UInt8

from free_jax import inversion, keys, parallel
from free_jax import jobs as jobs_lib
from free_jax import zoo as zoo_lib
from free_jax.algorithm import Algorithm
from free_jax.errors import InputError
from free_jax.fewshot import banks
from free_jax.fewshot.episodes import balanced_labels
from free_jax.inversion.recipe import Recipe
from free_jax.optimizers import Optimizer, optimizer
from free_jax.options import AtLeast, adam
from free_jax.panel import model as model_lib
from free_jax.panel.describe import describer
from free_jax.panel.distillation import (
    Described,
    DistillInfo,
    DistillOptions,
    panel_distillation,
)
from free_jax.panel.ragged import answers_of, outputs_of
from free_jax.panel.trust import Trust, rows_of, trust, vote
from free_jax.types import Answers, ImageBank, PyTree, SyntheticImages
from free_jax.zoo.network import Network

_NOBODY = "no teacher of the zoo answers anything that depends on the image"


class MetaTraining(NamedTuple):
    """FIVE's meta-training of the generator that inversions start from.

    Attributes:
      num_steps: outer steps, not negative; 0: inversions start from a random one.
      teachers_per_step: drawn with replacement, at least 1.
      optimizer: outer optimiser.
    """

    num_steps: Annotated[int, AtLeast(0)] = 0
    teachers_per_step: Annotated[int, AtLeast(1)] = 2
    optimizer: Optimizer = adam(1e-3, b1=0.5)


class RecoverOptions(NamedTuple):
    """Which images a panel is asked about.

    Attributes:
      images_per_class: recovered from each teacher, not negative; 0: none, teachers are
        asked only and need no gradient.
      dead_leaves: synthetic images added to the recovered ones, not negative.
      at_once: teachers inverted in one job, at least 1.
      image_size: height and width of all images; 0: those of the first teachers.
      inversion: how images are recovered.
      meta_training: of the generator, where the inversion has one.
    """

    images_per_class: Annotated[int, AtLeast(0)] = 40
    dead_leaves: Annotated[int, AtLeast(0)] = 10000
    at_once: Annotated[int, AtLeast(1)] = 1
    image_size: Annotated[int, AtLeast(0)] = 0
    inversion: Recipe = Recipe(
        init="dead_leaves",
        num_steps=50,
        objective=inversion.Objective(
            total_variation=0.3, crop_padding=2, edges="wrap"
        ),
    )
    meta_training: MetaTraining = MetaTraining()


class PanelOptions(NamedTuple):
    """How a zoo becomes a described set.

    Attributes:
      recover: which images.
      teachers: how many of each group are asked, not negative; 0: all.
      held_out_classes: classes that no asked teacher knows, not negative; episodes of
        their images, recovered from the other teachers, judge a model without data.
      trust: leave out teachers without information or that contradict the others.
    """

    recover: RecoverOptions = RecoverOptions()
    teachers: Annotated[int, AtLeast(0)] = 0
    held_out_classes: Annotated[int, AtLeast(0)] = 0
    trust: bool = True


class PanelChoice(NamedTuple):
    """Which teachers are asked.

    Attributes:
      asked: [T'] increasing rows over the teachers of all groups.
      held_out: [H] class ids that no asked teacher knows.
    """

    asked: np.ndarray
    held_out: np.ndarray


class DescribedZoo(NamedTuple):
    """A described set and what is known about it.

    Attributes:
      described: what a model is distilled from, see `distil`.
      choice: the T' teachers that were asked.
      trust: in them; None where it was not wanted.
      held_out: images of the held-out classes, which are not in `described`; None where
        there are none.
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


Known = tuple[SyntheticImages, Answers]


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
      known: images and the chosen teachers' answers of earlier runs, put first; where
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
        choice = choose(_rng(key, "held-out classes"), zoo, options)
    recover = options.recover
    recovered, parts, made, asked = None, [known] if known else [], 0, 0
    if recover.images_per_class or recover.dead_leaves:
        recovered = recover_zoo(
            key, zoo, recover, run, adversaries=adversaries, map_tasks=map_tasks
        )
        panel = zoo_lib.select(zoo, choice.asked)
        answers = ask_zoo(panel, recovered.images, run, map_tasks=map_tasks)
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
    judged = judge(zoo, images, answers, choice.asked) if options.trust else None
    described = to_described(images, answers, judged.weights if judged else None)
    return DescribedZoo(described, choice, judged, held_out, recovered, made, asked)


def choose(
    rng: np.random.Generator,
    zoo: zoo_lib.Zoo,
    options: PanelOptions,
    *,
    way: int | None = None,
) -> PanelChoice:
    """Which teachers make the panel, and which classes it never hears of.

    Args:
      rng: draws the held-out classes.
      zoo: all teachers.
      options: `teachers` and `held_out_classes` are read.
      way: classes of an episode; None: the zoo's.

    Raises:
      InputError: too few classes are held out for an episode, or no teacher remains.
    """
    wanted = options.held_out_classes
    asked = np.arange(zoo.num_teachers)
    if options.teachers:
        asked = zoo_lib.first_of_each_group(zoo, options.teachers)
    if not wanted:
        return PanelChoice(asked, np.zeros(0, np.int32))
    way = zoo.way if way is None else way
    classes, columns = zoo.class_ids, zoo.columns
    known = np.unique(classes)
    if not way <= wanted <= len(known) - way:
        raise InputError(
            f"held_out_classes={wanted}: an episode takes {way} of them and a teacher "
            f"as many of the others, so it must be between {way} and "
            f"{len(known) - way}; 0 holds none out"
        )
    held_out = rng.permutation(known)[:wanted]
    knows = np.isin(classes, held_out)
    asked = asked[[not knows[columns[t] : columns[t + 1]].any() for t in asked]]
    if not asked.size:
        raise InputError(
            f"held_out_classes={wanted}: every teacher knows one of them; hold out "
            "fewer"
        )
    return PanelChoice(asked, np.sort(held_out).astype(np.int32))


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
    h, w, channels = zoo.networks[0].image_shape
    size = options.image_size
    image_shape = (size or h, size or w, channels)
    shared = None
    trains = options.inversion.source == "generator" and options.meta_training.num_steps
    if options.images_per_class and trains:
        shared = [
            _meta_trained(key, number, group, options, run, map_tasks)
            for number, group in enumerate(zoo.groups)
        ]
    jobs = inversion.recovery_jobs(
        key,
        zoo,
        options.inversion,
        images_per_class=options.images_per_class,
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
        inversion.build(options.inversion, network),
        group.teachers,
        balanced_labels(network.num_classes, options.images_per_class),
        num_steps=wanted.num_steps,
        teachers_per_step=wanted.teachers_per_step,
        optimizer=wanted.optimizer,
        name=f"group{number}",
        map_tasks=map_tasks,
    )
    states = [left(result) for result in run("meta_generator", jobs)]
    return states[-1].generator


def ask_zoo(
    zoo: zoo_lib.Zoo,
    images: UInt8[np.ndarray, "n h w c"],
    run: jobs_lib.Run = jobs_lib.in_memory,
    *,
    chunk: int = 500,
    at_once: int = 250,
    map_tasks: Callable = parallel.map_tasks,
) -> Answers:
    """All teachers' answers about images; forward queries only.

    Args:
      zoo: teachers.
      images: to ask about.
      run: does the jobs of the stage "described".
      chunk: see `ask_jobs`.
      at_once: see `ask_jobs`.
      map_tasks: how teachers are spread, see `parallel.map_tasks`.

    Returns:
      Answers; NaN where a service gave none.  Once it is exhausted no more images are
      asked about, so that there may be fewer answers than images.
    """
    service, found = zoo.service, []
    jobs = ask_jobs(zoo, images, chunk=chunk, at_once=at_once, map_tasks=map_tasks)
    for part in run("described", jobs):
        # Kept by an earlier version, answers have an axis for the teachers.
        found.append(part["logits"].reshape(len(part["logits"]), -1))
        if service is None or not np.isnan(found[-1]).any():
            continue
        if service.exhausted():
            break
    return Answers(np.concatenate(found), zoo.columns)


def ask_jobs(
    zoo: zoo_lib.Zoo,
    images: UInt8[np.ndarray, "n h w c"],
    *,
    chunk: int = 500,
    at_once: int = 250,
    map_tasks: Callable = parallel.map_tasks,
) -> list[jobs_lib.Job]:
    """All teachers' answers about images; one job for `chunk` images.

    Args:
      zoo: teachers.
      images: to ask about.
      chunk: images a job.
      at_once: images that a teacher sees in one batch, so few that their maps stay
        in a CPU's cache; a service is sent a whole chunk.
      map_tasks: how teachers are spread, see `parallel.map_tasks`.

    Returns:
      Jobs whose results hold ``logits`` [n, C] and ``columns``, see `Answers`; where a
      service answers, also ``complete``, whether all answers came.

    Raises:
      ValueError: a number of images is not positive.
    """
    if chunk < 1 or at_once < 1:
        raise ValueError(f"chunk={chunk} and at_once={at_once} must be at least 1")
    describe = describer(
        zoo.networks, output="logits", mirror=False, map_tasks=map_tasks
    )
    run, service = jax.jit(describe), zoo.service

    def ask(start: int) -> dict[str, np.ndarray]:
        part = images[start : start + chunk]
        # The last chunk is padded: one shape, one compilation.  A service is not asked
        # about padding.
        count = len(part)
        missing = 0 if service else chunk - count
        part = np.pad(part, ((0, missing), (0, 0), (0, 0), (0, 0)))
        size = len(part) if service else at_once
        said = np.concatenate(
            [
                np.asarray(run(zoo.teachers, part[first : first + size]))
                for first in range(0, len(part), size)
            ]
        )
        result = {"logits": said[:count], "columns": zoo.columns}
        if service:
            service.raise_if_broken()
            result["complete"] = np.asarray(np.isfinite(said).all())
        return result

    return [
        jobs_lib.Job(f"images-{start:06d}", lambda start=start: ask(start))
        for start in range(0, len(images), chunk)
    ]


def answered_images(answers: Answers) -> Int[np.ndarray, " k"]:
    """Which images to use so that most answers are.

    Teachers whose budget ended, or that were given up, answered the first images only;
    others answered all but one or two.  A teacher counts if it answered all images that
    are used.

    Args:
      answers: NaN where there is none.

    >>> logits = np.asarray([[0, np.nan, 0], [0, 0, 0], [0, 0, np.nan], [0, 0, 0]])
    >>> answered_images(Answers(logits, np.asarray([0, 1, 2, 3])))
    array([1, 3])
    """
    silent = np.logical_or.reduceat(
        np.isnan(answers.logits), answers.columns[:-1], axis=1
    )
    # With one more teacher at a time, the most talkative first.
    order = np.argsort(silent.sum(0), kind="stable")
    lost = np.logical_or.accumulate(silent[:, order], axis=1)
    teachers = np.arange(1, len(order) + 1)
    worth = (~lost).sum(0) * teachers
    most = len(order) - 1 - worth[::-1].argmax()  # Of equal ones, more teachers.
    return np.flatnonzero(~lost[:, most])


def most_answers(answers: Answers) -> int:
    """How many of the first images to use so that most answers are.

    Like `answered_images`, but without leaving any out in between.

    Args:
      answers: NaN where there is none.

    >>> logits = np.asarray([[0, 0], [0, 0], [0, np.nan]])
    >>> most_answers(Answers(logits, np.asarray([0, 1, 2])))
    2
    """
    silent = np.logical_or.reduceat(
        np.isnan(answers.logits), answers.columns[:-1], axis=1
    )
    answered = np.where(silent.any(0), silent.argmax(0), len(silent))
    counts = np.unique(answered)
    return int(max(counts, key=lambda n: n * (answered >= n).sum()))


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
) -> Trust:
    """How far the teachers that were asked are trusted, see `trust`.

    Args:
      zoo: all teachers, of which `images` are owned.
      images: what they were asked about.
      answers: of those that were asked.
      asked: their rows in the zoo; None: all were.
    """
    rows = np.arange(zoo.num_teachers) if asked is None else asked
    ids = zoo.class_ids[outputs_of(zoo.columns, rows)]
    owned = images._replace(owners=rows_of(images.owners, rows))
    return trust(answers, ids, owned)


def to_described(
    images: SyntheticImages, answers: Answers, weights: np.ndarray | None = None
) -> Described:
    """What a model is distilled from.

    Args:
      images: that teachers were asked about.
      answers: of the teachers.
      weights: [T] trust in them; None: full in all whose answers are finite.

    Raises:
      InputError: no teacher is trusted.
    """
    logits, columns = answers
    if weights is None:
        broken = np.logical_or.reduceat(~np.isfinite(logits), columns[:-1], axis=1)
        weights = np.asarray(~broken.any(0), np.float32)
    if not np.any(weights):
        raise InputError(_NOBODY)
    logits = np.where(np.isfinite(logits), logits, 0.0)
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
      classes: [N] int32 absolute class ids.
      voters: how many teachers voted.
    """

    classes: np.ndarray
    voters: int


def voted_classes(zoo: zoo_lib.Zoo, images: SyntheticImages, answers: Answers) -> Voted:
    """The class of each image by those teachers of a zoo that can be trusted.

    Args:
      zoo: all teachers.
      images: that all of them were asked about.
      answers: of all of them.

    Raises:
      InputError: no teacher is trusted.
    """
    believed = np.flatnonzero(judge(zoo, images, answers).weights)
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


class Distilled(NamedTuple):
    """A model distilled from a panel.

    Attributes:
      network: one trunk, with all teachers' outputs side by side.
      variables: ``{"params", "batch_stats", "descriptions"}``, see `panel.model`.
      info: of each step, leaves [num_steps].
    """

    network: Network
    variables: PyTree
    info: DistillInfo


def distil(
    key: Key[Array, ""],
    described: Described,
    student: Network,
    options: DistillOptions = DistillOptions(),
    num_steps: int = 8000,
    *,
    map_tasks: Callable = parallel.map_tasks,
) -> Distilled:
    """Trains one network on all teachers' answers, and fits its statistics.

    Args:
      key: of the whole training.
      described: see `describe_zoo`.
      student: its trunk; its head gets all teachers' outputs.
      options: see `DistillOptions`.
      num_steps: of training, at least 1.
      map_tasks: see `parallel.map_tasks`.

    Returns:
      A `Distilled`; `panel.classifiers.methods` classify episodes with it.

    Raises:
      ValueError: an option is out of range or unknown.
    """
    if num_steps < 1:
        raise ValueError(f"num_steps={num_steps} must be at least 1")
    columns = np.asarray(described.columns)
    network = dataclasses.replace(student, num_classes=int(columns[-1]))
    algorithm = distillation(network, columns, options, num_steps, map_tasks=map_tasks)

    @jax.jit
    def train(key: jax.Array, data: Described):
        state = algorithm.init(keys.named(key, "init"))

        def step(state, number):
            return algorithm.step(keys.named(key, "step", number), state, data)

        return jax.lax.scan(step, state, jnp.arange(num_steps))

    state, info = train(key, described)
    rng = _rng(key, "calibration images")
    images = calibration_images(rng, described, options.fit_images)
    fit = jax.jit(statistics_fitter(network, columns, options))
    variables = fit(state.variables, images, described.weights)
    return Distilled(network, variables, info)


def distillation(
    network: Network,
    columns: Int[np.ndarray, " t_plus_1"],
    options: DistillOptions,
    num_steps: int,
    *,
    map_tasks: Callable = parallel.map_tasks,
) -> Algorithm:
    """`panel_distillation` as `DistillOptions` say.

    Args:
      network: with all teachers' outputs side by side.
      columns: [T + 1] whose outputs are whose.
      options: see `DistillOptions`.
      num_steps: over which the steps decay.
      map_tasks: see `parallel.map_tasks`.

    Raises:
      ValueError: an option is out of range or unknown.
    """
    tx = optimizer(options.optimizer)
    if options.cosine:
        decay = optax.cosine_decay_schedule(1.0, num_steps)
        tx = optax.chain(tx, optax.scale_by_schedule(decay))
    return panel_distillation(
        network,
        columns=columns,
        optimizer=tx,
        batch_size=options.batch_size,
        groups=options.ghost_batches,
        temperature=options.temperature,
        crop_padding=options.crop_padding,
        edges=options.edges,
        flip=options.flip,
        mix=options.mix,
        similarity=options.similarity,
        map_tasks=map_tasks,
    )


def calibration_images(
    rng: np.random.Generator, described: Described, count: int
) -> UInt8[np.ndarray, "n h w c"] | None:
    """The images to fit statistics to: those most like real ones, if any are.

    Inversions that started from dead leaves, or dead leaves where teachers are only
    asked.  Inversions from noise are unlike anything real: fitted to them, a model
    loses.

    Args:
      rng: draws them.
      described: with what is known of how each image was made.
      count: at most so many.

    Returns:
      The images, or None where there is none.
    """
    rows = np.flatnonzero(described.recovered)
    if rows.size < 2:
        rows = np.arange(len(described.images))
    rows = rows[np.asarray(described.natural)[rows]]
    drawn = np.sort(rng.permutation(rows)[:count])
    return np.asarray(described.images[drawn]) if drawn.size else None


def statistics_fitter(
    network: Network, columns: Int[np.ndarray, " t_plus_1"], options: DistillOptions
) -> Callable:
    """``(variables, images or None, weights [T]) -> variables`` with descriptions.

    See `panel.model.fit_statistics`.  Compile it once with `jax.jit`.
    """

    def fit(variables: PyTree, images: jax.Array | None, weights: jax.Array) -> PyTree:
        return model_lib.fit_statistics(
            network,
            variables,
            images,
            weights=weights,
            temperature=options.temperature,
            columns=columns,
            whitening=options.whitening,
        )

    return fit


def _rng(key: jax.Array, purpose: str) -> np.random.Generator:
    """NumPy's generator of a named purpose of a key."""
    words = np.asarray(jax.random.key_data(keys.named(key, purpose)))
    return np.random.default_rng(words.ravel().tolist())
