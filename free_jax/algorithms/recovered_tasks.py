"""Tasks recovered beforehand: each teacher's images, and what it says of them.

Methods that learn from one teacher's task at a time need of a teacher only its answers
about its own images.  Given these, teachers of any network and any number of classes
stand side by side in arrays, black boxes too, and a step is one program.

Example::

    tasks, kept, left_out = from_answers(versions, zoo.class_ids, way=5, per_class=20)
    task = draw_task(key, tasks, row, way=5, count=20)
    task.images, task.logits  # [5, 20, h, w, c], [5, 20, 5]
"""

from collections.abc import Callable, Sequence
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Key

from free_jax import augment
from free_jax.errors import InputError
from free_jax.fewshot import banks
from free_jax.images import to_bytes, to_float
from free_jax.options import AtLeast
from free_jax.panel.partial_answers import each
from free_jax.types import Answers, ImageBank, Recovered, SyntheticImages

# The logit of an output that a teacher does not have, or that is never asked about.
_NEVER = -1e30
# Of images moved at once.
_CHUNK = 500
# More than there are images, so that no two keys are one.
_MANY = 10_000_000


class OwnTaskOptions(NamedTuple):
    """What a step takes of a teacher's own images.

    Attributes:
      per_class: images of each class; the recovery must make as many at least.
      views: versions of each image that its teacher is asked about: 1 is the image as
        it is; of more, the others are moved and mirrored, and a step draws one version
        for all of its images.  Stands for the released codes' augmentation, drawn anew
        in each step.
      view_per_image: move each image of a version by itself, or all alike (released
        codes).
    """

    per_class: Annotated[int, AtLeast(2)] = 20
    views: Annotated[int, AtLeast(1)] = 1
    view_per_image: bool = True


class RecoveredTasks(NamedTuple):
    """T teachers' images of up to K classes, n of each, in V versions.

    Attributes:
      images: [T, V, K, n, h, w, c] uint8.
      logits: [T, V, K, n, K] float32, the teacher's own answers, columns as rows.
      class_ids: [T, K] int32 absolute classes; rows beyond `widths` are padding.
      widths: [T] int32 classes of each teacher.
    """

    images: jax.Array
    logits: jax.Array
    class_ids: jax.Array
    widths: jax.Array


