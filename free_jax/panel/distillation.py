"""Panel distillation: one model learns ALL teachers' outputs on recovered images.

The student has one trunk and one head per teacher, or, in training, one output per
class, which the heads of all teachers that know it share.  Each recovered image,
whichever teacher it came from, was described by every teacher beforehand; a step draws
a batch and lowers the tempered KL of every head to its teacher.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Key, Num

from free_jax import augment, parallel
from free_jax.algorithm import Algorithm, bind
from free_jax.fewshot import heads
from free_jax.images import fit_to, to_float
from free_jax.panel import ragged
from free_jax.panel.described import Batch, Described, batch_of
from free_jax.panel.distill_options import Mix
from free_jax.types import PyTree
from free_jax.zoo.network import Network
from free_jax.zoo.supervised import supervised_step


class DistillState(NamedTuple):
    """Everything that training carries.

    Attributes:
      step: [] int32 steps made.
      variables: of the student as it is trained, with running statistics.
      opt: state of its optimiser.
    """

    step: jax.Array
    variables: PyTree
    opt: PyTree


class DistillInfo(NamedTuple):
    """Scalars of one step.

    Attributes:
      distill_loss: weighted KL a head.
      agreement: how often head and teacher choose the same class, in [0, 1].
      is_finite: whether the loss is finite.
    """

    distill_loss: jax.Array
    agreement: jax.Array
    is_finite: jax.Array


# The logit of an output that a teacher does not have: its softmax is exactly zero.
NEVER = -1e30

# Where nobody who is trusted was asked about an image of a batch, it teaches nothing.
_LEAST = 1e-6


class Parts(NamedTuple):
    """What a panel's distillation is composed of; arguments of `panel_distillation`.

    Attributes:
      student: has as many outputs as all teachers together, in their order.
      columns: [T + 1] of the teachers' outputs, see `Described` and `Zoo.columns`.
      optimizer: of the student.
      batch_size: images a step, drawn with replacement.
      ghost_batches: equal parts of a batch that are normalised each by itself, the
        unit that `map_tasks` splits over devices.  It is independent of their number,
        so that results are.
      temperature: of both softmaxes.
      crop_padding: largest random shift in pixels.  The teachers described the image
        as it is: whatever moves it makes their answers wrong for what the student
        sees, which costs more than variety brings.
      edges: see `augment.crop_flip`.
      flip: mirror half of the images.
      mix: blend pairs of a batch ("mixup") or paste a rectangle ("cutmix"); the
        teachers' probabilities are blended alike.
      similarity: weight of matching, within a batch, the cosines between the
        student's features to those between the panel's descriptions, which is what a
        nearest-centroid head will use.
      momentum: of the running batch-norm statistics.
      class_ids: [C] of the outputs: those of one class are one output in training.
        None trains an output of its own for each.
      some: some teachers were asked about each image, not all.
      map_tasks: see `parallel.map_tasks`.
    """

    student: Network
    columns: np.ndarray
    optimizer: optax.GradientTransformation
    batch_size: int
    ghost_batches: int
    temperature: float
    crop_padding: int
    edges: augment.Edges
    flip: bool
    mix: Mix
    similarity: float
    momentum: float
    class_ids: Int[np.ndarray, " c"] | None
    some: bool
    map_tasks: Callable

    @property
    def trained(self) -> Network:
        """The student with as many outputs as are trained."""
        if self.class_ids is None:
            return self.student
        classes = len(np.unique(self.class_ids))
        return dataclasses.replace(self.student, num_classes=classes)


def with_all_heads(parts: Parts, params: PyTree) -> PyTree:
    """Parameters of the student with all teachers' outputs side by side."""
    if parts.class_ids is None:
        return params
    _, outputs = np.unique(parts.class_ids, return_inverse=True)
    head = jax.tree.map(lambda leaf: leaf[..., outputs], params["head"])
    return {**params, "head": head}


def model(parts: Parts, state: DistillState) -> PyTree:
    """Variables of the student."""
    params = with_all_heads(parts, state.variables["params"])
    return {**state.variables, "params": params}


def init(parts: Parts, key: Key[Array, ""]) -> DistillState:
    """A student without training."""
    variables = parts.trained.init(key)
    opt = parts.optimizer.init(variables["params"])
    return DistillState(jnp.int32(0), variables, opt)


def step(
    parts: Parts, key: Key[Array, ""], state: DistillState, data: Described | Batch
) -> tuple[DistillState, DistillInfo]:
    """Draws a batch, unless it is one, and moves the student towards the answers."""
    if not isinstance(data, Batch):
        data = batch_of(data, rows_of_step(parts, key, data))
    update = supervised_step(
        functools.partial(loss_fn, parts),
        parts.optimizer,
        parts.momentum,
        ghost_batches=parts.ghost_batches,
        map_tasks=parts.map_tasks,
    )
    images, targets = views(parts, key, data)
    batch = (images, targets) if data.teachers is None else (
        images, targets, data.teachers)  # fmt: skip
    variables, opt, loss, same = update(state.variables, state.opt, batch, data.weights)
    new = DistillState(state.step + 1, variables, opt)
    return new, DistillInfo(loss, same, jnp.isfinite(loss))


