"""Which teachers are worth asking, where there are more than can be asked.

All are asked about a few synthetic images, and chosen one after the other: the next is
the one with whose answers, beside those of the teachers chosen before it, a ridge
regression predicts the answers of ALL teachers best.  This is greedy column subset
selection, a teacher's outputs being one block of columns.  So a copy of a chosen
teacher adds next to nothing, however many there are of it, a constant one nothing at
all, and one whose answers nobody shares only itself.

    found = choose_from_zoo(jax.random.key(0), zoo, ChoosingOptions(teachers=25))
    zoo = select(zoo, found.rows)

Reference:
  Altschuler et al., "Greedy Column Subset Selection: New Bounds and Distributed
  Algorithms", ICML 2016.
"""

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from free_jax import inversion, keys, parallel
from free_jax import jobs as jobs_lib
from free_jax import zoo as zoo_lib
from free_jax.errors import InputError
from free_jax.options import AtLeast
from free_jax.panel import partial_answers, ragged
from free_jax.panel.asking import answered_images, ask_zoo
from free_jax.panel.recovery import common_shape
from free_jax.panel.trust import NONE_INFORMATIVE, judge
from free_jax.rows import chosen
from free_jax.types import Answers, SyntheticImages


class ChoosingOptions(NamedTuple):
    """Which teachers take part, where not all do.

    Attributes:
      teachers: so many of all networks together, not negative; 0, or more than there
        are: all.
      by: all are asked about a few synthetic images, and those are taken from whose
        answers the answers of all can be predicted best ("informative"); or they are
        drawn ("random"), or the first of the zoo ("first"), and nobody is asked.
      probes: images of dead leaves that all are asked about, at least 2.
    """

    teachers: Annotated[int, AtLeast(0)] = 0
    by: Literal["informative", "random", "first"] = "informative"
    probes: Annotated[int, AtLeast(2)] = 200


class Chosen(NamedTuple):
    """Teachers in the order in which they were chosen.

    Attributes:
      teachers: [k] rows of the T teachers that answered.
      gains: [k] share of what all answers vary by that each predicts in addition to
        those before it, in [0, 1].
      foretold: [T] share of a teacher's own answers that those chosen before it
        predict, or all that are chosen, where it is not; nan of one that says nothing.
    """

    teachers: np.ndarray
    gains: np.ndarray
    foretold: np.ndarray


class ZooChoice(NamedTuple):
    """The teachers of a zoo that take part.

    Attributes:
      rows: [k] of the zoo, increasing.
      verdicts: what is said of each teacher of the zoo, ready for JSON: ``teacher``,
        ``source``, ``place`` (1 was chosen first; None: it was not) and ``reason``.
      asked: questions that were asked, one an image and teacher.
    """

    rows: np.ndarray
    verdicts: list[dict[str, Any]]
    asked: int = 0


def choose_teachers(
    answers: Answers,
    count: int,
    weights: Float[np.ndarray, " t"] | None = None,
    *,
    temperature: float = 2.0,
    noise: float = 0.001,
) -> Chosen:
    """Teachers from whose answers the answers of all can be predicted best.

    With Y the answers of all, as tempered probabilities less their mean over images,
    and Y_S those of the teachers S, each step adds the teacher that lowers
    ``min_B |Y - Y_S B|^2 + c |B|^2`` most.  The order in which teachers are given does
    not matter, except among copies.  A step takes time in proportion to the square of
    the images times the outputs of all.

    Args:
      answers: of T teachers, each about all images.
      count: how many to choose, at least 1; fewer where no other says anything.
      weights: [T] trust in them, not negative; 0: neither chosen nor predicted.  None:
        full in all whose answers are finite.
      temperature: of the softmax.
      noise: ``c`` over the mean sum of squares of a teacher's answers: with more of it
        others that answer alike are chosen too, to average them.

    Raises:
      ValueError: some were asked about some of the images only.
      InputError: nobody is trusted, or answers anything that depends on the image.

    >>> same = np.asarray([[4.0, 0.0], [0.0, 4.0], [4.0, 0.0], [0.0, 4.0]])
    >>> other = np.asarray([[2.0, 0.0], [2.0, 0.0], [0.0, 2.0], [0.0, 2.0]])
    >>> logits = np.concatenate([other, same, same], axis=1)
    >>> choose_teachers(Answers(logits, np.asarray([0, 2, 4, 6])), 2).teachers.tolist()
    [1, 0]
    """
    if weights is None:
        weights = ~partial_answers.broken(answers)
    weights = np.asarray(weights, float)
    columns = np.asarray(answers.columns)
    said = _centred(answers, weights, temperature)
    strength = np.add.reduceat(np.square(said).sum(0), columns[:-1])
    informative = strength > 1e-12 * strength.max(initial=0.0)
    if not informative.any():
        raise InputError(NONE_INFORMATIVE)
    ridge, total = noise * strength[informative].mean(), strength.sum()
    kernel = said @ said.T  # [n, n], never outputs by outputs.
    # What is not predicted yet, and how much of each teacher's answers is.
    left, foretold = said.copy(), np.where(informative, 0.0, np.nan)
    order, gains = [], []
    while len(order) < min(count, informative.sum()):
        gain = _gains(kernel, said, left, columns, ridge)
        gain[~informative], gain[order] = -np.inf, -np.inf
        best = int(gain.argmax())
        order.append(best)
        gains.append(gain[best] / total)
        mine = slice(columns[best], columns[best + 1])
        inner = _regularised(said[:, mine].T @ left[:, mine], ridge)
        left -= left[:, mine] @ np.linalg.solve(inner, left[:, mine].T @ said)
        rest = np.add.reduceat((said * left).sum(0), columns[:-1])
        others = informative & ~np.isin(np.arange(len(informative)), order)
        foretold[others] = 1 - rest[others] / strength[others]
    return Chosen(np.asarray(order), np.asarray(gains), foretold)


