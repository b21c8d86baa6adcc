"""Few-shot classifiers on what a panel, or a model distilled from it, tells."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from free_jax.fewshot import evaluation, heads
from free_jax.fewshot.evaluation import Classify
from free_jax.panel import model as distilled
from free_jax.panel import ragged
from free_jax.types import Episode, PyTree
from free_jax.zoo.network import Network


def methods(
    student: Network,
    *,
    way: int,
    num_steps: int,
    learning_rate: float,
    head_scale: float,
) -> dict[str, Classify]:
    """Few-shot methods on one distilled model, the headline first.

    Args:
      student: one trunk, a head for each teacher; its variables are those of
        `panel.model.fit_statistics`.
      way: classes of an episode.
      num_steps: of adaptation by gradient, see `distilled.adapt`.
      learning_rate: of adaptation.
      head_scale: of the adapted classifier's logits.
    """

    def embed(variables: PyTree, images: jax.Array) -> jax.Array:
        return distilled.embed(student, variables, images)

    by_episode = heads.centered(heads.nearest_centroid(way), "episode")
    ridge = heads.ridge(way)
    soft_kmeans = heads.centered(heads.soft_kmeans(way), "episode")

    def adapted(variables: PyTree, episode: Episode) -> dict[str, jax.Array]:
        support, labels = episode.support_images, episode.support_labels
        adapted = distilled.adapt(
            student,
            variables,
            support,
            labels,
            way=way,
            num_steps=num_steps,
            learning_rate=learning_rate,
            scale=head_scale,
        )
        said = embed(adapted.variables, support)
        queries = embed(adapted.variables, episode.query_images)
        # A mean of all queries shifts descriptions away from what the kernel was fitted
        # to, so that there the support set's means stand in for it.
        return {
            "transductive": by_episode(said, labels, queries),
            "inductive": distilled.classify(student, adapted, episode.query_images),
        }

    return {
        "panel distilled, centroids": evaluation.centroid_classifier(way, embed),
        "panel distilled, ridge / soft k-means": evaluation.head_classifier(
            embed, heads.centered(ridge, "none"), soft_kmeans
        ),
        "panel distilled, adapted by gradient": adapted,
    }


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
      head: works on embeddings by all teachers; sees zeros for those left out.
      way: classes of an episode.
      columns: [T + 1]; teacher ``t`` owns ``embeddings[:, columns[t]:columns[t+1]]``.
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
