"""How a model that was distilled from a panel classifies an episode."""

import jax
import jax.numpy as jnp

from free_jax import distilled, evaluation, heads, metalearning
from free_jax.architecture import Architecture
from free_jax.evaluation import Classify
from free_jax.types import Episode, PyTree


def methods(
    student: Architecture,
    *,
    way: int,
    learner: metalearning.MetaLearner,
    head_scale: float,
) -> dict[str, Classify]:
    """Few-shot methods on one distilled model, the headline first.

    Args:
      student: one trunk, a head for each teacher; its variables are calibrated, see
        `distilled.calibrate`.
      way: classes of an episode.
      learner: adapts the trunk and a new head of `way` outputs by gradient.
      head_scale: the new head starts as nearest class mean of support features, with
        logits of about this size; 0 starts it from zeros.
    """

    def describe(variables: PyTree, images: jax.Array) -> jax.Array:
        return distilled.describe(student, variables, images)

    def adapted(variables: PyTree, episode: Episode) -> dict[str, jax.Array]:
        params = variables["params"]
        head = jax.tree.map(lambda x: jnp.zeros((*x.shape[:-1], way)), params["head"])
        if head_scale:
            features = student.apply(
                variables, episode.support_images, norm="batch", features=True
            )
            head = heads.dense_centroids(
                features, episode.support_labels, way, head_scale
            )
        adapted = learner.adapt(
            {**params, "head": head}, episode.support_images, episode.support_labels
        )
        return {
            "transductive": learner.predict(adapted, episode.query_images),
            "inductive": learner.predict(adapted, episode.query_images, norm="running"),
        }

    ridge = heads.ridge(way)
    rounds = heads.centered(heads.transductive_centroids(way), "episode")
    return {
        "panel distilled, centroids": evaluation.centroid_classifier(way, describe),
        "panel distilled, ridge / rounds": evaluation.head_classifier(
            describe, heads.centered(ridge, "none"), rounds
        ),
        "panel distilled, adapted by gradient": adapted,
    }