def _centred(
    answers: Answers, weights: np.ndarray, temperature: float
) -> Float[np.ndarray, "n c"]:
    """Tempered probabilities less their mean; zero for who is not trusted."""
    columns = np.asarray(answers.columns)
    parts = [said for _, said in partial_answers.each(answers)]
    if any(len(said) != len(answers.logits) for said in parts):
        raise ValueError("all teachers must be asked about all images to be compared")
    scale = np.repeat(np.sqrt(weights), np.diff(columns))
    logits = np.where(scale > 0, np.concatenate(parts, axis=1), 0.0)
    said = ragged.tempered(jnp.asarray(logits, jnp.float32), columns, temperature)
    said = np.asarray(said, np.float64)
    return scale * (said - said.mean(0))


def _gains(
    kernel: np.ndarray,
    said: np.ndarray,
    left: np.ndarray,
    columns: np.ndarray,
    ridge: float,
) -> Float[np.ndarray, " t"]:
    """[T] by how much each teacher would lower the penalised squares that are left."""
    toward = kernel @ left
    gains = np.zeros(len(columns) - 1)
    for rows, outputs in ragged.by_width(columns):
        own, rest, to = (
            np.moveaxis(x[:, outputs], 1, 0) for x in (said, left, toward)
        )  # [t, n, w]
        inner = _regularised(own.mT @ rest, ridge)
        found = np.linalg.solve(inner, rest.mT @ to)
        gains[rows] = np.trace(found, axis1=1, axis2=2)
    return gains


def _regularised(inner: np.ndarray, ridge: float) -> np.ndarray:
    return inner + ridge * np.eye(inner.shape[-1])


def choose_from_zoo(
    key: Key[Array, ""],
    zoo: zoo_lib.Zoo,
    options: ChoosingOptions,
    run: jobs_lib.Run = jobs_lib.in_memory,
    *,
    among: Int[np.ndarray, " t"] | None = None,
    map_tasks: Callable = parallel.map_tasks,
) -> ZooChoice:
    """Chooses teachers of a zoo, without data.

    Args:
      key: draws the images, or the teachers.
      zoo: all teachers.
      options: see `ChoosingOptions`.
      run: does the jobs of the stages "probes" and "probed".
      among: increasing rows of those that can be used; the others are not asked, nor
        are their answers predicted.  None: all can.
      map_tasks: how teachers are spread, see `parallel.map_tasks`.

    Raises:
      InputError: nobody answers anything that depends on the image.
    """
    if among is not None and len(among) < zoo.num_teachers:
        usable = zoo_lib.select(zoo, among)
        found = choose_from_zoo(key, usable, options, run, map_tasks=map_tasks)
        return _over_all(found, among, zoo.sources)
    total = zoo.num_teachers
    count = min(options.teachers or total, total)
    if count == total or options.by != "informative":
        return _unasked(key, zoo, count, options.by)
    drawn = inversion.leaves_jobs(
        keys.named(key, "probes"), options.probes, common_shape(zoo)
    )
    probes = inversion.images_of(list(run("probes", drawn)))
    answers = _asked(zoo, probes.images, run, map_tasks)
    asked = partial_answers.num_asked(answers)
    if zoo.service is not None:
        # Of a budget that ended, or where somebody was given up.
        used = answered_images(answers)
        answers = partial_answers.of_images(answers, used)
        probes = SyntheticImages(*(chosen(x, used) for x in probes))
    trust = judge(zoo, probes, answers)
    found = choose_teachers(answers, count, trust.weights)
    verdicts = _verdicts(found, trust.left_out, zoo.sources)
    return ZooChoice(np.sort(found.teachers), verdicts, asked)


