"""Queries are shared out among classes as what is known of them says."""

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import linear_sum_assignment

from free_jax.fewshot import heads
from free_jax.fewshot.assignment import class_offsets

WAY, EACH = 4, 6


def scores(seed=0, queries=WAY * EACH):
    values = np.random.default_rng(seed).normal(size=(queries, WAY))
    return jnp.asarray(values + [1.0, 0.0, 0.0, -1.0], jnp.float32)


def test_a_balanced_plan_has_equal_columns():
    found = class_offsets(scores(), "balanced", num_iterations=200)
    plan = jax.nn.softmax(scores() + found)
    np.testing.assert_allclose(plan.sum(0), EACH, rtol=1e-3)
    assert (np.asarray(class_offsets(scores(), "none")) == 0).all()


def test_sharp_and_balanced_it_is_the_best_assignment():
    """The limit of entropic transport, by the Hungarian method over equal places."""
    for seed in range(3):
        costs = -np.asarray(scores(seed)).repeat(EACH, axis=1)
        _, places = linear_sum_assignment(costs)
        sharp = 30 * scores(seed)
        offsets = class_offsets(sharp, "balanced", num_iterations=3000)
        # A query between two classes may be shared: the total is the best one's.
        plan = np.asarray(jax.nn.softmax(sharp + offsets))
        best = np.asarray(scores(seed))[np.arange(len(places)), places // EACH].sum()
        assert abs((plan * np.asarray(scores(seed))).sum() - best) < 0.02 * abs(best)
        picked = plan.argmax(1) == places // EACH
        assert picked.mean() > 0.9


def test_an_estimated_prior_lies_between():
    sharp = 3 * scores()
    own = np.asarray(jax.nn.softmax(sharp).mean(0))
    offsets = class_offsets(sharp, "estimated", num_iterations=200)
    shares = np.asarray(jax.nn.softmax(sharp + offsets).mean(0))
    np.testing.assert_allclose(shares, (own + 1 / WAY) / 2, rtol=1e-3)


def test_a_balanced_head_spreads_queries_that_crowd():
    """All queries are nearest to one mean; half of them less so."""
    rng = np.random.default_rng(0)
    support = jnp.eye(2, 8)
    pulls = np.asarray([1.0] * 10 + [0.6] * 10)[:, None]
    rows = pulls * np.eye(1, 8) + (1.05 - pulls) * np.eye(1, 8, 1)
    queries = jnp.asarray(rows + 0.01 * rng.normal(size=(20, 8)), jnp.float32)
    labels = jnp.asarray([0, 1])
    alone = heads.soft_kmeans(2, num_iterations=0)(support, labels, queries)
    assert (alone.argmax(1) == 0).all()
    head = heads.soft_kmeans(2, num_iterations=3, sharpness=20.0, prior="balanced")
    found = head(support, labels, queries)
    assert found.argmax(1).tolist() == [0] * 10 + [1] * 10
