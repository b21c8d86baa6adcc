"""The inversion loop, for images from any source and any objective."""

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, Key

from free_jax import augment, objectives
from free_jax.inversion.objective import Adversary, ObjectiveGradient
from free_jax.inversion.sources import Source
from free_jax.types import PyTree, Recovered, Teachers
from free_jax.zoo.network import Network

MetaGradient = Literal["last", "sum", "reptile"]


class InversionInfo(NamedTuple):
    """Diagnostics of one teacher's inversion.

    Attributes:
      loss: [K] total loss at each step, before that step's update.
      cross_entropy: [K] its cross-entropy part, unweighted.
      teacher_accuracy: [] share of the returned (unaugmented) images that the teacher
        gives the wanted label.
      is_finite: [] whether every loss was finite.
      queries: [] int32 images that the teacher was asked about, exactly.
    """

    loss: jax.Array
    cross_entropy: jax.Array
    teacher_accuracy: jax.Array
    is_finite: jax.Array
    queries: jax.Array


class Inverter(NamedTuple):
    """Pure functions that recover the training task of one teacher.

    Attributes:
      init: ``key -> shared``: the meta-generator's parameters, or ``()``.
      invert: ``(key, shared, teacher, labels [N], adversary=None) -> (Recovered,
        InversionInfo, gradient like shared)``, for one teacher.
    """

    init: Callable[..., PyTree]
    invert: Callable[..., tuple[Recovered, InversionInfo, PyTree]]


def inverter(
    source: Source,
    objective_gradient: ObjectiveGradient,
    teacher: Network,
    *,
    optimizer: optax.GradientTransformation,
    num_steps: int,
    meta_gradient: MetaGradient = "last",
    queries_per_image: int = 1,
    keep: Literal["last", "best"] = "last",
) -> Inverter:
    """Composes an inversion from its parts.

    Args:
      source: what is adapted and how it becomes images.
      objective_gradient: the loss of the images and its gradient.
      teacher: architecture that all teachers given to ``invert`` share.
      optimizer: applied to the source's leaves.
      num_steps: K, at least 1.
      meta_gradient: the shared part's gradient at the "last" step (FREE's released
        code), the "sum" over all steps (Fast-Datafree), or "reptile", the way back
        from the adapted parameters to the shared ones, which suits many steps.
      queries_per_image: images that the teacher sees, for the gradient of one image.
      keep: return the images of the last step (FREE) or of the lowest loss.

    Returns:
      An `Inverter`.

    Raises:
      ValueError: a number is out of range, or an option is unknown.
    """
    if num_steps < 1:
        raise ValueError(f"num_steps={num_steps} must be at least 1")
    if meta_gradient not in ("last", "sum", "reptile") or keep not in ("last", "best"):
        raise ValueError(
            f"meta_gradient={meta_gradient!r} must be 'last', 'sum' or 'reptile' and "
            f"keep={keep!r} must be 'last' or 'best'"
        )

    # Reptile needs the last loss but not its gradient, whose queries are never made:
    # what nothing depends on is left out of a compiled program.
    last = 1 if meta_gradient == "reptile" else queries_per_image
    # One more an image is for `teacher_accuracy`.
    asked = (num_steps - 1) * queries_per_image + last + 1

    def invert(
        key: Key[Array, ""],
        shared: PyTree,
        teachers: Teachers,
        labels: Int[Array, " n"],
        adversary: Adversary | None = None,
    ) -> tuple[Recovered, InversionInfo, PyTree]:
        key_start, key_steps = jax.random.split(key)
        step_keys = jax.random.split(key_steps, num_steps)
        leaves = source.start(key_start, shared, labels)

        def value_and_grad(leaves, step_key):
            images, pull_back = jax.vjp(lambda x: source.render(x, labels), leaves)
            loss, ce, gradient = objective_gradient(
                step_key, images, labels, teachers, adversary
            )
            return loss, ce, images, pull_back(gradient)[0]

        def better(best, loss, images):
            if keep == "last":
                return loss, images
            return jax.tree.map(
                lambda old, new: jnp.where(loss < best[0], new, old),
                best,
                (loss, images),
            )

        def step(carry, step_key):
            leaves, opt_state, total, best = carry
            loss, ce, images, grads = value_and_grad(leaves, step_key)
            if meta_gradient == "sum":
                total = jax.tree.map(jnp.add, total, source.shared_part(grads))
            if keep == "best":
                best = better(best, loss, images)
            updates, opt_state = optimizer.update(grads, opt_state, leaves)
            leaves = optax.apply_updates(leaves, updates)
            return (leaves, opt_state, total, best), (loss, ce)

        # Nothing is carried that the options do not need: None is an empty pytree.
        total = jax.tree.map(jnp.zeros_like, shared) if meta_gradient == "sum" else None
        shape = (labels.shape[0], *source.image_shape)
        best = (jnp.inf, jnp.zeros(shape)) if keep == "best" else None
        carry = (leaves, optimizer.init(leaves), total, best)
        # The last gradient is the meta-gradient and its images are returned, so its
        # update is never made: K - 1 steps in the loop, one evaluation after it.
        carry, (losses, ces) = jax.lax.scan(step, carry, step_keys[:-1])
        leaves, _, total, best = carry
        loss, ce, images, grads = value_and_grad(leaves, step_keys[-1])
        gradient = source.shared_part(grads)
        if meta_gradient == "sum":
            gradient = jax.tree.map(jnp.add, total, gradient)
        elif meta_gradient == "reptile":
            adapted = source.shared_part(leaves)
            gradient = jax.tree.map(jnp.subtract, shared, adapted)
        _, images = better(best, loss, images)
        losses = jnp.append(losses, loss)
        logits = teacher.apply(
            teachers.variables, augment.fit_to(images, teacher.image_shape)
        )
        info = InversionInfo(
            loss=losses,
            cross_entropy=jnp.append(ces, ce),
            teacher_accuracy=objectives.accuracy(logits, labels),
            is_finite=jnp.isfinite(losses).all(),
            queries=jnp.int32(labels.shape[0] * asked),
        )
        return Recovered(images, labels, teachers.class_ids), info, gradient

    return Inverter(source.init, invert)
