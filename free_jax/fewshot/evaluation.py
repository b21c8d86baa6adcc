"""Few-shot accuracy over many episodes, with its interval.

A *classifier* here is ``(variables, episode) -> {name: query logits}``; the names are
the protocols compared, e.g. "transductive" and "inductive".  Variables are Linen's
``{"params": ..., ...}``, as `Algorithm.model` gives and `load_model` returns them;
None where a classifier needs none.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from free_jax import images, objectives, parallel
from free_jax.fewshot import episodes, heads
from free_jax.fewshot.learners import MetaLearner
from free_jax.models.normalization import Norm
from free_jax.types import Episode, ImageBank, PyTree

Classify = Callable[[PyTree, Episode], dict[str, jax.Array]]
PROTOCOLS = ("transductive", "inductive")


class Accuracy(NamedTuple):
    """Accuracy over episodes, in percent.

    Attributes:
      mean: mean over episodes; nan where some have no figure.
      ci95: half width of its 95 % interval, 1.96 * std / sqrt(episodes); nan for one
        episode, which has none.
      per_episode: [E] float32; nan where a classifier's scores were not finite.
    """

    mean: float
    ci95: float
    per_episode: np.ndarray

    def __str__(self) -> str:
        return shown(self.mean, self.ci95, self.failed, self.per_episode.size)

    @property
    def failed(self) -> int:
        """Episodes without a figure, because scores were not finite."""
        return int(np.isnan(self.per_episode).sum())


def shown(mean: float, ci95: float, failed: int = 0, episodes: int = 0) -> str:
    """A figure and its interval, or why there is none.

    >>> shown(50.0, 1.234), shown(50.0, float("nan")), shown(float("nan"), 0.0, 3, 60)
    ('50.00 +- 1.23', '50.00', 'not finite in 3 of 60 episodes')
    """
    if failed:
        return f"not finite in {failed} of {episodes} episodes"
    return f"{mean:.2f}" + ("" if np.isnan(ci95) else f" +- {ci95:.2f}")


@dataclasses.dataclass(frozen=True)
class _Adapting:
    """See `learner_classifier`; a record, so that equal learners are equal here."""

    learner: MetaLearner

    @property
    def protocols(self) -> tuple[str, ...]:
        return PROTOCOLS if self.learner.sees_batches else ("inductive",)

    def __call__(self, variables: PyTree, episode: Episode) -> dict[str, jax.Array]:
        predict, queries = self.learner.predict, episode.query_images
        adapted = self.learner.adapt(
            variables["params"], episode.support_images, episode.support_labels
        )
        norms: dict[str, Norm] = {"transductive": "batch", "inductive": "running"}
        return {
            name: predict(adapted, queries, norm=norms[name]) for name in self.protocols
        }


def learner_classifier(learner: MetaLearner) -> Classify:
    """Adapts on the support set and predicts the queries.

    "transductive" normalises the queries by their own batch (as all published numbers
    of this field do); "inductive" by the support set's statistics, and the only figure
    of a network without batch norm.  Classifiers of one learner are equal, so that what
    was compiled for one serves the others.
    """
    return _Adapting(learner)


def protocols(classify: Classify) -> tuple[str, ...]:
    """The names of the logits that a classifier gives, of `PROTOCOLS`."""
    return getattr(classify, "protocols", PROTOCOLS)


def head_classifier(
    embed: Callable[[PyTree, jax.Array], jax.Array],
    inductive: heads.Head,
    transductive: heads.Head,
) -> Classify:
    """Embeds support and queries and leaves the rest to two heads.

    Args:
      embed: ``(variables, images [n, ...]) -> [n, d]``.
      inductive: head that treats each query alone, e.g. ``centered(head, "support")``.
      transductive: head that sees all queries, e.g. ``centered(head, "episode")``.
    """

    def classify(variables: PyTree, episode: Episode) -> dict[str, jax.Array]:
        support = embed(variables, episode.support_images)
        queries = embed(variables, episode.query_images)
        labels = episode.support_labels
        return {
            "transductive": transductive(support, labels, queries),
            "inductive": inductive(support, labels, queries),
        }

    return classify


def centroid_classifier(
    way: int,
    embed: Callable[[PyTree, jax.Array], jax.Array] = lambda variables, x: x,
) -> Classify:
    """Nearest centroid by cosine: as they come, or centred by the episode.

    Args:
      way: classes of an episode.
      embed: see `head_classifier`; the default takes banks of embeddings.
    """
    head = heads.nearest_centroid(way)
    return head_classifier(
        embed, heads.centered(head, "none"), heads.centered(head, "episode")
    )


def evaluator(
    classify: Classify,
    *,
    way: int,
    shots: int,
    queries: int = 15,
    num_episodes: int = 600,
    map_tasks: Callable = parallel.map_tasks,
) -> Callable[[Key[Array, ""], PyTree, ImageBank], dict[str, Accuracy]]:
    """Builds an evaluation; its program is compiled once.

    Args:
      classify: see the module docstring.
      way: classes in an episode.
      shots: support images a class.
      queries: query images a class.
      num_episodes: number of episodes; 600 is the literature's.
      map_tasks: how episodes are spread, see `parallel.map_tasks`.

    Returns:
      ``(key, variables, bank) -> {protocol: Accuracy}``.  The same key gives every
      method the same episodes.  It raises InputError for images in another range than
      `images.checked` takes.
    """

    def one(shared: PyTree, key: jax.Array) -> dict[str, jax.Array]:
        variables, bank = shared
        episode = episodes.sample_episode(
            key, bank, way=way, shots=shots, queries=queries
        )
        logits = classify(variables, episode)
        # No number is the largest: without this, scores that are not finite would look
        # like chance.
        return {
            name: jnp.where(
                jnp.isfinite(value).all(),
                objectives.accuracy(value, episode.query_labels),
                jnp.nan,
            )
            for name, value in logits.items()
        }

    run = jax.jit(map_tasks(one, everywhere=True))

    def evaluate(key: jax.Array, variables: PyTree, bank: ImageBank):
        if bank.images.ndim == 5 and bank.images.dtype != jnp.uint8:
            bank = bank._replace(images=images.checked(bank.images, "evaluation"))
        keys = jax.random.split(key, num_episodes)
        values = jax.device_get(run((variables, bank), keys))
        return {name: summarize(value) for name, value in values.items()}

    return evaluate


def summarize(per_episode: np.ndarray) -> Accuracy:
    """Mean and interval, in percent, of per-episode accuracies in [0, 1]."""
    percent = 100.0 * np.asarray(per_episode, np.float64)
    # One episode has no spread to tell an interval from.
    spread = percent.std() if percent.size > 1 else np.nan
    ci95 = 1.96 * spread / np.sqrt(percent.size)
    return Accuracy(float(percent.mean()), float(ci95), percent.astype(np.float32))


def wilson(correct: int, total: int) -> tuple[float, float]:
    """The 95 % interval of a share, by Wilson's score.

    It holds for any share, 0 and 1 too, and for few pictures.  It says nothing of how a
    figure varies with the support set: that takes several episodes.

    Args:
      correct: pictures that were classified correctly.
      total: pictures, at least one.

    Returns:
      Its ends, in [0, 1].

    Reference:
      Wilson, "Probable Inference, the Law of Succession, and Statistical Inference",
      JASA 1927.

    >>> [round(end, 4) for end in wilson(8, 10)]
    [0.4902, 0.9433]
    """
    z = 1.96
    share, scale = correct / total, 1 + z**2 / total
    middle = (share + z**2 / (2 * total)) / scale
    spread = share * (1 - share) / total + z**2 / (4 * total**2)
    half = z / scale * spread**0.5
    # Rounding may leave [0, 1].
    return max(0.0, middle - half), min(1.0, middle + half)
