"""The loss of recovered images, and its gradient with respect to them."""

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
from jaxtyping import Array, Float, Int, Key

from free_jax import augment, objectives
from free_jax.fewshot.learners import batch_apply
from free_jax.types import PyTree, Teachers
from free_jax.zoo.network import Network


class Objective(NamedTuple):
    """Weights and forms of the inversion loss.

    Attributes:
      cross_entropy: weight of the teacher's cross-entropy on the wanted labels.
      moments: weight of matching the teacher's batch-norm statistics (0 in FREE's
        released code, 1 in TGR and Trustworthy-DFML).
      statistics: the distance from them: of means and variances as they are
        ("absolute", the released codes) or in units of each channel's running
        deviation and variance ("relative").
      balance: weigh `moments` by how many statistics a network has, so that deep ones
        do not drown the labels: 1 for a Conv4 of width 32, a twelfth for a ResNet-18
        (the released codes sum over all layers of all networks alike).
      adversarial: weight of disagreeing with the student, used when one is given.
      total_variation: weight of the smoothness prior (none in FREE's released code).
      variation: its form: "mean" absolute differences of images in [0, 1], or
        "frobenius" norms over the batch of normalised images (PURER's).
      l2: weight of the Frobenius norm of the normalised batch (PURER's).
      agreement: "kl", "prob_dot" (FREE's released code) or "l1" (BiDf-MKD's for black
        boxes), see `objectives.agreement_rows`.
      student_gradient: let the adversarial gradient pass through the student too;
        the released code does not.
      crop_padding: largest random shift in pixels before the teacher sees an image.
      augment_per_image: one crop and flip an image, or one a batch (released code).
      edges: what a shift brings in: "black" (released code) or "wrap", the opposite
        edge, which pixels of their own need.
      flip: mirror half of the time (PURER does not).
    """

    cross_entropy: float = 1.0
    moments: float = 1.0
    statistics: Literal["absolute", "relative"] = "absolute"
    balance: bool = False
    adversarial: float = 1.0
    total_variation: float = 0.0
    variation: Literal["mean", "frobenius"] = "mean"
    l2: float = 0.0
    agreement: objectives.Agreement = "kl"
    student_gradient: bool = True
    crop_padding: int = 4
    augment_per_image: bool = True
    edges: augment.Edges = "black"
    flip: bool = True


class Adversary(NamedTuple):
    """The student that recovered images should be new to.

    Attributes:
      params: of the student.
      weight: [] or float, multiplies `Objective.adversarial`; may be traced.
      stats: its running batch-norm statistics; None normalises by the batch, as a
        meta-model does.
    """

    params: PyTree
    weight: float | jax.Array = 1.0
    stats: PyTree | None = None


# ``(key, images [N, h, w, c], labels [N], one teacher, adversary or None) ->
# (loss, cross-entropy, gradient of the loss with respect to the images)``.
ObjectiveGradient = Callable[..., tuple[jax.Array, jax.Array, jax.Array]]
# Roots of channels, over the statistics of what the weights were measured with: four
# means and four variances of 32 channels.
_CONV4 = sum([32**0.5] * 8)


def check_objective(objective: Objective) -> None:
    """Raises ValueError for an unknown form of agreement, edges or variation."""
    if objective.agreement not in objectives.AGREEMENTS:
        raise ValueError(
            f"agreement={objective.agreement!r}: choose one of "
            f"{', '.join(objectives.AGREEMENTS)}"
        )
    if objective.edges not in ("black", "wrap"):
        raise ValueError(f"edges={objective.edges!r} must be 'black' or 'wrap'")
    if objective.statistics not in ("absolute", "relative"):
        raise ValueError(
            f"statistics={objective.statistics!r} must be 'absolute' or 'relative'"
        )
    if objective.variation not in ("mean", "frobenius"):
        raise ValueError(
            f"variation={objective.variation!r} must be 'mean' or 'frobenius'"
        )


