"""Panel distillation: what ALL teachers say about recovered images, in one model.

The student has one trunk and one head per teacher.  Each recovered image, whichever
teacher it came from, was described by every teacher beforehand; a step draws a batch
and lowers the tempered KL of every head to its teacher.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Key

from free_jax import augment, parallel
from free_jax.algorithm import Algorithm
from free_jax.fewshot import heads
from free_jax.fewshot.episodes import to_float
from free_jax.types import PyTree
from free_jax.zoo.network import Network
from free_jax.zoo.supervised import supervised_step


class Described(NamedTuple):
    """Recovered images and what each teacher says about them.

    Attributes:
      images: [N, h, w, c] uint8.
      logits: [N, T, W] float32, raw outputs of all teachers.
      weights: [T] float32, how far each teacher is trusted; 0 leaves it out.
      recovered: [N] bool, recovered from a teacher; False for scenes.
      natural: [N] bool, like real images: scenes, and what was recovered from scenes;
        False for what was recovered from noise.
    """

    images: jax.Array
    logits: jax.Array
    weights: jax.Array
    recovered: jax.Array
    natural: jax.Array


class DistillState(NamedTuple):
    """Step count, student variables (with running statistics), optimiser state."""

    step: jax.Array
    variables: PyTree
    opt: PyTree


class DistillInfo(NamedTuple):
    """Weighted KL a head, and how often head and teacher choose the same class."""

    distill_loss: jax.Array
    agreement: jax.Array
    is_finite: jax.Array


Mix = Literal["none", "mixup", "cutmix"]


def panel_distillation(
    student: Network,
    *,
    num_teachers: int,
    optimizer: optax.GradientTransformation,
    batch_size: int = 128,
    groups: int = 1,
    temperature: float = 4.0,
    crop_padding: int = 4,
    edges: augment.Edges = "black",
    flip: bool = True,
    mix: Mix = "none",
    similarity: float = 0.0,
    momentum: float = 0.95,
    map_tasks: Callable = parallel.map_tasks,
) -> Algorithm:
    """Builds the distillation of a whole panel.

    Args:
      student: has ``num_teachers * way`` outputs, teacher by teacher.
      num_teachers: T.
      optimizer: of the student.
      batch_size: images a step, drawn with replacement.
      groups: equal parts of a batch that are normalised each by itself, the unit that
        `map_tasks` splits over devices.  It is independent of their number, so that
        results are.
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
      map_tasks: see `parallel.map_tasks`.

    Returns:
      An `Algorithm` whose data is a `Described`; its model has Linen variables
      ``{"params", "batch_stats"}``, to be calibrated by `distilled.calibrate`.

    Raises:
      ValueError: the outputs do not divide over the teachers, or an option is unknown.
    """
    if student.num_classes % num_teachers:
        raise ValueError(
            f"{student.num_classes} outputs do not divide over {num_teachers} teachers"
        )
    if mix not in ("none", "mixup", "cutmix"):
        raise ValueError(f"mix={mix!r}: choose none, mixup or cutmix")
    if temperature <= 0:
        raise ValueError(f"temperature={temperature} must be positive")
    if groups < 1 or batch_size % groups:
        raise ValueError(f"groups={groups} must divide batch_size={batch_size}")

    def init(key: Key[Array, ""]) -> DistillState:
        variables = student.init(key)
        opt = optimizer.init(variables["params"])
        return DistillState(jnp.int32(0), variables, opt)

    def loss_fn(params, images, targets, weights):
        features, moments = student.apply_with_moments(
            {"params": params}, images, norm="batch", features=True
        )
        logits = student.head(params, features)
        log_s = jax.nn.log_softmax(logits.reshape(targets.shape) / temperature)
        # Entropy of the targets is added so that a perfect student scores zero.
        rows = jax.scipy.special.xlogy(targets, targets) - targets * log_s
        loss = (rows.sum(-1) * weights).sum(-1).mean() / weights.sum()
        if similarity:
            said = (targets - targets.mean(-1, keepdims=True)) * weights[:, None]
            wanted = _similarities(said.reshape(said.shape[0], -1))
            loss += similarity * jnp.square(_similarities(features) - wanted).mean()
        same = (log_s.argmax(-1) == targets.argmax(-1)).astype(jnp.float32)
        return loss, (moments, (same * weights).sum(-1).mean() / weights.sum())

    update = supervised_step(
        loss_fn, optimizer, momentum, groups=groups, map_tasks=map_tasks
    )

    def step(
        key: Key[Array, ""], state: DistillState, data: Described
    ) -> tuple[DistillState, DistillInfo]:
        key_rows, key_views, key_mix = jax.random.split(key, 3)
        rows = jax.random.randint(key_rows, (batch_size,), 0, data.images.shape[0])
        images = augment.crop_flip(
            key_views,
            to_float(data.images[rows]),
            padding=crop_padding,
            edges=edges,
            flip=flip,
        )
        targets = jax.nn.softmax(data.logits[rows] / temperature)
        if mix != "none":
            images, targets = augment.mix_pairs(key_mix, images, targets, mix)
        variables, opt, loss, same = update(
            state.variables, state.opt, (images, targets), data.weights
        )
        new = DistillState(state.step + 1, variables, opt)
        return new, DistillInfo(loss, same, jnp.isfinite(loss))

    return Algorithm(init=init, step=step, model=lambda state: state.variables)


def _similarities(descriptions: Float[Array, "n d"]) -> Float[Array, "n n"]:
    """Cosines between all pairs, after subtracting the batch's mean."""
    rows = heads.unit(descriptions - descriptions.mean(0))
    return rows @ rows.T
