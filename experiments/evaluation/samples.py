"""A few of a run's images, and what each teacher answers about some, for its page.

Kept in ``samples.npz`` of the working directory, so that the page can be made anew
without teachers.
"""

import io
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from experiments.harness import chunks, files, hosts
from experiments.harness.run import Run
from free_jax import inversion, nouns, panel
from free_jax import zoo as zoo_lib
from free_jax.panel import partial_answers
from free_jax.types import Answers, ImageBank, SyntheticImages
from free_jax.zoo import Zoo

SAMPLES_FILE = "samples.npz"
_MOST_IMAGES = 400
# Of those that teachers are compared by.
_CLASSES, _IMAGES_OF_CLASS, _MOST_TEACHERS = 8, 6, 16


class Samples(NamedTuple):
    """Images to look at.

    Attributes:
      images: [n, h, w, c] uint8.
      classes: [n] what each was recovered for; "" for none.
      owners: [n] the teacher that each was recovered from; "" where nobody noted it.
      seen: [m] images that the teachers below all answered about.
      logits: [m, C] what they answered; C is 0 where nobody was asked.
      columns: [T + 1] which outputs are whose.
      teachers: [T] names.
      domains: [T] network and data.
    """

    images: np.ndarray
    classes: tuple[str, ...]
    owners: tuple[str, ...]
    seen: np.ndarray
    logits: np.ndarray
    columns: np.ndarray
    teachers: tuple[str, ...] = ()
    domains: tuple[str, ...] = ()


class Names(NamedTuple):
    """What rows and numbers stand for.

    Attributes:
      classes: by absolute id.
      teachers: by row of all.
      domains: network and data of each.
    """

    classes: Sequence[str]
    teachers: Sequence[str]
    domains: Sequence[str]


def names_of(zoo: Zoo) -> Names:
    """Those of a zoo."""
    domains = []
    for group in zoo.groups:
        side = group.network.image_shape[0]
        told = f"{group.network.name}, {side} pixels"
        told += f", {group.domain}" if group.domain else ""
        domains += [told] * group.num_teachers
    return Names(zoo.class_names, zoo.sources, domains)


def chosen(
    names: Names,
    images: SyntheticImages,
    answers: Answers | None = None,
    asked: np.ndarray | None = None,
) -> Samples:
    """Images of every class and teacher in turn, and answers about a few.

    Args:
      names: of classes and teachers.
      images: to choose from.
      answers: about them; None where nobody was asked.  Where some teachers were
        asked about each image there may be none that all answered; then none is kept.
      asked: rows of the teachers that answered.
    """
    pairs = np.stack([images.classes, images.owners], 1)
    kept = _in_turn(pairs, _MOST_IMAGES)
    found = SyntheticImages(*(np.asarray(x)[kept] for x in images))
    none = np.zeros(0, np.int32)
    sample = Samples(
        found.images,
        tuple(_name(names.classes, i, "class") for i in found.classes),
        tuple(_name(names.teachers, i, "teacher") for i in found.owners),
        none,
        np.zeros((0, 0), np.float32),
        np.zeros(1, np.int32),
    )
    if answers is None:
        return sample
    rows = np.arange(len(answers.columns) - 1) if asked is None else asked
    told = partial_answers.of_all(partial_answers.of_images(answers, kept))
    # Of the teachers that answer properly, about images that all of them answered.
    said = np.isfinite(told.logits)
    said = np.logical_and.reduceat(said, told.columns[:-1], axis=1)  # [n, T]
    who = np.flatnonzero(said.any(0))
    who = who[_spread(len(who), _MOST_TEACHERS)]
    seen = _to_compare(found.classes, said[:, who].all(1))
    some = panel.answers_of(told._replace(logits=told.logits[seen]), who)
    return _answered(sample, names, seen, rows[who], some)


def _to_compare(classes: np.ndarray, usable: Any = True) -> np.ndarray:
    """A few images of a few classes, among those that can be used."""
    index = np.flatnonzero((classes >= 0) & usable)
    known = np.unique(classes[index])
    known = known[_spread(len(known), _CLASSES)]
    of_class = [index[classes[index] == k][:_IMAGES_OF_CLASS] for k in known]
    return np.concatenate([np.zeros(0, int), *of_class])


def _spread(count: int, most: int) -> np.ndarray:
    """At most so many of `count` places, evenly spread."""
    return np.linspace(0, count - 1, min(count, most)).round().astype(int)


def _answered(
    sample: Samples, names: Names, seen: np.ndarray, rows: np.ndarray, told: Answers
) -> Samples:
    """With what teachers, rows of all, say of the images that are compared."""
    return sample._replace(
        seen=seen,
        logits=np.asarray(told.logits, np.float32),
        columns=np.asarray(told.columns),
        teachers=tuple(_name(names.teachers, row, "teacher") for row in rows),
        domains=tuple(_name(names.domains, row, "network") for row in rows),
    )