def moments_weight(objective: Objective, teacher: Network) -> float:
    """What the distance of a network's batch-norm statistics is multiplied by.

    Each statistic of c channels adds a norm that grows as the root of c.
    """
    if not objective.balance or not objective.moments:
        return objective.moments
    stats = jax.tree.leaves(teacher.shapes["batch_stats"])
    size = sum(leaf.size**0.5 for leaf in stats)
    return objective.moments * _CONV4 / size


def view(
    key: Key[Array, ""],
    images: Float[Array, "n h w c"],
    objective: Objective,
    teacher: Network,
) -> tuple[Float[Array, "n h w c"], Float[Array, "n H W C"]]:
    """The images, cropped and mirrored, and these in the teacher's size."""
    views = augment.crop_flip(
        key,
        images,
        padding=objective.crop_padding,
        per_image=objective.augment_per_image,
        edges=objective.edges,
        flip=objective.flip,
    )
    return views, augment.fit_to(views, teacher.image_shape)


def _answers(student: Network, adversary: Adversary, views: jax.Array) -> jax.Array:
    if adversary.stats is None:
        return batch_apply(student, adversary.params, views)
    variables = {"params": adversary.params, "batch_stats": adversary.stats}
    return student.apply(variables, views)


def white_box(
    objective: Objective, teacher: Network, student: Network | None = None
) -> ObjectiveGradient:
    """The objective's gradient, differentiated through the teacher.

    Args:
      objective: weights of the losses.
      teacher: what all teachers share; images are resized to its size.
      student: architecture of the adversary; None leaves that term out.

    Returns:
      An `ObjectiveGradient`.

    Raises:
      ValueError: an unknown form of agreement, edges or variation.
      InputError: the teacher gives no gradients, or no moments where they have a
        weight.
    """
    check_objective(objective)
    teacher.check_gives(
        "gradients",
        "white-box inversion",
        "use zero-order inversion, or a panel with recover.images_per_class=0",
    )
    if objective.moments:
        teacher.check_gives("moments", "the objective", "set objective.moments=0")
    weight = moments_weight(objective, teacher)

    def prior(views):
        loss = 0.0
        if objective.total_variation and objective.variation == "mean":
            loss += objective.total_variation * objectives.total_variation(views)
        elif objective.total_variation:
            loss += objective.total_variation * objectives.frobenius_variation(
                teacher.normalize(views)
            )
        if objective.l2:
            loss += objective.l2 * objectives.norm(teacher.normalize(views))
        return loss

    def loss_fn(images, key, labels, variables, adversary):
        views, seen = view(key, images, objective, teacher)
        if objective.moments:
            logits, moments = teacher.apply_with_moments(variables, seen)
        else:
            logits = teacher.apply(variables, seen)
        ce = objectives.cross_entropy(logits, labels)
        loss = objective.cross_entropy * ce
        if objective.moments:
            loss += weight * objectives.moment_matching(
                moments,
                variables["batch_stats"],
                relative=objective.statistics == "relative",
            )
        loss += prior(views)
        if student is not None and adversary is not None and objective.adversarial:
            fitted = augment.fit_to(views, student.image_shape)
            student_logits = _answers(student, adversary, fitted)
            if not objective.student_gradient:
                student_logits = jax.lax.stop_gradient(student_logits)
            agreement = objectives.agreement(
                student_logits, logits, objective.agreement
            )
            loss += adversary.weight * objective.adversarial * agreement
        return loss, ce

    def gradient(
        key: Key[Array, ""],
        images: Float[Array, "n h w c"],
        labels: Int[Array, " n"],
        teachers: Teachers,
        adversary: Adversary | None,
    ) -> tuple[Float[Array, ""], Float[Array, ""], Float[Array, "n h w c"]]:
        (loss, ce), grads = jax.value_and_grad(loss_fn, has_aux=True)(
            images, key, labels, teachers.variables, adversary
        )
        return loss, ce, grads

    return gradient
