"""Whom a defence leaves out."""

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.robustness.measure import QUERIES, WAY, described
from benchmarks.robustness.world import Bench, World
from free_jax import panel
from free_jax.algorithms import selection
from free_jax.algorithms.selection import SelectionOptions
from free_jax.fewshot import banks, heads
from free_jax.fewshot.episodes import sample_episode

DEFENCES = (
    "none",
    "trust",
    "selection",
    "class heads",
    "class heads, trust",
    "median",
    "trimmed",
)
COUNTS = ("hostile", "hits", "honest", "false alarms")


def selected(bench: Bench, world: World, seed: int, steps: int = 3000) -> np.ndarray:
    """[T] whom Trustworthy-DFML's policy keeps: at half of chance, or likelier."""
    columns, count = world.answers.columns, len(world.hostile)
    rows = described(world.real, columns, np.ones(count))
    classes = bench.real[0].shape[0]
    rows = rows.reshape(classes, -1, count, bench.way)[: classes // 2]
    options, chosen_at_once = SelectionOptions(when="step"), 4
    policy = selection.init(options, count, chosen_at_once)
    rows = jnp.asarray(rows)
    held = np.full(rows.shape[0], rows.shape[1])
    place = jnp.arange(rows.shape[0] * rows.shape[1]).reshape(rows.shape[:2])
    flat = rows.reshape(-1, count, bench.way)
    classify = heads.nearest_centroid(WAY)

    def step(policy, key):
        key_choose, key_reward = jax.random.split(key)
        policy = selection.choose(options, key_choose, policy, chosen_at_once)
        views = flat[:, policy.chosen].reshape(len(flat), -1)

        def one(key):
            bank = banks.from_arrays(place[..., None].astype(jnp.float32), held)
            episode = sample_episode(key, bank, way=WAY, shots=1, queries=QUERIES)
            support = episode.support_images[..., 0].astype(jnp.int32)
            query = episode.query_images[..., 0].astype(jnp.int32)
            scores = classify(views[support], episode.support_labels, views[query])
            return 100 * (scores.argmax(-1) == episode.query_labels).mean()

        reward = jax.lax.map(one, jax.random.split(key_reward, options.episodes)).mean()
        yes = jnp.asarray(True)
        return selection.update(options, policy, reward, yes, jnp.int32(1)), reward

    each = jax.random.split(jax.random.key(seed), steps)
    policy, _ = jax.jit(lambda p, k: jax.lax.scan(step, p, k))(policy, each)
    chance = np.asarray(jax.nn.softmax(policy.weights))
    return (chance >= 0.5 / count).astype(np.float32)


def trust_of(world: World) -> panel.Trust:
    return panel.trust(
        world.answers, world.class_ids, world.images, passes=panel.REVISED
    )


def weights_of(bench: Bench, world: World, defence: str, seed: int) -> np.ndarray:
    if "trust" in defence:
        return trust_of(world).weights
    if defence == "selection":
        return selected(bench, world, seed)
    return np.ones(len(world.hostile), np.float32)


def counts_of(weights: np.ndarray, hostile: np.ndarray) -> dict[str, int]:
    """Who was left out: of the hostile ones (hits) and of the honest ones."""
    out = np.asarray(weights) == 0
    return {
        "hostile": int(hostile.sum()),
        "hits": int((out & hostile).sum()),
        "honest": int((~hostile).sum()),
        "false alarms": int((out & ~hostile).sum()),
    }