def _in_turn(pairs: np.ndarray, most: int) -> np.ndarray:
    """At most so many rows, of each distinct one about equally many, in order."""
    _, kind = np.unique(pairs, axis=0, return_inverse=True)
    kind = kind.ravel()
    turn, counts = np.zeros(len(kind), int), {}
    for row, each in enumerate(kind.tolist()):
        turn[row] = counts.get(each, 0)
        counts[each] = turn[row] + 1
    kept: list[int] = []
    for number in range(turn.max(initial=-1) + 1):
        rows = np.flatnonzero(turn == number)
        left = most - len(kept)
        if len(rows) > left:
            rows = rows[_spread(len(rows), left)]
        kept += rows.tolist()
        if len(kept) >= most:
            break
    index = np.asarray(kept, int)
    # What is of no class or teacher comes last.
    return index[np.lexsort((index, kind[index], pairs[index].min(1) < 0))]


def _name(names: Sequence[str], number: int, kind: str) -> str:
    if number < 0:
        return ""
    return str(names[number]) if number < len(names) else f"{kind} {number}"


def of_bank(bank: ImageBank, most: int = 12) -> SyntheticImages:
    """The latest images of every class of a memory, whose owners nobody noted."""
    counts, cursor = np.asarray(bank.counts), np.asarray(bank.cursor)
    images, classes = [], []
    for known in np.flatnonzero(counts):
        latest = np.arange(min(counts[known], most))
        index = (cursor[known] - 1 - latest) % counts[known]
        images.append(np.asarray(bank.images[known])[index])
        classes += [known] * len(index)
    empty = np.zeros((0, *bank.images.shape[2:]), np.uint8)
    nobody = np.full(len(classes), -1)
    return SyntheticImages(
        np.concatenate([empty, *images]),
        np.asarray(classes, int),
        nobody,
        np.zeros(len(classes), bool),
    )


def keep(run: Run, zoo: Zoo, bank: ImageBank, *, asking: bool) -> None:
    """Keeps images of a memory and, if `asking`, what its teachers say of some.

    Teachers behind a service are not asked: that may cost.
    """
    names = names_of(zoo)
    sample = chosen(names, of_bank(bank))
    if asking and zoo.service is None:
        classes = np.asarray([list(names.classes).index(x) for x in sample.classes])
        seen = _to_compare(classes)
        rows = _spread(zoo.num_teachers, _MOST_TEACHERS)
        if len(seen):
            some = zoo_lib.select(zoo, rows)
            print(
                f"asking {nouns.count(len(rows), 'teacher')} about "
                f"{nouns.count(len(seen), 'image')} for the report; compiles "
                f"{nouns.count(len(some.groups), 'network')} ...",
                flush=True,
            )
            told = panel.ask_zoo(some, sample.images[seen], map_tasks=run.map_tasks)
            sample = _answered(sample, names, seen, rows, told)
    if hosts.is_writer():
        write(run.path(SAMPLES_FILE), sample)


def write(file: epath.Path, sample: Samples) -> None:
    """Writes them whole or not at all."""
    texts = ("classes", "owners", "teachers", "domains")
    told = json.dumps({name: getattr(sample, name) for name in texts})
    arrays = {k: v for k, v in sample._asdict().items() if k not in texts}
    arrays["told"] = np.asarray(told)
    stored = io.BytesIO()
    np.savez_compressed(stored, **arrays)
    files.write_bytes(file, stored.getvalue())


def read(folder: epath.PathLike) -> Samples | None:
    """Those that a run kept; None where it kept none."""
    file = epath.Path(folder) / SAMPLES_FILE
    if not file.exists():
        return None
    with np.load(io.BytesIO(file.read_bytes()), allow_pickle=False) as stored:
        found: dict[str, Any] = dict(stored)
    texts = json.loads(str(found.pop("told")))
    found |= {name: tuple(value) for name, value in texts.items()}
    return Samples(**found)


def of_former(folder: epath.PathLike, names: Names) -> Samples | None:
    """Those of a panel's run that kept none, from all its images and answers."""
    recovered = [chunks.read_chunk(x) for x in chunks.finished(folder, "recovered")]
    described = [chunks.read_chunk(x) for x in chunks.finished(folder, "described")]
    if not recovered:
        return None
    for part in recovered:  # Those of earlier versions know no ``natural``.
        part.setdefault("natural", part["owners"] < 0)
    images = inversion.images_of(recovered)
    if sum(len(part["logits"]) for part in described) != len(images.images):
        return chosen(names, images)
    logits = np.concatenate([part["logits"] for part in described])
    columns = described[0].get("columns")
    if logits.ndim == 3:  # All teachers had as many classes.
        columns = panel.equal_columns(*logits.shape[1:])
    assert columns is not None
    return chosen(names, images, Answers(logits.reshape(len(logits), -1), columns))