def feed(parts: Parts, key: Key[Array, ""], step: int, data: Described) -> Batch:
    """The batch of a step, picked on the host: the images need not fit a device."""
    del step
    return batch_of(data, np.asarray(rows_of_step(parts, key, data)))


def rows_of_step(
    parts: Parts, key: Key[Array, ""], data: Described
) -> Int[Array, " n"]:
    """Which images a step looks at, drawn with replacement."""
    key_rows, _, _ = jax.random.split(key, 3)
    return jax.random.randint(key_rows, (parts.batch_size,), 0, data.images.shape[0])


def views(
    parts: Parts, key: Key[Array, ""], batch: Batch
) -> tuple[Float[Array, "n h w c"], Float[Array, "n t width"]]:
    """Augmented images, and each teacher's probabilities; NaN, of no one."""
    _, key_views, key_mix = jax.random.split(key, 3)
    images = moved(parts, key_views, batch.images)
    logits = batch.logits
    if batch.teachers is None:
        logits = ragged.padded(logits, parts.columns, NEVER)
    else:
        own = jnp.asarray(ragged.padding_mask(parts.columns))[batch.teachers]
        logits = jnp.where(own, logits, NEVER)
    targets = jax.nn.softmax(logits / parts.temperature)
    if parts.mix != "none":
        images, targets = augment.mix_pairs(key_mix, images, targets, parts.mix)
    return images, targets


def moved(
    parts: Parts, key: Key[Array, ""], images: Num[Array, "n h w c"]
) -> Float[Array, "n height width c"]:
    """Images as the student sees them, of its size, shifted and mirrored at random."""
    return augment.crop_flip(
        key,
        fit_to(to_float(images), parts.student.image_shape),
        padding=parts.crop_padding,
        edges=parts.edges,
        flip=parts.flip,
    )


def loss_fn(
    parts: Parts,
    params: PyTree,
    images: Float[Array, "n h w c"],
    targets: Float[Array, "n t width"],
    *asked_and_weights: jax.Array,
) -> tuple[Float[Array, ""], tuple[PyTree, Float[Array, ""]]]:
    """Loss of a batch, its batch-norm moments, and how often the argmax agrees.

    Args:
      parts: of the distillation.
      params: of the student.
      images: of the batch.
      targets: the teachers' probabilities.
      *asked_and_weights: [n, t] who was asked about each image, where not all were
        about all; and [T] weights.
    """
    *asked, weights = asked_and_weights
    features, moments = parts.trained.apply_with_moments(
        {"params": params}, images, norm="batch", features=True
    )
    if asked:
        (teachers,) = asked
        logits = said_of(parts, params, features, teachers)
    else:
        logits = parts.student.head(with_all_heads(parts, params), features)
        logits = ragged.padded(logits, parts.columns, NEVER)  # [n, T, W]
    log_s = jax.nn.log_softmax(logits / parts.temperature)
    rows = divergences(targets, log_s)
    if asked:
        weights = jnp.where(teachers >= 0, weights[teachers], 0.0)  # [n, m]
        share = weights / jnp.maximum(weights.sum(), _LEAST)
        same = log_s.argmax(-1) == targets.argmax(-1)
        return (rows.sum(-1) * share).sum(), (moments, (same * share).sum())
    loss = (rows.sum(-1) * weights).sum(-1).mean() / weights.sum()
    if parts.similarity:
        loss += parts.similarity * _similarity_loss(parts, features, targets, weights)
    same = (log_s.argmax(-1) == targets.argmax(-1)).astype(jnp.float32)
    return loss, (moments, (same * weights).sum(-1).mean() / weights.sum())


def divergences(
    targets: Float[Array, "n t w"], log_s: Float[Array, "n t w"]
) -> Float[Array, "n t w"]:
    """What each output adds to the KL of a head from its teacher."""
    # Entropy of the targets is added so that a perfect student scores zero.
    return jax.scipy.special.xlogy(targets, targets) - targets * log_s