class Task(NamedTuple):
    """One teacher's task of W classes.

    Attributes:
      images: [W, n, h, w, c] float32 in [0, 1].
      logits: [W, n, W] its answers.
      class_ids: [W] int32 absolute classes.
    """

    images: jax.Array
    logits: jax.Array
    class_ids: jax.Array

    @property
    def labels(self) -> Int[Array, "way n"]:
        """The class of each image, in [0, W)."""
        way, count = self.images.shape[:2]
        return jnp.broadcast_to(jnp.arange(way, dtype=jnp.int32)[:, None], (way, count))

    def part(self, start: int, stop: int) -> "Task":
        """Some of the images of each class."""
        return Task(
            self.images[:, start:stop], self.logits[:, start:stop], self.class_ids
        )

    @property
    def rows(self) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Images [N, h, w, c], logits [N, W] and labels [N], class by class."""
        flat = self.images.reshape(-1, *self.images.shape[2:])
        return (
            flat,
            self.logits.reshape(len(flat), -1),
            self.labels.reshape(-1),
        )


def moved_versions(
    key_of: Callable[[int], Key[Array, ""]],
    found: SyntheticImages,
    options: OwnTaskOptions,
) -> list[SyntheticImages]:
    """The images as they are, and moved and mirrored.

    Args:
      key_of: the key of a number, distinct for distinct ones.
      found: uint8 images.
      options: how many versions, and whether each image moves by itself.
    """
    versions = [found]

    @jax.jit
    def move(key: jax.Array, pixels: jax.Array) -> jax.Array:
        views = augment.crop_flip(
            key, to_float(pixels), per_image=options.view_per_image
        )
        return to_bytes(views)

    for number in range(1, options.views):
        parts = []
        for start in range(0, len(found.images), _CHUNK):
            part = found.images[start : start + _CHUNK]
            missing = _CHUNK - len(part)  # One shape, one compilation.
            padded = np.pad(part, ((0, missing), (0, 0), (0, 0), (0, 0)))
            # One for all where all move alike.
            place = start if options.view_per_image else 0
            moved = move(key_of(number * _MANY + place), padded)
            parts.append(np.asarray(moved)[: len(part)])
        versions.append(found._replace(images=np.concatenate(parts)))
    return versions


def from_answers(
    versions: Sequence[tuple[SyntheticImages, Answers]],
    class_ids: Int[np.ndarray, " c"],
    *,
    way: int,
    per_class: int,
    names: Sequence[str] = (),
) -> tuple[RecoveredTasks, Int[np.ndarray, " t"], tuple[str, ...]]:
    """Sorts images by their owners and classes.

    Args:
      versions: of the same images in the same order, with the owners' answers; those of
        others are not read.
      class_ids: [C] absolute classes of all teachers' outputs.
      way: classes of a task: who has fewer of which there are images is left out.
      per_class: images that a class needs to count, and that are taken of it.
      names: of the teachers, for what is said.

    Returns:
      The tasks of the teachers that take part, on the host; their rows; a line on each
      of the others.

    Raises:
      InputError: no teacher can take part.
    """
    images, columns = versions[0][0], np.asarray(versions[0][1].columns)
    classes, owners = np.asarray(images.classes), np.asarray(images.owners)
    found, left_out = [], []
    # One teacher after the other, of every version what it was asked.
    for t, told in enumerate(zip(*(each(a) for _, a in versions), strict=True)):
        ids = np.asarray(class_ids)[columns[t] : columns[t + 1]]
        mine = np.flatnonzero(owners == t)
        rows = [mine[classes[mine] == known] for known in ids]
        outputs = [w for w, of in enumerate(rows) if len(of) >= per_class]
        kept = np.asarray([rows[w][:per_class] for w in outputs], int)
        said = [_about(kept, *x)[..., outputs] for x in told]  # Each [k, n, k].
        finite = all(np.isfinite(x).all() for x in said)
        if len(outputs) >= way and finite:
            found.append((t, ids[outputs], kept, said))
            continue
        why = f"{len(outputs)} of its {len(ids)} classes have {per_class} images"
        why = why if finite else "it gives answers that are not numbers"
        name = names[t] if names else f"teacher {t}"
        left_out.append(f"{name}: {why}")
    if not found:
        raise InputError(
            f"no teacher has {per_class} images of each of {way} classes (the first: "
            f"{left_out[0]}); recover more (config.recover.images_per_class, "
            "images_per_teacher) or take fewer (config.tasks.per_class)"
        )
    most = max(len(ids) for _, ids, _, _ in found)
    shape = (len(found), len(versions), most, per_class)
    pixels = np.zeros((*shape, *images.images.shape[1:]), np.uint8)
    logits = np.full((*shape, most), _NEVER, np.float32)
    known = np.zeros((len(found), most), np.int32)
    for i, (_, ids, kept, said) in enumerate(found):
        known[i, : len(ids)] = ids
        for v, (shown, _) in enumerate(versions):
            own = shown.images[kept.ravel()]
            pixels[i, v, : len(ids)] = own.reshape(*kept.shape, *own.shape[1:])
            logits[i, v, : len(ids), :, : len(ids)] = said[v]
    widths = np.asarray([len(ids) for _, ids, _, _ in found], np.int32)
    tasks = RecoveredTasks(*map(jnp.asarray, (pixels, logits, known, widths)))
    return tasks, np.asarray([t for t, *_ in found]), tuple(left_out)


def _about(kept: np.ndarray, rows: np.ndarray, said: np.ndarray) -> np.ndarray:
    """[..., w] what a teacher says of images `kept`; NaN where it was not asked.

    Args:
      kept: [...] images.
      rows: [n] images that it was asked about, increasing.
      said: [n, w] about them.
    """
    place = np.searchsorted(rows, kept)
    asked = np.append(rows, -1)[place] == kept
    padded = np.concatenate([said, np.full((1, said.shape[1]), np.nan)])
    return np.where(asked[..., None], padded[place], np.nan)


def draw_task(
    key: Key[Array, ""],
    tasks: RecoveredTasks,
    row: Int[Array, ""] | int,
    *,
    way: int,
    count: int,
    version: Int[Array, ""] | int = 0,
) -> Task:
    """One teacher's task: which of its classes, and which images of each.

    Args:
      key: draws classes, where the teacher has more than `way`, and images, where more
        than `count` are kept.
      tasks: of all teachers.
      row: of the teacher; may be traced.
      way: classes, distinct and uniform.
      count: images of each, distinct and uniform.
      version: of the images.
    """
    key_classes, key_images = jax.random.split(key)
    most, kept = tasks.images.shape[2:4]
    scores = jax.random.uniform(key_classes, (most,))
    scores = jnp.where(jnp.arange(most) < tasks.widths[row], scores, -1.0)
    chosen = jax.lax.top_k(scores, way)[1] if most > way else jnp.arange(way)
    images = tasks.images[row, version][chosen]  # [W, n, ...]
    logits = tasks.logits[row, version][chosen][:, :, chosen]
    if count < kept:
        keys = jax.random.split(key_images, way)
        order = jax.vmap(lambda k: jax.random.permutation(k, kept)[:count])(keys)
        pick = jax.vmap(lambda x, i: x[i])
        images, logits = pick(images, order), pick(logits, order)
    return Task(to_float(images), logits, tasks.class_ids[row][chosen])


def remember(bank: ImageBank, task: Task) -> ImageBank:
    """Stores a task's images under their absolute classes."""
    images, _, labels = task.rows
    return banks.add(bank, Recovered(images, labels, task.class_ids))


def bank_of(tasks: RecoveredTasks, num_classes: int) -> ImageBank:
    """All images as they are (the first version), by absolute class, on the host.

    Args:
      tasks: of all teachers.
      num_classes: of the zoo; a class without images holds none.
    """
    images, ids = np.asarray(tasks.images[:, 0]), np.asarray(tasks.class_ids)
    real = np.arange(ids.shape[1]) < np.asarray(tasks.widths)[:, None]
    flat, owners = images[real], ids[real]  # [k, n, h, w, c], [k]
    counts = np.bincount(owners, minlength=num_classes) * images.shape[2]
    rows = np.zeros((num_classes, max(counts), *images.shape[3:]), np.uint8)
    for known in range(num_classes):
        mine = flat[owners == known]
        rows[known, : counts[known]] = mine.reshape(-1, *images.shape[3:])
    # The memory is full: what was written last comes last.
    bank = banks.from_arrays(rows, counts)
    return bank._replace(cursor=bank.counts)
