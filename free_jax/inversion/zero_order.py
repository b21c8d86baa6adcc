"""Gradients of black boxes: directions, differences, and what is made of them.

The loss is measured along random directions u on the unit sphere of a d-dimensional
space of images; with q directions and a step mu the estimate is

    g = (d / q) * sum_k u_k * (loss(x + mu u_k) - loss(x)) / mu.

It is unbiased for linear losses, and its cosine to the true gradient is about
sqrt(q / (q + d)): 0.18 for q = 100 of the 3072 pixels of a 32 x 32 image, 0.60 for the
low frequencies below 8 x 8, if the gradient lies among them.
"""

import functools
from collections.abc import Callable
from typing import Annotated, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key

from free_jax import augment, objectives
from free_jax.fewshot.learners import batch_apply
from free_jax.inversion.objective import (
    Adversary,
    Objective,
    ObjectiveGradient,
    check_objective,
    view,
)
from free_jax.options import AtLeast, Positive
from free_jax.types import PyTree, Teachers
from free_jax.zoo.network import Network


class Estimator(NamedTuple):
    """How a gradient is estimated; the defaults are BiDf-MKD's released ones.

    Attributes:
      num_directions: q, of each image at each step.
      smoothing: mu, length of a perturbation of the normalised image.
      frequencies: 0 draws directions among all pixels; k > 0 among the k * k lowest
        frequencies of each colour, so that d falls from h * w * c to k * k * c.
      antithetic: difference of both ends of a direction, at twice the queries; exact
        on quadratics too, and less noisy where answers are coarse.
      at_once: directions asked about in one batch; changes memory, not the result.
      teachers: whose gradients are estimated: of "all", although some may give theirs;
        of those "without_gradients", while the others are differentiated; of "none",
        all being differentiated, which is `Recipe.estimator` None for configs.
    """

    num_directions: Annotated[int, AtLeast(1)] = 100
    smoothing: Annotated[float, Positive()] = 0.005
    frequencies: Annotated[int, AtLeast(0)] = 0
    antithetic: bool = False
    at_once: Annotated[int, AtLeast(1)] = 20
    teachers: Literal["all", "without_gradients", "none"] = "all"

    @property
    def queries(self) -> int:
        """Images that the teacher is asked about, for the gradient of one image."""
        return 1 + self.num_directions * (2 if self.antithetic else 1)


def estimator_of(estimator: Estimator | None, teacher: Network) -> Estimator | None:
    """The estimator of a network's gradients; None where it is differentiated."""
    if estimator is None or estimator.teachers == "none":
        return None
    needed = estimator.teachers == "all" or "gradients" not in teacher.gives
    return estimator if needed else None


def check(estimator: Estimator) -> None:
    """Raises ValueError for numbers out of range."""
    if estimator.num_directions < 1 or estimator.at_once < 1:
        raise ValueError(
            f"num_directions={estimator.num_directions} and at_once="
            f"{estimator.at_once} must be at least 1"
        )
    if estimator.smoothing <= 0 or estimator.frequencies < 0:
        raise ValueError(
            f"smoothing={estimator.smoothing} must be positive and frequencies="
            f"{estimator.frequencies} not negative"
        )


def cosines(size: int, count: int) -> Float[Array, "size count"]:
    """The lowest `count` cosines on `size` points, orthonormal (DCT-II)."""
    points = (jnp.arange(size)[:, None] + 0.5) * jnp.arange(count) * jnp.pi / size
    columns = jnp.cos(points)
    return columns / jnp.linalg.norm(columns, axis=0)


def estimate(
    key: Key[Array, ""],
    loss_fn: Callable[[jax.Array], tuple[jax.Array, PyTree]],
    images: Float[Array, "n h w c"],
    estimator: Estimator,
) -> tuple[PyTree, Float[Array, "n h w c"]]:
    """Answers about images and estimated gradients, each image by itself.

    Args:
      key: consumed once; every direction has a key of its own.
      loss_fn: ``[k, n, h, w, c] -> (losses [k, n], answers [k, n, ...])``; each of
        them depends on its own image only.
      images: where gradients are wanted.
      estimator: how.

    Returns:
      The answers [n, ...] about the images, and the gradients of each one's own loss.
    """
    shape = images.shape
    n, h, w, c = shape
    grid = (h, w, c)
    k = estimator.frequencies
    if k:
        grid = (min(k, h), min(k, w), c)
        down, across = cosines(h, grid[0]), cosines(w, grid[1])
    dimension = grid[0] * grid[1] * c

    def direction(key: jax.Array) -> jax.Array:
        u = jax.random.normal(key, (n, *grid), images.dtype)
        u /= jnp.sqrt(jnp.square(u).sum((1, 2, 3), keepdims=True))
        if not k:
            return u
        return jnp.einsum(
            "iy,jx,nyxc->nijc", down, across, u, precision="highest", optimize=True
        )

    base, answers = jax.tree.map(lambda x: x[0], loss_fn(images[None]))
    mu, count = estimator.smoothing, estimator.num_directions

    def add(total: jax.Array, keys: jax.Array) -> tuple[jax.Array, None]:
        u = jax.vmap(direction)(keys)  # [k, n, h, w, c]
        if estimator.antithetic:
            ends, _ = loss_fn(jnp.concatenate([images + mu * u, images - mu * u]))
            slopes = (ends[: len(keys)] - ends[len(keys) :]) / (2 * mu)
        else:
            slopes = (loss_fn(images + mu * u)[0] - base) / mu
        return total + jnp.einsum(
            "kn,knhwc->nhwc", slopes, u, precision="highest"
        ), None

    at_once = min(estimator.at_once, count)
    while count % at_once:  # Equal chunks: one shape, one compilation.
        at_once -= 1
    keys = jax.random.split(key, count).reshape(-1, at_once)
    total, _ = jax.lax.scan(add, jnp.zeros_like(images), keys)
    return answers, total * (dimension / count)


