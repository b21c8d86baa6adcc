"""Few-shot heads against closed forms, loops and what they promise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from free_jax import panel
from free_jax.fewshot import heads

WAY, SHOTS, DIM = 3, 4, 6
LABELS = jnp.repeat(jnp.arange(WAY), SHOTS)


@pytest.fixture(scope="module")
def task():
    """Support and queries around three class means; query labels."""
    keys = jax.random.split(jax.random.key(0), 3)
    means = jax.random.normal(keys[0], (WAY, DIM))
    support = means[LABELS] + 0.5 * jax.random.normal(keys[1], (len(LABELS), DIM))
    labels = jnp.repeat(jnp.arange(WAY), 7)
    queries = means[labels] + 0.5 * jax.random.normal(keys[2], (len(labels), DIM))
    return support, queries, labels


def cosine(a, b):
    return a @ b / np.linalg.norm(a) / np.linalg.norm(b)


def test_nearest_centroid_is_a_loop(task):
    support, queries, _ = task
    found = heads.nearest_centroid(WAY)(support, LABELS, queries)
    support = np.asarray(support)
    for q, query in enumerate(np.asarray(queries)):
        for c in range(WAY):
            mean = support[np.asarray(LABELS) == c].mean(0)
            assert found[q, c] == pytest.approx(cosine(query, mean), rel=1e-4)


@pytest.mark.parametrize("center", ["support", "episode", "none"])
def test_centring_moves_and_scales_before_the_head(task, center):
    support, queries, _ = task
    seen = {}

    def head(support, labels, queries):
        seen.update(support=support, queries=queries)
        return queries[:, :WAY]

    heads.centered(head, center)(support, LABELS, queries)
    everything = np.concatenate([support, queries])
    mean = {"support": support.mean(0), "episode": everything.mean(0), "none": 0.0}
    moved = np.asarray(queries) - np.asarray(mean[center])
    lengths = np.linalg.norm(moved, axis=1, keepdims=True)
    np.testing.assert_allclose(seen["queries"], moved / lengths, rtol=1e-4)


def test_inductive_heads_treat_each_query_alone(task):
    support, queries, _ = task
    for head in (heads.nearest_centroid(WAY), heads.ridge(WAY), heads.logistic(WAY)):
        for center in ("support", "none"):
            run = heads.centered(head, center)
            together = run(support, LABELS, queries)
            alone = run(support, LABELS, queries[:1])
            np.testing.assert_allclose(together[:1], alone, rtol=1e-4, atol=1e-5)
    run = heads.centered(heads.nearest_centroid(WAY), "episode")
    gap = run(support, LABELS, queries)[:1] - run(support, LABELS, queries[:1])
    assert jnp.abs(gap).max() > 1e-2


def test_ridge_minimises_its_objective(task):
    support, queries, _ = task
    strength = 0.4
    targets = jax.nn.one_hot(LABELS, WAY) - 1 / WAY
    # The primal solution, from the normal equations.
    weights = np.linalg.solve(
        support.T @ support + strength * np.eye(DIM), support.T @ targets
    )
    found = heads.ridge(WAY, strength=strength)(support, LABELS, queries)
    np.testing.assert_allclose(found, queries @ weights, rtol=1e-3, atol=1e-4)


def test_logistic_descends_to_where_its_gradient_vanishes(task):
    support, _, _ = task
    support = heads.unit(support)
    penalty, scale = 0.1, 3.0
    head = heads.logistic(
        WAY, num_steps=2000, learning_rate=0.3, penalty=penalty, scale=scale
    )
    weights = head(support, LABELS, jnp.eye(DIM)) / scale

    def loss(w):
        logp = jax.nn.log_softmax(scale * support @ w)
        picked = jnp.take_along_axis(logp, LABELS[:, None], 1)
        return -picked.mean() + 0.5 * penalty * jnp.square(w).sum()

    assert jnp.abs(jax.grad(loss)(weights)).max() < 1e-4


def test_soft_k_means_help_one_shot():
    """Many queries say where a class is better than one support image does."""
    gains = []
    for seed in range(20):
        keys = jax.random.split(jax.random.key(seed), 3)
        means = jax.random.normal(keys[0], (WAY, 20))
        support = means + 0.9 * jax.random.normal(keys[1], means.shape)
        labels = jnp.repeat(jnp.arange(WAY), 15)
        noise = 0.9 * jax.random.normal(keys[2], (len(labels), 20))
        right = []
        for count in (0, 5):
            head = heads.soft_kmeans(WAY, num_iterations=count)
            logits = head(support, jnp.arange(WAY), means[labels] + noise)
            right.append(float((logits.argmax(1) == labels).mean()))
        gains.append(right[1] - right[0])
    assert np.mean(gains) > 0.02, gains


def test_no_iterations_are_plain_centroids(task):
    support, queries, _ = task
    np.testing.assert_allclose(
        heads.soft_kmeans(WAY, num_iterations=0)(support, LABELS, queries),
        heads.nearest_centroid(WAY)(support, LABELS, queries),
        rtol=1e-4,
    )


@pytest.mark.slow
def test_best_teachers_are_those_that_separate_the_support_set():
    way, shots, num_teachers = 3, 4, 5
    rng = np.random.default_rng(0)
    labels = jnp.repeat(jnp.arange(way), shots)
    # Teacher 3 separates the classes; teacher 1 scatters most, but within them.
    answers = rng.normal(size=(way * shots, num_teachers, 2))
    answers[:, 1] *= 5
    angle = 2 * np.pi * np.asarray(labels) / way
    answers[:, 3] = 4 * np.stack([np.cos(angle), np.sin(angle)], 1)
    heard, columns = [], panel.equal_columns(num_teachers, 2)

    def head(support, labels, queries):
        heard.append((support, queries))
        return queries[:, :way]

    support = jnp.asarray(answers.reshape(len(labels), -1))
    one = panel.best_teachers(head, way=way, columns=columns, keep=1)
    one(support, labels, support + 1)
    wanted = np.zeros((len(labels), num_teachers, 2))
    wanted[:, 3] = answers[:, 3]
    np.testing.assert_allclose(heard[0][0], wanted.reshape(len(labels), -1), rtol=1e-6)
    wanted[:, 3] += 1
    np.testing.assert_allclose(heard[0][1], wanted.reshape(len(labels), -1), rtol=1e-6)
    every = panel.best_teachers(head, way=way, columns=columns, keep=5)
    every(support, labels, support)
    np.testing.assert_array_equal(heard[1][0], support)
    # One image a class: the scatter within is unknown and nothing is not a number.
    single = panel.best_teachers(
        lambda support, labels, queries: support, way=3, columns=columns, keep=2
    )(support[::shots], jnp.arange(3), support)
    assert np.isfinite(single).all() and (np.asarray(single) != 0).any()
    with pytest.raises(ValueError, match="between 1 and 5"):
        panel.best_teachers(head, way=way, columns=columns, keep=6)
    # One of the others has a third output, which tells nothing.
    wider = jnp.insert(support, 4, 0.0, axis=1)
    columns = np.asarray([0, 2, 5, 7, 9, 11])
    panel.best_teachers(head, way=way, columns=columns, keep=1)(wider, labels, wider)
    wanted = np.where(np.isin(np.arange(11), [7, 8]), wider, 0.0)
    np.testing.assert_allclose(heard[2][0], wanted, rtol=1e-6)