def said_of(
    parts: Parts,
    params: PyTree,
    features: Float[Array, "n f"],
    teachers: Int[Array, "n m"],
) -> Float[Array, "n m w"]:
    """What the heads of some teachers say about each image, and no other head.

    Args:
      parts: of the distillation.
      params: of the student as it is trained.
      features: of the images.
      teachers: whose heads; of nobody's, -1, the last one's.
    """
    mask = ragged.padding_mask(parts.columns)
    outputs = np.where(mask, parts.columns[:-1, None] + np.arange(mask.shape[1]), 0)
    if parts.class_ids is not None:
        # Where each is among those that are trained.
        outputs = np.unique(parts.class_ids, return_inverse=True)[1][outputs]
    wanted = jnp.asarray(outputs)[teachers]  # [n, m, W]
    head = params["head"]
    if wanted.size < head["bias"].size:
        kernel = head["kernel"].T[wanted]  # [n, m, W, f]
        logits = jnp.einsum("nf,nmwf->nmw", features, kernel) + head["bias"][wanted]
    else:
        logits = parts.trained.head(params, features)
        flat = wanted.reshape(len(wanted), -1)
        logits = jnp.take_along_axis(logits, flat, 1).reshape(wanted.shape)
    return jnp.where(jnp.asarray(mask)[teachers], logits, NEVER)


def _similarity_loss(
    parts: Parts, features: jax.Array, targets: jax.Array, weights: jax.Array
) -> jax.Array:
    """How far cosines of features are from those of what the teachers answer."""
    if ragged.widths_are_equal(parts.columns):
        described = targets - targets.mean(-1, keepdims=True)
    else:
        widths = np.diff(parts.columns)[:, None]
        chance = targets.sum(-1, keepdims=True) / widths
        mask = ragged.padding_mask(parts.columns)
        described = jnp.where(mask, targets - chance, 0.0)
    described = described * weights[:, None]
    wanted = _similarities(described.reshape(described.shape[0], -1))
    return jnp.square(_similarities(features) - wanted).mean()


def _similarities(descriptions: Float[Array, "n d"]) -> Float[Array, "n n"]:
    """Cosines between all pairs, after subtracting the batch's mean."""
    rows = heads.unit(descriptions - descriptions.mean(0))
    return rows @ rows.T


def panel_distillation(
    student: Network,
    *,
    columns: Int[np.ndarray, " t_plus_1"],
    optimizer: optax.GradientTransformation,
    batch_size: int = 128,
    ghost_batches: int = 1,
    temperature: float = 4.0,
    crop_padding: int = 4,
    edges: augment.Edges = "black",
    flip: bool = True,
    mix: Mix = "none",
    similarity: float = 0.0,
    momentum: float = 0.95,
    class_ids: Int[np.ndarray, " c"] | None = None,
    some: bool = False,
    map_tasks: Callable = parallel.map_tasks,
    build: Callable[[Parts], Algorithm] | None = None,
) -> Algorithm:
    """Builds the distillation of a whole panel.

    The arguments are described by `Parts`; `build` makes the algorithm of them where
    that is not this module's, see `split_heads`.

    Returns:
      An `Algorithm` whose data is a `Described`; its model has Linen variables
      ``{"params", "batch_stats"}``, to be fitted by `panel.model.fit_statistics`.

    Raises:
      ValueError: the student has another number of outputs than the teachers, or an
        option is unknown.
    """
    parts = Parts(
        student=student,
        columns=np.asarray(columns),
        optimizer=optimizer,
        batch_size=batch_size,
        ghost_batches=ghost_batches,
        temperature=temperature,
        crop_padding=crop_padding,
        edges=edges,
        flip=flip,
        mix=mix,
        similarity=similarity,
        momentum=momentum,
        class_ids=None if class_ids is None else np.asarray(class_ids),
        some=some,
        map_tasks=map_tasks,
    )
    _check(parts)
    if build is not None:
        return build(parts)
    bound = bind(init, step, parts)
    return bound._replace(
        model=functools.partial(model, parts), feed=functools.partial(feed, parts)
    )


def _check(parts: Parts) -> None:
    """Refuses parts that contradict each other."""
    columns = parts.columns
    if parts.student.num_classes != columns[-1]:
        raise ValueError(
            f"{parts.student.num_classes} outputs are not those of {len(columns) - 1} "
            f"teachers, {columns[-1]}"
        )
    if parts.class_ids is not None and len(parts.class_ids) != columns[-1]:
        raise ValueError(
            f"{len(parts.class_ids)} class ids for {columns[-1]} outputs; give one each"
        )
    if parts.mix not in ("none", "mixup", "cutmix"):
        raise ValueError(f"mix={parts.mix!r}: choose none, mixup or cutmix")
    if parts.some and (parts.mix != "none" or parts.similarity):
        raise ValueError(
            f"mix={parts.mix!r} and similarity={parts.similarity} compare what all "
            "teachers say of each image; ask all of them, or use 'none' and 0"
        )
    if parts.temperature <= 0:
        raise ValueError(f"temperature={parts.temperature} must be positive")
    if parts.ghost_batches < 1 or parts.batch_size % parts.ghost_batches:
        raise ValueError(
            f"ghost_batches={parts.ghost_batches} must divide "
            f"batch_size={parts.batch_size}"
        )