def _asked(
    zoo: zoo_lib.Zoo, images: Any, run: jobs_lib.Run, map_tasks: Callable
) -> Answers:
    """All about all, in jobs of some teachers each; a service in jobs of images."""
    voices = None
    if zoo.service is None:
        everyone = np.arange(zoo.num_teachers, dtype=np.int32)
        voices = np.broadcast_to(everyone, (len(images), len(everyone)))
    return ask_zoo(
        zoo,
        images,
        lambda _, jobs: run("probed", jobs),
        voices=voices,
        map_tasks=map_tasks,
    )


def _over_all(found: ZooChoice, among: np.ndarray, sources: Sequence[str]) -> ZooChoice:
    """A choice among some, numbered and told over the whole zoo."""
    told = [
        _verdict(row, source, None, "not asked: the method cannot use it")
        for row, source in enumerate(sources)
    ]
    for row, verdict in zip(among.tolist(), found.verdicts, strict=True):
        told[row] = {**verdict, "teacher": row, "source": sources[row]}
    return ZooChoice(among[found.rows], told, found.asked)


def _unasked(key: jax.Array, zoo: zoo_lib.Zoo, count: int, by: str) -> ZooChoice:
    """The first ones, or some that are drawn."""
    order, reason = np.arange(zoo.num_teachers), f"the first {count} are chosen"
    if count == len(order):
        reason = "all are chosen"
    elif by == "random":
        order = keys.rng(key, "teachers").permutation(len(order))
        reason = f"{count} are drawn"
    places = np.argsort(order) + 1
    verdicts = [
        _verdict(row, source, int(place), reason)
        if place <= count
        else _verdict(row, source, None, f"not among them: {reason}")
        for row, (source, place) in enumerate(zip(zoo.sources, places, strict=True))
    ]
    return ZooChoice(np.sort(order[:count]), verdicts)


def _verdicts(
    found: Chosen, left_out: Sequence[str], sources: Sequence[str]
) -> list[dict[str, Any]]:
    """In words, of each teacher."""
    places = {int(row): place for place, row in enumerate(found.teachers, 1)}
    told = []
    for row, (source, doubt) in enumerate(zip(sources, left_out, strict=True)):
        place, own = places.get(row), f"{100 * found.foretold[row]:.0f} %"
        if place is not None:
            more = f"{100 * found.gains[place - 1]:.2g} %"
            reason = f"it predicts {more} more of what all answer"
            if place > 1:
                reason += f"; {own} of its own followed from those before it"
        else:
            silent = np.isnan(found.foretold[row])
            follows = f"{own} of its answers follow from the chosen ones'"
            reason = doubt or ("its answers never change" if silent else follows)
        told.append(_verdict(row, source, place, reason))
    return told


def _verdict(row: int, source: str, place: int | None, reason: str) -> dict[str, Any]:
    return {"teacher": row, "source": source, "place": place, "reason": reason}


def centrality(answers: Answers) -> Float[np.ndarray, " t"]:
    """How much each teacher's view of images resembles that of all the others.

    Linear centred kernel alignment between a teacher's answers and the other teachers'
    answers together, in [0, 1]; classes need not be shared, nor images be real.

    Args:
      answers: of each teacher about each image, e.g. `tempered` logits.

    Reference:
      Kornblith et al., "Similarity of Neural Network Representations Revisited", ICML
      2019.
    """
    said = np.ascontiguousarray(answers.logits, np.float64)
    said = said - said.mean(0)
    order, parts = [], []
    for teachers, outputs in ragged.by_width(answers.columns):
        rows = ragged.side_by_side(said, outputs)
        order.append(teachers)
        parts.append(np.einsum("itw,jtw->tij", rows, rows))
    # One number of classes: the array as it is, whose memory order decides the bits.
    kernels = parts[0]
    if len(parts) > 1:
        kernels = np.concatenate(parts)[np.argsort(np.concatenate(order))]
    others = kernels.sum(0) - kernels
    length = np.linalg.norm(kernels, axis=(1, 2)) * np.linalg.norm(others, axis=(1, 2))
    return (kernels * others).sum((1, 2)) / np.maximum(length, 1e-12)
