"""How a model distilled from a panel embeds images, is fitted to some, and adapts.

A distilled model carries what its embeddings need in a collection of its variables,
``descriptions``: temperature, trust in each teacher, a whitening, for teachers of
different numbers of classes the ``columns`` [T + 1] of its outputs, and the ``sketch``
of embeddings of a bounded length.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Num

from free_jax import images as images_lib
from free_jax import objectives, panel
from free_jax.fewshot import heads
from free_jax.fewshot import labels as labels_lib
from free_jax.fewshot.descend import descend
from free_jax.images import to_float
from free_jax.panel import ragged
from free_jax.panel import sketch as sketches
from free_jax.types import PyTree
from free_jax.zoo.network import Network


def embed(
    student: Network,
    variables: PyTree,
    images: Num[Array, "n h w c"],
    *,
    mirror: bool = True,
) -> Float[Array, "n d"]:
    """The outputs of the model's heads, as embeddings for the heads of `heads`.

    Args:
      student: one trunk, a head for each of T teachers.
      variables: ``{"params", "batch_stats", "descriptions"}``, see `fit_statistics`.
      images: integers from 0 to 255, or floats in [0, 1]; of another size than the
        model's they are resized.
      mirror: take the mean of an image and its mirror image.

    Returns:
      d numbers an image.

    Raises:
      InputError: images in another range, where their values are known.
    """
    images = _fitted(student, images_lib.checked(images, "embed"))
    how = variables["descriptions"]
    rows = _embed(student, variables, images, how, mirror)
    if "whitening" not in how:
        return rows
    return heads.whiten(rows, how["mean"], how["whitening"], how.get("outside"))


def _fitted(student: Network, images: jax.Array) -> jax.Array:
    """Images as the model sees them; the identity where they are."""
    return images_lib.fit_to(to_float(images), student.image_shape)


def _embed(student, variables, images, how, mirror=True):
    rows = _said(student, variables, images, how, mirror)
    if "sketch" not in how:
        return rows
    return sketches.apply(sketches.Sketch(**how["sketch"]), rows)


def _said(student, variables, images, how, mirror):
    """What all heads say, however many there are."""
    weights, temperature = how["weights"], how["temperature"]

    def once(views: jax.Array) -> jax.Array:
        logits = student.apply(variables, views)
        if "columns" in how:
            columns = how["columns"]
            owners = ragged.owners_of(columns, logits.shape[-1])
            return ragged.tempered(logits, columns, temperature) * weights[owners]
        logits = logits.reshape(views.shape[0], weights.shape[0], -1)
        rows = panel.tempered(logits, temperature) * weights[:, None]
        return rows.reshape(views.shape[0], -1)

    if not mirror:
        return once(images)
    return (once(images) + once(images[:, :, ::-1])) / 2


class Adapted(NamedTuple):
    """A distilled model and a classifier on its embeddings, fitted to an episode.

    Attributes:
      variables: of the model, to `embed` with.
      kernel: [way, d]; an image's scores are its cosines to these rows, but for their
        lengths, which the gradient moves too.
    """

    variables: PyTree
    kernel: jax.Array


def adapt(
    student: Network,
    variables: PyTree,
    images: Num[Array, "n h w c"],
    labels: Int[Array, " n"],
    *,
    way: int,
    num_steps: int = 10,
    learning_rate: float = 0.01,
    scale: float = 10.0,
) -> Adapted:
    """Adapts a distilled model to a support set by gradient, all of it.

    It starts as the nearest-centroid classifier of embeddings, and steps down the
    support set's cross-entropy.  Batch-norm statistics stay as `fit_statistics` left
    them, so that every image is treated alone.

    Args:
      student: one trunk, a head for each of T teachers.
      variables: ``{"params", "batch_stats", "descriptions"}``.
      images: support set; integers from 0 to 255, or floats in [0, 1].
      labels: in [0, way), each at least once.
      way: classes of the episode.
      num_steps: of plain gradient descent; 0 leaves the nearest centroid.
      learning_rate: of those steps.
      scale: multiplies cosines to make logits.

    Returns:
      An `Adapted`, for `classify`.

    Raises:
      InputError: images or labels in another range, where their values are known.
    """
    images = images_lib.checked(images, "adapt")
    labels = labels_lib.checked(labels, way, "adapt")
    rows = heads.unit(embed(student, variables, images))
    start = heads.unit(jax.nn.one_hot(labels, way).T @ rows)

    def loss(fast: tuple[PyTree, jax.Array]) -> jax.Array:
        params, kernel = fast
        # One view: half the work of a step.
        rows = embed(student, {**variables, "params": params}, images, mirror=False)
        return objectives.cross_entropy(scale * heads.unit(rows) @ kernel.T, labels)

    params, kernel = descend(
        jax.grad(loss),
        (variables["params"], start),
        num_steps=num_steps,
        learning_rate=learning_rate,
    )
    return Adapted({**variables, "params": params}, kernel)


def classify(
    student: Network, adapted: Adapted, images: Num[Array, "n h w c"]
) -> Float[Array, "n way"]:
    """Scores of images by an adapted model, each image alone."""
    rows = embed(student, adapted.variables, images)
    return heads.unit(rows) @ adapted.kernel.T


def fit_statistics(
    student: Network,
    variables: PyTree,
    images: jax.Array | None,
    *,
    weights: Float[Array, " t"],
    temperature: float,
    columns: Int[np.ndarray, " t_plus_1"] | None = None,
    whitening: float = 0.5,
    sketch: int = 0,
    at_once: int = 500,
) -> PyTree:
    """Fits a distilled model to the images most like real ones.

    The student is trained on images of several kinds, and its running batch-norm
    statistics are those of the mixture.  Of all kinds, inversions come closest to what
    the teachers were trained on; their statistics suit real images better.  The same
    images tell which directions of an embedding vary anyway, and so mean little: those
    are shrunk.

    Args:
      student: one trunk, ``t`` heads.
      variables: ``{"params", "batch_stats"}`` as trained.
      images: [n, h, w, c], uint8 or in [0, 1], n at least 2: recovered from teachers,
        starting from dead leaves; None leaves statistics as trained, and embeddings
        unwhitened.
      weights: trust in each teacher.
      temperature: of the heads' softmax.
      columns: of the teachers' outputs; None where they have equal numbers of classes.
      sketch: embeddings are so many numbers, see `panel.sketch`; 0: as many as all
        heads have outputs.  The draw is the same for all models of as many outputs.
      whitening: strength, see `heads.whitening`; 0 leaves embeddings as they are.
      at_once: images a batch; a remainder is left out where there is more than one.

    Returns:
      ``{"params", "batch_stats", "descriptions"}``.
    """
    how = {
        "weights": jnp.asarray(weights, jnp.float32),
        "temperature": jnp.float32(temperature),
    }
    # A model of equal widths has no columns, like those saved before there were any.
    if columns is not None and not ragged.widths_are_equal(columns):
        how["columns"] = jnp.asarray(columns, jnp.int32)
    if sketch:
        drawn = sketches.draw(jax.random.key(0), student.num_classes, sketch)
        how["sketch"] = drawn._asdict()
    if images is None:
        return {**variables, "descriptions": how}
    size = min(at_once, images.shape[0])
    count = images.shape[0] // size
    batches = images[: count * size].reshape(count, size, *images.shape[1:])

    def moments_of(batch: jax.Array) -> PyTree:
        batch = _fitted(student, batch)
        return student.apply_with_moments(variables, batch, norm="batch")[1]

    moments = jax.lax.map(moments_of, batches)
    fitted = {
        "params": variables["params"],
        "batch_stats": jax.tree.map(lambda x: x.mean(0), moments),
    }
    if whitening:
        rows = jax.lax.map(
            lambda batch: _embed(student, fitted, _fitted(student, batch), how),
            batches,
        )
        rows = rows.reshape(count * size, -1)
        how |= heads.fit_whitening(rows, whitening)
    return fitted | {"descriptions": how}
