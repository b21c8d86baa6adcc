"""Training teachers, many at once: one teacher's epoch, written to be mapped."""

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


def teacher_trainer(
    arch: Network,
    optimizer: optax.GradientTransformation,
    *,
    images_per_class: int,
    batch_size: int = 128,
    flip: bool = True,
    momentum: float = 0.9,
) -> tuple[Callable, Callable, Callable]:
    """Supervised training of one teacher on its own classes.

    Args:
      arch: the network.
      optimizer: clip and schedule included.
      images_per_class: training images of each class (the first ones of the bank).
      batch_size: the remainder of an epoch that does not fill a batch is left out.
      flip: mirror each image half of the time.
      momentum: of the running batch-norm statistics (PyTorch's 0.1 is 0.9 here; the
        running variance is the biased one, PyTorch's is unbiased).

    Returns:
      ``init(key) -> TeacherState``;
      ``epoch(bank, (key, class_ids [W], state)) -> (state, EpochInfo)``;
      ``evaluate(bank, (class_ids, variables)) -> accuracy [0, 1]`` on the images that
      training leaves out.

    Raises:
      ValueError: the batch is larger than the training set.
    """
    way = arch.num_classes
    total = way * images_per_class
    if batch_size > total:
        raise ValueError(
            f"batch_size={batch_size} exceeds the {total} training images of a teacher"
        )
    num_batches = total // batch_size

    def init(key: Key[Array, ""]) -> TeacherState:
        variables = arch.init(key)
        return TeacherState(variables, optimizer.init(variables["params"]))

    def loss_fn(params: PyTree, images: jax.Array, labels: jax.Array):
        logits, moments = arch.apply_with_moments(
            {"params": params}, images, norm="batch"
        )
        loss = objectives.cross_entropy(logits, labels)
        return loss, (moments, objectives.accuracy(logits, labels))

    update = supervised_step(loss_fn, optimizer, momentum)

    def epoch(
        bank: ImageBank, task: tuple[jax.Array, Int[Array, " way"], TeacherState]
    ) -> tuple[TeacherState, EpochInfo]:
        key, class_ids, state = task
        key_order, key_flip = jax.random.split(key)
        order = jax.random.permutation(key_order, total)[: num_batches * batch_size]
        flips = jax.random.bernoulli(key_flip, shape=(num_batches, batch_size))

        def batch(rows: jax.Array, flipped: jax.Array):
            labels = (rows // images_per_class).astype(jnp.int32)
            images = bank.images[class_ids[labels], rows % images_per_class]
            images = to_float(images)
            if flip:
                images = jnp.where(
                    flipped[:, None, None, None], images[:, :, ::-1], images
                )
            return images, labels

        def step(state: TeacherState, inputs):
            variables, opt, loss, accuracy = update(
                state.variables, state.opt, batch(*inputs)
            )
            return TeacherState(variables, opt), EpochInfo(loss, accuracy)

        rows = order.reshape(num_batches, batch_size)
        state, infos = jax.lax.scan(step, state, (rows, flips))
        return state, jax.tree.map(jnp.mean, infos)

    def evaluate(
        bank: ImageBank, task: tuple[Int[Array, " way"], PyTree]
    ) -> Float[Array, ""]:
        """Accuracy on the rows of each class that training leaves out."""
        class_ids, variables = task
        images = bank.images[class_ids]  # [W, M, h, w, c]
        counts = bank.counts[class_ids]

        def one(images: jax.Array, label: jax.Array) -> jax.Array:
            logits = arch.apply(variables, to_float(images))
            return (logits.argmax(-1) == label).astype(jnp.float32)

        held_out = images[:, images_per_class:]
        rows = jnp.arange(images_per_class, images.shape[1])
        valid = rows < counts[:, None]
        # One class after the other bounds the memory of wide zoos.
        right = jax.lax.map(lambda x: one(*x), (held_out, jnp.arange(way)))
        return (right * valid).sum() / jnp.maximum(valid.sum(), 1)

    return init, epoch, evaluate