class Parts(NamedTuple):
    """What the gradient of a black box is made of; the arguments of `zero_order`.

    Attributes:
      objective: weights of the losses; ``moments`` must be 0.
      teacher: what all teachers share; only ``apply`` is used.
      student: architecture of the adversary; None leaves that term out.
      estimator: of the gradient.
      respond: what of its logits the teacher gives, see `inversion.answers`.
    """

    objective: Objective
    teacher: Network
    student: Network | None
    estimator: Estimator
    respond: Callable[[jax.Array], jax.Array]


def zero_order(
    objective: Objective,
    teacher: Network,
    student: Network | None = None,
    *,
    estimator: Estimator = Estimator(),
    respond: Callable[[jax.Array], jax.Array] = lambda logits: logits,
) -> ObjectiveGradient:
    """The objective's gradient from `Estimator.queries` answers an image.

    The student, the augmentation and the smoothness prior are ours and are
    differentiated.  Within the estimate the student's answer is that at the
    unperturbed image, and who agrees is decided anew at each perturbed one, as in the
    released code.  The arguments are described by `Parts`.

    Raises:
      ValueError: a number is out of range, or an option needs more than answers.

    Reference:
      Hu et al., "Learning to Learn from APIs: Black-Box Data-Free Meta-Learning",
      ICML 2023.
    """
    parts = Parts(objective, teacher, student, estimator, respond)
    _check_parts(parts)
    return functools.partial(objective_gradient, parts)


def _check_parts(parts: Parts) -> None:
    """Refuses numbers out of range and losses that need more than answers."""
    objective = parts.objective
    check(parts.estimator)
    check_objective(objective)
    if objective.moments:
        raise ValueError(
            f"moments={objective.moments}: a black box gives no batch-norm statistics; "
            "use 0"
        )
    if objective.l2 or objective.variation != "mean":
        raise ValueError(
            f"l2={objective.l2} and variation={objective.variation!r} are PURER's "
            "priors, written for differentiable teachers; use 0 and 'mean'"
        )


def objective_gradient(
    parts: Parts,
    key: Key[Array, ""],
    images: Float[Array, "n h w c"],
    labels: Int[Array, " n"],
    teachers: Teachers,
    adversary: Adversary | None,
) -> tuple[Float[Array, ""], Float[Array, ""], Float[Array, "n h w c"]]:
    """Loss, its cross-entropy and its estimated gradient, see `ObjectiveGradient`."""
    objective, teacher = parts.objective, parts.teacher
    if parts.student is None or not objective.adversarial:
        adversary = None
    key_view, key_directions = jax.random.split(key)
    (views, seen), pull_back = jax.vjp(
        lambda x: view(key_view, x, objective, teacher), images
    )
    student_logits = _student_logits(parts, views, adversary)
    scale = jnp.asarray(teacher.std)

    def ask(perturbed):  # [k, n, h, w, c], normalised
        flat = (perturbed * scale).reshape(-1, *perturbed.shape[2:])
        answers = parts.respond(teacher.apply(teachers.variables, flat))
        answers = answers.reshape(*perturbed.shape[:2], -1)
        losses = jax.vmap(
            lambda a: image_losses(objective, a, student_logits, labels, adversary)
        )(answers)
        return losses, answers

    # Divided by the deviation, so that a step has its length after normalisation.
    answers, gradient = estimate(key_directions, ask, seen / scale, parts.estimator)
    gradient = gradient / scale / labels.shape[0]
    exact = jax.grad(lambda x: exact_loss(parts, x, answers, labels, adversary))(views)
    ce = objectives.cross_entropy(answers, labels)
    loss = image_losses(objective, answers, student_logits, labels, adversary).mean()
    if objective.total_variation:
        loss += objective.total_variation * objectives.total_variation(views)
    return loss, ce, pull_back((exact, gradient))[0]


def image_losses(
    objective: Objective,
    answers: Float[Array, "n way"],
    student_logits: Float[Array, "n way"] | None,
    labels: Int[Array, " n"],
    adversary: Adversary | None,
) -> Float[Array, " n"]:
    """Each image's loss by the teacher's answer, without the smoothness prior."""
    ce = optax.softmax_cross_entropy_with_integer_labels(answers, labels)
    loss = objective.cross_entropy * ce
    if adversary is not None and student_logits is not None:
        weight = adversary.weight * objective.adversarial
        loss += weight * objectives.agreement_rows(
            student_logits, answers, objective.agreement
        )
    return loss


def exact_loss(
    parts: Parts,
    views: Float[Array, "n h w c"],
    answers: Float[Array, "n way"],
    labels: Int[Array, " n"],
    adversary: Adversary | None,
) -> Float[Array, ""]:
    """The terms that are differentiated: they need no further query."""
    objective, loss = parts.objective, jnp.zeros(())
    if objective.total_variation:
        loss += objective.total_variation * objectives.total_variation(views)
    if adversary is not None and objective.student_gradient:
        student_logits = _student_logits(parts, views, adversary)
        loss += image_losses(
            objective, answers, student_logits, labels, adversary
        ).mean()
    return loss


def _student_logits(
    parts: Parts, views: jax.Array, adversary: Adversary | None
) -> jax.Array | None:
    """The adversary's outputs for views of any size; None without one."""
    if parts.student is None or adversary is None:
        return None
    fitted = augment.fit_to(views, parts.student.image_shape)
    return batch_apply(parts.student, adversary.params, fitted)
