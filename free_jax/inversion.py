"""FIVE: recover a teacher's training task with a meta-trained generator.

For each teacher a copy of the shared generator and fresh latents are adapted for a
few steps; the gradients at the end of those steps, summed over teachers, move the
shared generator (first-order meta-learning; FREE, CVPR 2024, section on FIVE).
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key

from free_jax import augment, objectives
from free_jax.architecture import Architecture
from free_jax.metalearning import batch_apply
from free_jax.models import Generator
from free_jax.types import PyTree, Recovered, Teachers


class Objective(NamedTuple):
    """Weights and forms of the inversion loss.

    Attributes:
      cross_entropy: weight of the teacher's cross-entropy on the wanted labels.
      moments: weight of matching the teacher's batch-norm statistics (0 in FREE's
        released code, 1 in TGR and Trustworthy-DFML).
      adversarial: weight of disagreeing with the student, used when one is given.
      total_variation: weight of the smoothness prior (none in the released code).
      agreement: "kl" or "prob_dot" (released code), see `objectives.agreement`.
      student_gradient: let the adversarial gradient pass through the student too;
        the released code does not.
      crop_padding: largest random shift in pixels before the teacher sees an image.
      augment_per_image: one crop and flip an image, or one a batch (released code).
    """

    cross_entropy: float = 1.0
    moments: float = 1.0
    adversarial: float = 1.0
    total_variation: float = 0.0
    agreement: objectives.Distill = "kl"
    student_gradient: bool = True
    crop_padding: int = 4
    augment_per_image: bool = True


class InversionInfo(NamedTuple):
    """Diagnostics of one teacher's inversion.

    Attributes:
      loss: [K] total loss at each step, before that step's update.
      cross_entropy: [K] its cross-entropy part, unweighted.
      teacher_accuracy: [] share of the returned (unaugmented) images that the teacher
        gives the wanted label.
      is_finite: [] whether every loss was finite.
    """

    loss: jax.Array
    cross_entropy: jax.Array
    teacher_accuracy: jax.Array
    is_finite: jax.Array


class MetaGenerator(NamedTuple):
    """Pure functions of the meta-trained generator.

    Attributes:
      init: ``key -> params``.
      invert: ``(key, params, teacher, labels [N], student_params=None,
        adversarial=1.0) -> (Recovered, InversionInfo, gradient like params)``, for
        one teacher; `adversarial` multiplies that term's weight and may be traced.
    """

    init: Callable[..., PyTree]
    invert: Callable[..., tuple[Recovered, InversionInfo, PyTree]]


def meta_generator(
    generator: Generator,
    teacher: Architecture,
    *,
    inner_optimizer: optax.GradientTransformation,
    objective: Objective = Objective(),
    student: Architecture | None = None,
    num_steps: int = 5,
    latent_dim: int = 256,
    meta_gradient: Literal["last", "sum"] = "last",
    keep: Literal["last", "best"] = "last",
) -> MetaGenerator:
    """Binds a generator to the teachers of one architecture.

    Args:
      generator: its images are resized to the teacher's size where they differ.
      teacher: what all teachers given to ``invert`` share.
      inner_optimizer: applied to ``{"generator": params, "latents": [N, d]}``.
      objective: weights of the losses.
      student: architecture of the adversary; None leaves that term out.
      num_steps: inner steps K (5 in the paper).
      latent_dim: d.
      meta_gradient: gradient of the adapted copy at the "last" step (released code
        of FREE) or the "sum" over all steps (Fast-Datafree).
      keep: return the images of the last step (FREE) or of the lowest loss.

    Returns:
      A `MetaGenerator`.

    Raises:
      ValueError: options that cannot be meant.

    Reference:
      Wei et al., "FREE: Faster and Better Data-Free Meta-Learning", CVPR 2024.
    """
    if num_steps < 1:
        raise ValueError(f"num_steps={num_steps} must be at least 1")
    if meta_gradient not in ("last", "sum") or keep not in ("last", "best"):
        raise ValueError(
            f"meta_gradient={meta_gradient!r} must be 'last' or 'sum' and "
            f"keep={keep!r} must be 'last' or 'best'"
        )
    if generator.num_classes not in (0, teacher.way):
        raise ValueError(
            f"the generator knows {generator.num_classes} labels but teachers are "
            f"{teacher.way}-way; use num_classes={teacher.way} or 0"
        )
    if any(size % 4 for size in generator.image_shape[:2]):
        raise ValueError(
            f"image_shape={generator.image_shape}: the generator's sides must be "
            "multiples of 4"
        )
    objectives.distillation(objective.agreement)

    def init(key: Key[Array, ""]) -> PyTree:
        latents = jnp.zeros((2, latent_dim))
        return generator.init(key, latents, jnp.zeros((2,), jnp.int32))["params"]

    def image_loss(key, images, teacher_variables, labels, student_params, adversarial):
        views = augment.crop_flip(
            key,
            images,
            padding=objective.crop_padding,
            per_image=objective.augment_per_image,
        )
        seen = augment.fit_to(views, teacher.image_shape)
        if objective.moments:
            logits, moments = teacher.apply_with_moments(teacher_variables, seen)
        else:
            logits = teacher.apply(teacher_variables, seen)
        ce = objectives.cross_entropy(logits, labels)
        loss = objective.cross_entropy * ce
        if objective.moments:
            loss += objective.moments * objectives.moment_matching(
                moments, teacher_variables["batch_stats"]
            )
        if objective.total_variation:
            loss += objective.total_variation * objectives.total_variation(views)
        if student is not None and student_params is not None and objective.adversarial:
            view = augment.fit_to(views, student.image_shape)
            student_logits = batch_apply(student, student_params, view)
            if not objective.student_gradient:
                student_logits = jax.lax.stop_gradient(student_logits)
            agreement = objectives.agreement(
                student_logits, logits, objective.agreement
            )
            loss += adversarial * objective.adversarial * agreement
        return loss, ce

    def invert(
        key: Key[Array, ""],
        params: PyTree,
        teachers: Teachers,
        labels: Int[Array, " n"],
        student_params: PyTree | None = None,
        adversarial: float | Float[Array, ""] = 1.0,
    ) -> tuple[Recovered, InversionInfo, PyTree]:
        key_latents, key_steps = jax.random.split(key)
        step_keys = jax.random.split(key_steps, num_steps)
        latents = jax.random.normal(key_latents, (labels.shape[0], latent_dim))

        def loss_fn(fast, step_key):
            images = generator.apply(
                {"params": fast["generator"]}, fast["latents"], labels
            )
            loss, ce = image_loss(
                step_key,
                images,
                teachers.variables,
                labels,
                student_params,
                adversarial,
            )
            return loss, (ce, images)

        grad_fn = jax.value_and_grad(loss_fn, has_aux=True)

        def better(best, loss, images):
            if keep == "last":
                return loss, images
            return jax.tree.map(
                lambda old, new: jnp.where(loss < best[0], new, old),
                best,
                (loss, images),
            )

        def step(carry, step_key):
            fast, opt_state, total, best = carry
            (loss, (ce, images)), grads = grad_fn(fast, step_key)
            if meta_gradient == "sum":
                total = jax.tree.map(jnp.add, total, grads["generator"])
            if keep == "best":
                best = better(best, loss, images)
            updates, opt_state = inner_optimizer.update(grads, opt_state, fast)
            fast = optax.apply_updates(fast, updates)
            return (fast, opt_state, total, best), (loss, ce)

        fast = {"generator": params, "latents": latents}
        # Nothing is carried that the options do not need: None is an empty pytree.
        total = jax.tree.map(jnp.zeros_like, params) if meta_gradient == "sum" else None
        shape = (labels.shape[0], *generator.image_shape)
        best = (jnp.inf, jnp.zeros(shape)) if keep == "best" else None
        carry = (fast, inner_optimizer.init(fast), total, best)
        # The last gradient is the meta-gradient and its images are returned, so its
        # update is never made: K - 1 steps in the loop, one evaluation after it.
        carry, (losses, ces) = jax.lax.scan(step, carry, step_keys[:-1])
        fast, _, total, best = carry
        (loss, (ce, images)), grads = grad_fn(fast, step_keys[-1])
        gradient = grads["generator"]
        if meta_gradient == "sum":
            gradient = jax.tree.map(jnp.add, total, gradient)
        _, images = better(best, loss, images)
        losses = jnp.append(losses, loss)
        info = InversionInfo(
            loss=losses,
            cross_entropy=jnp.append(ces, ce),
            teacher_accuracy=objectives.accuracy(
                teacher.apply(
                    teachers.variables, augment.fit_to(images, teacher.image_shape)
                ),
                labels,
            ),
            is_finite=jnp.isfinite(losses).all(),
        )
        return Recovered(images, labels, teachers.class_ids), info, gradient

    return MetaGenerator(init, invert)
