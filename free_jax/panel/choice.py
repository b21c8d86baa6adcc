"""Which teachers of a panel to listen to."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from free_jax.fewshot import heads
from free_jax.panel import ragged
from free_jax.types import Answers


def best_teachers(
    head: heads.Head,
    *,
    way: int,
    columns: Int[np.ndarray, " t_plus_1"],
    keep: int,
) -> heads.Head:
    """A head on the few teachers that separate the support classes best.

    A teacher is rated by the scatter of its answers between the class means of the
    support set, less what the scatter within the classes would cause by chance (zero
    for one image a class, where it cannot be known).

    Args:
      head: works on descriptions of all teachers; sees zeros for those left out.
      way: classes of an episode.
      columns: [T + 1]; teacher ``t`` owns ``descriptions[:, columns[t]:columns[t+1]]``.
      keep: teachers that count, at most T.

    Returns:
      A head.

    Raises:
      ValueError: `keep` is not between 1 and T.
    """
    num_teachers = len(columns) - 1
    if not 1 <= keep <= num_teachers:
        raise ValueError(f"keep={keep} must be between 1 and {num_teachers} teachers")

    def run(support: jax.Array, labels: jax.Array, queries: jax.Array) -> jax.Array:
        owners = ragged.owners_of(columns, support.shape[-1])
        members = jax.nn.one_hot(labels, way)
        shots = members.sum(0)
        means = (members / shots).T @ support  # [way, C]
        between = jnp.square(means - means.mean(0)).sum(0) / (way - 1)
        between = jax.ops.segment_sum(between, owners, num_teachers)
        apart = jnp.square(support - means[labels]).sum(0)
        apart = jax.ops.segment_sum(apart, owners, num_teachers)
        # One image a class has no scatter: 0 / 0 is meant to be 0.
        within = apart / jnp.maximum(support.shape[0] - way, 1)
        rating = between - within / shots.mean()
        chosen = jax.lax.top_k(rating, keep)[1]
        mask = jnp.zeros(num_teachers).at[chosen].set(1.0)
        mask = mask[owners]
        return head(support * mask, labels, queries * mask)

    return run


def centrality(answers: Answers) -> Float[np.ndarray, " t"]:
    """How much each teacher's view of images resembles that of all the others.

    Linear centred kernel alignment between a teacher's answers and the other teachers'
    answers together, in [0, 1]; classes need not be shared, nor images be real.

    Args:
      answers: of each teacher about each image, e.g. `tempered` logits.

    Reference:
      Kornblith et al., "Similarity of Neural Network Representations Revisited", ICML
      2019.
    """
    said = np.ascontiguousarray(answers.logits, np.float64)
    said = said - said.mean(0)
    order, parts = [], []
    for teachers, outputs in ragged.by_width(answers.columns):
        rows = ragged.side_by_side(said, outputs)
        order.append(teachers)
        parts.append(np.einsum("itw,jtw->tij", rows, rows))
    # One number of classes: the array as it is, whose memory order decides the bits.
    kernels = parts[0]
    if len(parts) > 1:
        kernels = np.concatenate(parts)[np.argsort(np.concatenate(order))]
    others = kernels.sum(0) - kernels
    length = np.linalg.norm(kernels, axis=(1, 2)) * np.linalg.norm(others, axis=(1, 2))
    return (kernels * others).sum((1, 2)) / np.maximum(length, 1e-12)
