"""Losses: of recovered images under a teacher, and of a student against a teacher.

Where the released codes pass probabilities to a KL function that expects
log-probabilities, both forms exist: the proper one and "prob_dot", what that call
computes up to a constant (KLbad, docs/reference/released_codes.md).
"""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import optax
from flax import traverse_util
from jaxtyping import Array, Float, Int

from free_jax.types import PyTree

Distill = Literal["kl", "prob_dot"]
Agreement = Literal["kl", "prob_dot", "l1"]
AGREEMENTS = ("kl", "prob_dot", "l1")
Logits = Float[Array, "n way"]


def cross_entropy(logits: Logits, labels: Int[Array, " n"]) -> Float[Array, ""]:
    """Mean cross-entropy of integer labels."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def accuracy(logits: Logits, labels: Int[Array, " n"]) -> Float[Array, ""]:
    """Share of rows whose largest logit is the label, in [0, 1]."""
    return (logits.argmax(-1) == labels).mean()


def kl(student: Logits, teacher: Logits, temperature: float = 1.0) -> Float[Array, ""]:
    """KL(teacher || student) of tempered softmax outputs, mean over rows.

    Its gradient is (p_student - p_teacher) / (n * temperature).
    """
    log_s = jax.nn.log_softmax(student / temperature)
    log_t = jax.nn.log_softmax(teacher / temperature)
    return (jnp.exp(log_t) * (log_t - log_s)).sum(-1).mean()


def prob_dot(student: Logits, teacher: Logits) -> Float[Array, ""]:
    """The released codes' distillation loss: mean of p_t * (log p_t - p_s).

    25 to 57 times weaker than `kl` in gradient, and flat where the student is
    confidently wrong (KLbad, docs/reference/released_codes.md).
    """
    p_s, log_t = jax.nn.softmax(student), jax.nn.log_softmax(teacher)
    return (jnp.exp(log_t) * (log_t - p_s)).mean()


def distillation(form: Distill) -> Callable[[Logits, Logits], Float[Array, ""]]:
    """The distillation loss of that name, ``(student, teacher) -> scalar``.

    Raises:
      ValueError: the name is unknown.
    """
    losses = {"kl": kl, "prob_dot": prob_dot}
    if form not in losses:
        raise ValueError(f"distill={form!r} is not one of {sorted(losses)}")
    return losses[form]


def agreement_rows(
    student: Logits, teacher: Logits, form: Agreement
) -> Float[Array, " n"]:
    """How much student and teacher agree on each image.

    Only rows on which both predict the same class count, others are 0 (released code
    of FREE; BiDf-MKD's boundary support).

    Args:
      student: [n, way].
      teacher: [n, way].
      form: "kl" is -m_n KL(p_t || p_s), the form of Fast-Datafree; "prob_dot" is
        -m_n sum_c p_s (log p_s - p_t), FREE's released code; "l1" is
        -m_n sum_c |z_t - z_s| of the logits, BiDf-MKD's released code for black boxes.

    Returns:
      [n], to be minimised: an adversarial image makes it small.

    Raises:
      ValueError: the form is unknown.
    """
    same = (student.argmax(-1) == teacher.argmax(-1)).astype(teacher.dtype)
    p_t, p_s = jax.nn.softmax(teacher), jax.nn.softmax(student)
    log_t, log_s = jax.nn.log_softmax(teacher), jax.nn.log_softmax(student)
    if form == "prob_dot":
        rows = (p_s * (log_s - p_t)).sum(-1)
    elif form == "kl":
        rows = (p_t * (log_t - log_s)).sum(-1)
    elif form == "l1":
        rows = jnp.abs(teacher - student).sum(-1)
    else:
        raise ValueError(f"agreement={form!r}: choose one of {', '.join(AGREEMENTS)}")
    return -jax.lax.stop_gradient(same) * rows


def agreement(student: Logits, teacher: Logits, form: Agreement) -> Float[Array, ""]:
    """Mean over images of `agreement_rows`."""
    return agreement_rows(student, teacher, form).mean()


def moment_matching(
    moments: PyTree, batch_stats: PyTree, *, relative: bool = False
) -> Float[Array, ""]:
    """Distance of a batch's statistics from a teacher's running statistics.

    Sum over batch norms of ||mean - running mean||_2 + ||var - running var||_2
    (BNREG, docs/reference/released_codes.md), with a norm whose gradient is finite at
    zero.

    Args:
      moments: ``{..., "mean", "var"}`` of the batch, one pair a batch norm.
      batch_stats: the running ones, of the same structure.
      relative: in units of the running deviation and variance of each channel, so that
        the scale of a network's activations does not count.
    """
    if relative:
        moments, batch_stats = _in_units_of(batch_stats, moments, batch_stats)
    gaps = jax.tree.map(lambda a, b: norm(a - b), moments, batch_stats)
    return sum(jax.tree.leaves(gaps), start=jnp.zeros(()))


def _in_units_of(running: PyTree, *trees: PyTree) -> list[PyTree]:
    """Statistics divided by the running deviation (means) and variance (variances)."""
    units_of, *flat = (
        dict(traverse_util.flatten_dict(tree)) for tree in (running, *trees)
    )

    def units(path: tuple) -> jax.Array:
        # As batch norm keeps a channel that never varies from dividing by zero.
        variance = jnp.asarray(units_of[(*path[:-1], "var")]) + 1e-5
        return variance if path[-1] == "var" else jnp.sqrt(variance)

    return [
        traverse_util.unflatten_dict(
            {p: jnp.asarray(x) / units(p) for p, x in tree.items()}
        )
        for tree in flat
    ]


def norm(x: jax.Array) -> Float[Array, ""]:
    """Frobenius norm of a whole array, with a gradient that is finite at zero."""
    return jnp.sqrt(jnp.square(x).sum() + 1e-12)


def total_variation(images: Float[Array, "n h w c"]) -> Float[Array, ""]:
    """Mean absolute difference of neighbouring pixels, rows plus columns."""
    rows = jnp.abs(images[:, 1:] - images[:, :-1]).mean()
    columns = jnp.abs(images[:, :, 1:] - images[:, :, :-1]).mean()
    return rows + columns


def frobenius_variation(images: Float[Array, "n h w c"]) -> Float[Array, ""]:
    """Smoothness prior of DeepInversion and PURER.

    Sum of the Frobenius norms, over the whole batch, of the differences between
    neighbours along rows, columns and both diagonals (TV2,
    docs/reference/released_codes.md).
    """
    gaps = (
        images[:, :, 1:] - images[:, :, :-1],
        images[:, 1:] - images[:, :-1],
        images[:, 1:, :-1] - images[:, :-1, 1:],
        images[:, 1:, 1:] - images[:, :-1, :-1],
    )
    return sum((norm(gap) for gap in gaps), start=jnp.zeros(()))


def supervised_contrastive(
    features: Float[Array, "n d"], labels: Int[Array, " n"], temperature: float = 0.1
) -> Float[Array, ""]:
    """Pulls unit-length features of one class together and pushes others away.

    Mean over rows i of -mean_p log(exp(s_ip) / sum_{a != i} exp(s_ia)), where p runs
    over the other rows of i's class and s are cosines over the temperature; a row
    without such rows counts as zero.

    Reference:
      Khosla et al., "Supervised Contrastive Learning", NeurIPS 2020, equation 2.
    """
    squares = jnp.square(features).sum(-1, keepdims=True)
    rows = features * jax.lax.rsqrt(jnp.maximum(squares, 1e-12))
    itself = jnp.eye(rows.shape[0], dtype=bool)
    log_p = jax.nn.log_softmax(rows @ rows.T / temperature, where=~itself)
    same = (labels[:, None] == labels) & ~itself
    picked = jnp.where(same, log_p, 0.0).sum(-1)
    return -(picked / jnp.maximum(same.sum(-1), 1)).mean()
