"""Training teachers, many at once: one teacher's epoch, written to be mapped."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key

from free_jax import objectives
from free_jax.images import to_float
from free_jax.types import ImageBank, PyTree
from free_jax.zoo.network import Network
from free_jax.zoo.supervised import supervised_step


class TeacherState(NamedTuple):
    """One teacher in training: its variables and its optimiser's state."""

    variables: PyTree
    opt: PyTree


class EpochInfo(NamedTuple):
    """Mean training loss and accuracy (in [0, 1]) over an epoch's batches."""

    loss: jax.Array
    accuracy: jax.Array


class Parts(NamedTuple):
    """What the training of a teacher is composed of; arguments of `teacher_trainer`.

    Attributes:
      network: the network.
      optimizer: clip and schedule included.
      images_per_class: training images of each class (the first ones of the bank); the
        most that a teacher has, where there is a `train_fraction`.
      batch_size: the remainder of an epoch that does not fill a batch is left out.
      flip: mirror each image half of the time.
      momentum: of the running batch-norm statistics (PyTorch's 0.1 is 0.9 here; the
        running variance is the biased one, PyTorch's is unbiased).
      train_fraction: a teacher has this share of the smallest of ITS classes; None: all
        have `images_per_class`.
    """

    network: Network
    optimizer: optax.GradientTransformation
    images_per_class: int
    batch_size: int
    flip: bool
    momentum: float
    train_fraction: float | None = None

    @property
    def num_images(self) -> int:
        """Training images of one teacher."""
        return self.network.num_classes * self.images_per_class

    def per_class(
        self, bank: ImageBank, class_ids: Int[Array, " way"]
    ) -> Int[Array, ""]:
        """Training images of each class of one teacher."""
        if self.train_fraction is None:
            return jnp.int32(self.images_per_class)
        # A share that is whole, such as 0.8 of 600, must not be rounded down.
        share = self.train_fraction * bank.counts[class_ids].min() + 1e-3
        return jnp.clip(share.astype(jnp.int32), 1, self.images_per_class)


def init(parts: Parts, key: Key[Array, ""]) -> TeacherState:
    """A teacher without training."""
    variables = parts.network.init(key)
    return TeacherState(variables, parts.optimizer.init(variables["params"]))


def loss_fn(parts: Parts, params: PyTree, images: jax.Array, labels: jax.Array):
    """Cross-entropy, and (batch-norm moments, accuracy)."""
    logits, moments = parts.network.apply_with_moments(
        {"params": params}, images, norm="batch"
    )
    loss = objectives.cross_entropy(logits, labels)
    return loss, (moments, objectives.accuracy(logits, labels))


def epoch(
    parts: Parts,
    bank: ImageBank,
    task: tuple[jax.Array, Int[Array, " way"], TeacherState],
) -> tuple[TeacherState, EpochInfo]:
    """Passes over one teacher's training images once; task is (key, ids, state).

    All teachers make the same number of steps, so that they can be mapped: those with
    fewer images pass over theirs several times.
    """
    key, class_ids, state = task
    num_batches = parts.num_images // parts.batch_size
    used, shape = num_batches * parts.batch_size, (num_batches, parts.batch_size)
    key_order, key_flip = jax.random.split(key)
    order = jax.random.permutation(key_order, parts.num_images)
    if parts.train_fraction is not None:
        per_class = parts.per_class(bank, class_ids)
        mine = order % parts.images_per_class < per_class
        first = order[jnp.argsort(~mine, stable=True)]
        count = per_class * parts.network.num_classes
        order = first[jnp.arange(parts.num_images) % count]
    order = order[:used]
    flips = jax.random.bernoulli(key_flip, shape=shape)
    update = supervised_step(
        functools.partial(loss_fn, parts), parts.optimizer, parts.momentum
    )

    def batch(rows: jax.Array, flipped: jax.Array):
        labels = (rows // parts.images_per_class).astype(jnp.int32)
        images = bank.images[class_ids[labels], rows % parts.images_per_class]
        images = to_float(images)
        if parts.flip:
            images = jnp.where(flipped[:, None, None, None], images[:, :, ::-1], images)
        return images, labels

    def step(state: TeacherState, inputs):
        variables, opt, loss, accuracy = update(
            state.variables, state.opt, batch(*inputs)
        )
        return TeacherState(variables, opt), EpochInfo(loss, accuracy)

    state, infos = jax.lax.scan(step, state, (order.reshape(shape), flips))
    return state, jax.tree.map(jnp.mean, infos)


def evaluate(
    parts: Parts, bank: ImageBank, task: tuple[Int[Array, " way"], PyTree]
) -> Float[Array, ""]:
    """Accuracy on the rows of each class that training leaves out."""
    class_ids, variables = task
    images = bank.images[class_ids]  # [W, M, h, w, c]
    counts = bank.counts[class_ids]

    def one(images: jax.Array, label: jax.Array) -> jax.Array:
        logits = parts.network.apply(variables, to_float(images))
        return (logits.argmax(-1) == label).astype(jnp.float32)

    # Rows that some teacher may hold out; those of this one are told by `valid`.
    first = parts.images_per_class if parts.train_fraction is None else 0
    held_out = images[:, first:]
    rows = jnp.arange(first, images.shape[1])
    valid = (rows < counts[:, None]) & (rows >= parts.per_class(bank, class_ids))
    # One class after the other bounds the memory of wide zoos.
    labels = jnp.arange(parts.network.num_classes)
    right = jax.lax.map(lambda x: one(*x), (held_out, labels))
    return (right * valid).sum() / jnp.maximum(valid.sum(), 1)


def teacher_trainer(
    network: Network,
    optimizer: optax.GradientTransformation,
    *,
    images_per_class: int,
    batch_size: int = 128,
    flip: bool = True,
    momentum: float = 0.9,
    train_fraction: float | None = None,
) -> tuple[Callable, Callable, Callable]:
    """Supervised training of one teacher on its own classes.

    The arguments are described by `Parts`.

    Returns:
      ``init(key) -> TeacherState``;
      ``epoch(bank, (key, class_ids [W], state)) -> (state, EpochInfo)``;
      ``evaluate(bank, (class_ids, variables)) -> accuracy [0, 1]`` on the images that
      training leaves out.

    Raises:
      ValueError: the batch is larger than the training set.
    """
    parts = Parts(
        *(network, optimizer, images_per_class, batch_size, flip, momentum),
        train_fraction=train_fraction,
    )
    if batch_size > parts.num_images:
        raise ValueError(
            f"batch_size={batch_size} exceeds the {parts.num_images} training images "
            "of a teacher"
        )
    return (
        functools.partial(init, parts),
        functools.partial(epoch, parts),
        functools.partial(evaluate, parts),
    )
