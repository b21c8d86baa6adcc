"""The panel: an image described by what all teachers say about it.

No training, no data, forward queries only: each teacher's softmax at a temperature,
side by side, chance level subtracted, averaged over the image and its mirror image.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from free_jax import augment, heads, parallel, zoo
from free_jax.architecture import Architecture
from free_jax.episodes import to_float
from free_jax.types import ImageBank, PyTree, Teachers

Output = Literal["probabilities", "logits", "features"]


def describer(
    architectures: tuple[Architecture, ...],
    *,
    output: Output = "probabilities",
    temperature: float = 4.0,
    mirror: bool = True,
    map_tasks: Callable = parallel.map_tasks,
) -> Callable[[tuple[Teachers, ...], jax.Array], jax.Array]:
    """Builds the description of images by all teachers of a zoo.

    A device visits its teachers one after the other, so memory does not grow with the
    zoo; remote ones are asked all at once.

    Args:
      architectures: one a group.
      output: tempered softmax minus chance, raw logits, or the features before the
        head scaled to unit length a teacher.
      temperature: of the softmax.
      mirror: average over the image and its mirror image.
      map_tasks: how teachers are spread, see `parallel.map_tasks`.

    Returns:
      ``(teachers, one stack a group; images [n, h, w, c], uint8 or floats in [0, 1])
      -> [n, d]``; d is the sum over teachers of their outputs (or features).  Images
      are resized to each group's size.  Compile it once with `jax.jit`.

    Raises:
      ValueError: an unknown output or a temperature that cannot be meant.
    """
    if output not in ("probabilities", "logits", "features"):
        raise ValueError(f"output={output!r}: choose probabilities, logits or features")
    if temperature <= 0:
        raise ValueError(f"temperature={temperature} must be positive")

    def say(arch: Architecture, variables: PyTree, views: jax.Array) -> jax.Array:
        out = arch.apply(variables, views, features=output == "features")
        if output == "probabilities":
            return tempered(out, temperature)
        if output == "features":
            return out / (jnp.linalg.norm(out, axis=-1, keepdims=True) + 1e-8)
        return out

    def describe(
        teachers: tuple[Teachers, ...], images: Float[Array, "n h w c"] | jax.Array
    ) -> Float[Array, "n d"]:
        images = to_float(jnp.asarray(images))
        parts = []
        for arch, stack in zip(architectures, teachers, strict=True):
            views = augment.fit_to(images, arch.image_shape)

            def one(shared, index, arch=arch):
                stack, views = shared
                variables = zoo.take(stack, index).variables
                said = say(arch, variables, views)
                if mirror:
                    said = (said + say(arch, variables, views[:, :, ::-1])) / 2
                return said

            how = "vmap" if arch.remote else "map"
            run = map_tasks(one, local=how, everywhere=True)
            teachers_at = jnp.arange(stack.class_ids.shape[0])
            out = run((stack, views), teachers_at)  # [T, n, d]
            parts.append(jnp.moveaxis(out, 0, 1).reshape(images.shape[0], -1))
        return jnp.concatenate(parts, axis=-1)

    return describe


def tempered(
    logits: Float[Array, "*batch way"], temperature: float | Float[Array, ""]
) -> Float[Array, "*batch way"]:
    """Tempered softmax minus chance: what one teacher adds to a description."""
    return jax.nn.softmax(logits / temperature) - 1.0 / logits.shape[-1]


def describe_bank(
    describe: Callable[[jax.Array], jax.Array], bank: ImageBank, *, chunk: int = 500
) -> ImageBank:
    """The same bank with descriptions [C, M, d] in place of images.

    Args:
      describe: ``images [n, h, w, c] uint8 -> [n, d]``, compiled by the caller, as
        ``functools.partial(jax.jit(describer(...)), teachers)``: banks described by
        other teachers of the same shapes then share the program.
      bank: images [C, M, h, w, c] uint8.
      chunk: images described at once.
    """
    classes, most = bank.images.shape[:2]
    flat = bank.images.reshape(classes * most, *bank.images.shape[2:])
    parts = []
    for start in range(0, flat.shape[0], chunk):
        images = flat[start : start + chunk]
        missing = chunk - images.shape[0]
        # The last chunk is padded: one shape, one compilation.
        images = jnp.pad(images, ((0, missing), (0, 0), (0, 0), (0, 0)))
        parts.append(describe(images)[: chunk - missing])
    described = jnp.concatenate(parts).reshape(classes, most, -1)
    return bank._replace(images=described)


def best_teachers(
    head: heads.Head, *, way: int, num_teachers: int, keep: int
) -> heads.Head:
    """A head that listens to the few teachers which tell the support classes apart.

    A teacher is rated by the scatter of its answers between the class means of the
    support set, less what the scatter within the classes would cause by chance (zero
    for one image a class, where it cannot be known).

    Args:
      head: works on descriptions of all teachers; sees zeros for those left out.
      way: classes of an episode.
      num_teachers: T; descriptions are [n, T * W], teacher by teacher.
      keep: teachers that count, at most T.

    Returns:
      A head.

    Raises:
      ValueError: `keep` is not between 1 and T.
    """
    if not 1 <= keep <= num_teachers:
        raise ValueError(f"keep={keep} must be between 1 and {num_teachers} teachers")

    def run(support: jax.Array, labels: jax.Array, queries: jax.Array) -> jax.Array:
        answers = support.reshape(support.shape[0], num_teachers, -1)
        members = jax.nn.one_hot(labels, way)
        shots = members.sum(0)
        means = jnp.einsum("nc,ntw->ctw", members / shots, answers)
        between = jnp.square(means - means.mean(0)).sum((0, 2)) / (way - 1)
        apart = jnp.square(answers - means[labels]).sum((0, 2))
        # One image a class has no scatter: 0 / 0 is meant to be 0.
        within = apart / jnp.maximum(support.shape[0] - way, 1)
        rating = between - within / shots.mean()
        chosen = jax.lax.top_k(rating, keep)[1]
        mask = jnp.zeros(num_teachers).at[chosen].set(1.0)
        mask = jnp.repeat(mask, answers.shape[-1])
        return head(support * mask, labels, queries * mask)

    return run


def centrality(said: Float[np.ndarray, "n t w"]) -> Float[np.ndarray, " t"]:
    """How much each teacher's view of images resembles that of all the others.

    Linear centred kernel alignment between a teacher's answers and the other teachers'
    answers together, in [0, 1]; classes need not be shared, nor images be real.

    Args:
      said: what each teacher says about each image, e.g. `tempered` logits.

    Reference:
      Kornblith et al., "Similarity of Neural Network Representations Revisited", ICML
      2019.
    """
    rows = np.asarray(said, np.float64)
    rows = rows - rows.mean(0)
    kernels = np.einsum("itw,jtw->tij", rows, rows)
    others = kernels.sum(0) - kernels
    length = np.linalg.norm(kernels, axis=(1, 2)) * np.linalg.norm(others, axis=(1, 2))
    return (kernels * others).sum((1, 2)) / np.maximum(length, 1e-12)


def vote(
    logits: Float[np.ndarray, "n t w"],
    class_ids: Int[np.ndarray, "t w"],
    num_classes: int,
) -> Int[np.ndarray, " n"]:
    """The class that the teachers which know it together find likeliest.

    A teacher spreads its belief over its own classes only, so that one alone may take
    anything for its nearest class; the mean of several logarithms is high only where
    none objects.

    Args:
      logits: what each teacher says about each image.
      class_ids: absolute classes of each teacher's outputs.
      num_classes: of the zoo; one that no teacher knows gets no image.

    Returns:
      [n] int32 absolute class ids.

    >>> vote(np.log([[[0.9, 0.1], [0.2, 0.8]]]), np.asarray([[0, 1], [0, 2]]), 4)
    array([2], dtype=int32)
    """
    logits = np.asarray(logits, np.float64)
    log_p = logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)
    known = np.bincount(np.ravel(class_ids), minlength=num_classes)
    total = np.zeros((len(logits), num_classes))
    for said, ids in zip(np.moveaxis(log_p, 1, 0), class_ids, strict=True):
        total[:, ids] += said
    mean = np.where(known, total / np.maximum(known, 1), -np.inf)
    return mean.argmax(-1).astype(np.int32)


class Trust(NamedTuple):
    """How far each teacher of a panel is believed, judged without data.

    Attributes:
      weights: [T] one, or zero for a teacher that is left out.
      information: [T] nats, entropy of the mean prediction minus mean entropy: what
        an answer tells about the image; zero for constant teachers.
      agreement: [T] share of images of the teacher's classes, recovered from OTHER
        teachers, that it labels alike, in [0, 1]; nan where there are none.
    """

    weights: np.ndarray
    information: np.ndarray
    agreement: np.ndarray


def trust(
    logits: Float[np.ndarray, "n t w"],
    class_ids: Int[np.ndarray, "t w"],
    classes: Int[np.ndarray, " n"],
    owners: Int[np.ndarray, " n"],
) -> Trust:
    """Finds constant, broken, mislabelled and random teachers by recovered images.

    A teacher is left out if an answer is not finite, if its answers tell less than a
    quarter of the panel's median information, or if its agreement with the others is
    not above chance (by two standard errors).  A
    teacher counts fully or not at all: weights by information and agreement scored
    the same and left out honest teachers of hard tasks.

    Args:
      logits: what each teacher says about each image.
      class_ids: absolute classes of each teacher's outputs.
      classes: [n] class each image was recovered for; negative: none.
      owners: [n] the row of `class_ids` that it was recovered from, or T or more for
        a teacher that has none (see `rows_of`); negative: no teacher.

    Returns:
      A `Trust`, on the host.
    """
    logits, class_ids = np.asarray(logits), np.asarray(class_ids)
    finite = np.asarray(np.isfinite(logits).all((0, 2)))
    shifted = np.where(np.isfinite(logits), logits, 0.0)
    shifted = shifted - shifted.max(-1, keepdims=True)
    p = np.exp(shifted) / np.exp(shifted).sum(-1, keepdims=True)

    def entropy(p: np.ndarray) -> np.ndarray:
        return -(p * np.log(p + 1e-12)).sum(-1)

    information = np.where(finite, entropy(p.mean(0)) - entropy(p).mean(0), 0.0)
    answers = np.take_along_axis(class_ids, shifted.argmax(-1).T, 1)  # [T, n]
    agreement = np.full(len(class_ids), np.nan)
    chance = 1.0 / class_ids.shape[1]
    # Where nobody else knows a teacher's classes its information alone decides.
    agrees = np.ones(len(class_ids), bool)
    for t, known in enumerate(class_ids):
        judged = np.isin(classes, known) & (owners != t) & (owners >= 0)
        if judged.any() and finite[t]:
            agreement[t] = (answers[t, judged] == classes[judged]).mean()
            error = np.sqrt(chance * (1 - chance) / judged.sum())
            agrees[t] = agreement[t] > chance + 2 * error
    usual = np.median(information[finite]) if finite.any() else 0.0
    tells = information > max(usual / 4, 1e-6)
    weights = (finite & tells & agrees).astype(np.float32)
    return Trust(weights, information, agreement)


def rows_of(
    owners: Int[np.ndarray, " n"], asked: Int[np.ndarray, " t"]
) -> Int[np.ndarray, " n"]:
    """Owners of images as rows of the teachers that were asked.

    Images of teachers that were not asked still tell whether those that were can be
    believed, so that their owners must not become "nobody".

    Args:
      owners: the teacher each image was recovered from, of all; negative: none.
      asked: which teachers the rows stand for.

    Returns:
      [n] the owner's row in `asked`; T where it was not asked; -1 for no teacher.

    >>> rows_of(np.asarray([0, 2, 5, -1]), np.asarray([2, 5])).tolist()
    [2, 0, 1, -1]
    """
    owners = np.asarray(owners)
    same = owners[:, None] == np.asarray(asked)
    rows = np.where(same.any(1), same.argmax(1), same.shape[1])
    return np.where(owners < 0, -1, rows)
