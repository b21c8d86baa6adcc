"""Accuracy over episodes of what a panel, or a student, says of images."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from free_jax.fewshot import banks, heads
from free_jax.fewshot.episodes import sample_episode
from free_jax.panel import ragged

WAY, QUERIES, TEMPERATURE = 5, 15, 2.0


def described(logits: np.ndarray, columns: np.ndarray, weights: np.ndarray):
    """[n, C] what the panel says of images: tempered softmax minus chance."""
    rows = ragged.tempered(jnp.asarray(logits), columns, TEMPERATURE)
    return np.asarray(rows) * np.repeat(weights, np.diff(columns))


@functools.partial(jax.jit, static_argnames=("shots", "episodes", "head"))
def accuracy(rows, queries, shots: int, episodes: int, head: str = "ridge"):
    """Accuracy over episodes of descriptions [classes, m, d]; queries as shown then."""
    made = heads.ridge(WAY) if head == "ridge" else heads.nearest_centroid(WAY)
    classify = heads.centered(made, "none" if head == "ridge" else "support")
    counts = np.full(rows.shape[0], rows.shape[1])
    place = jnp.arange(rows.shape[0] * rows.shape[1]).reshape(rows.shape[:2])
    flat, shown = (x.reshape(-1, x.shape[-1]) for x in (rows, queries))

    def one(key):
        # Of the images' numbers: which is asked about in another version.
        bank = banks.from_arrays(place[..., None].astype(jnp.float32), counts)
        episode = sample_episode(key, bank, way=WAY, shots=shots, queries=QUERIES)
        support, query = (
            x[..., 0].astype(jnp.int32)
            for x in (episode.support_images, episode.query_images)
        )
        scores = classify(flat[support], episode.support_labels, shown[query])
        return (scores.argmax(-1) == episode.query_labels).mean()

    return jax.lax.map(one, jax.random.split(jax.random.key(7), episodes))


def both(rows: np.ndarray, patched: np.ndarray, episodes: int, head: str) -> dict:
    """Accuracy in percent, at one and five shots, and of patched queries."""
    found = {}
    for shots in (1, 5):
        each = 100 * np.asarray(accuracy(rows, rows, shots, episodes, head))
        found[f"{shots}-shot"] = float(each.mean())
        found[f"ci{shots}"] = float(1.96 * each.std() / np.sqrt(len(each)))
    each = 100 * np.asarray(accuracy(rows, patched, 1, episodes, head))
    return found | {"patched": float(each.mean())}
