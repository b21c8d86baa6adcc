"""How a model that was distilled from a panel classifies an episode."""

import jax

from free_jax.fewshot import evaluation, heads
from free_jax.fewshot.evaluation import Classify
from free_jax.panel import model as distilled
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
