"""BELL: what a short sequence of steps contains beside the sum of gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy

from free_jax.algorithms import bell

DIM = 5


def quadratics(count, seed=0):
    """L_i(x) = 0.5 (x - c_i)' A_i (x - c_i), A_i symmetric positive definite."""
    rng = np.random.default_rng(seed)
    roots = rng.normal(size=(count, DIM, DIM)) / np.sqrt(DIM)
    matrices = roots @ roots.swapaxes(1, 2) + 0.1 * np.eye(DIM)
    return matrices, rng.normal(size=(count, DIM)), rng.normal(size=DIM)


def loss(x, task):
    matrix, center = task
    return 0.5 * (x - center) @ matrix @ (x - center)


def mean_over_orders(lr, matrices, centers, x):
    update = jax.jit(bell.sequential_update(loss, optax.sgd(lr)))
    moves = []
    for order in toy.orders(len(matrices)):
        order = np.asarray(order)
        tasks = jnp.asarray(matrices[order]), jnp.asarray(centers[order])
        moves.append(np.asarray(update(jnp.asarray(x), tasks)[0]))
    return np.mean(moves, axis=0)


def expansion(lr, matrices, centers, x):
    """lr * sum g_i - lr^2 / 2 * grad sum_{i<j} <g_i, g_j>, with NumPy."""
    grads = [a @ (x - c) for a, c in zip(matrices, centers, strict=True)]
    alignment_gradient = np.zeros(DIM)
    for i in range(len(grads)):
        for j in range(i):
            alignment_gradient += matrices[i] @ grads[j] + matrices[j] @ grads[i]
    first = lr * np.sum(grads, axis=0)
    return first, first - lr**2 / 2 * alignment_gradient


@pytest.mark.parametrize("lr", [0.3, 0.03])
def test_two_teachers_contain_the_alignment_term_exactly(lr):
    matrices, centers, x = quadratics(2)
    first, both = expansion(lr, matrices, centers, x)
    with jax.enable_x64(True):
        moved = mean_over_orders(lr, matrices, centers, x)
    np.testing.assert_allclose(moved, both, rtol=1e-12, atol=1e-14)
    assert np.abs(moved - first).max() > 1e-4 * np.abs(first).max()


def test_more_teachers_contain_it_up_to_third_order():
    problem = quadratics(3)

    def gaps(lr):
        first, both = expansion(lr, *problem)
        moved = mean_over_orders(lr, *problem)
        return [np.abs(moved - guess).max() for guess in (first, both)]

    with jax.enable_x64(True):
        coarse, fine = gaps(0.02), gaps(0.01)
    assert 3.8 < coarse[0] / fine[0] < 4.2  # without the term: second order
    assert 7.5 < coarse[1] / fine[1] < 8.5  # with it: third


def test_following_it_aligns_gradients():
    # Step along the pseudo-gradient and along the plain sum, equally far to first
    # order: the former ends where the teachers' gradients agree more.
    lr = 0.1
    matrices, centers, x = quadratics(2, seed=4)
    first, _ = expansion(lr, matrices, centers, x)
    with jax.enable_x64(True):
        moved = mean_over_orders(lr, matrices, centers, x)

    def inner(x):
        a, b = (m @ (x - c) for m, c in zip(matrices, centers, strict=True))
        return a @ b

    assert inner(x - moved) > inner(x - first)


@pytest.mark.parametrize("optimizer", [optax.sgd(0.1, momentum=0.9), optax.adam(0.05)])
def test_equals_a_python_loop(optimizer):
    matrices, centers, x = quadratics(4)
    tasks = jnp.asarray(matrices, jnp.float32), jnp.asarray(centers, jnp.float32)
    params = {"a": jnp.asarray(x, jnp.float32), "b": jnp.ones(DIM)}

    def two_parts(params, task):
        return loss(params["a"], task) + loss(params["b"] ** 2, task)

    slope = jax.jit(jax.value_and_grad(two_parts))
    fast, state, losses = params, optimizer.init(params), []
    for i in range(4):
        task = jax.tree.map(lambda leaf, i=i: leaf[i], tasks)
        value, grads = slope(fast, task)
        fast, state = toy.updated(optimizer, grads, state, fast)
        losses.append(value)
    update = jax.jit(bell.sequential_update(two_parts, optimizer))
    for _ in range(2):  # The inner optimiser starts fresh at each call.
        direction, found = update(params, tasks)
        toy.assert_close(direction, jax.tree.map(jnp.subtract, params, fast))
        np.testing.assert_allclose(found, losses, rtol=1e-5)


def test_shuffled_keeps_tasks_whole(key):
    tasks = {"a": jnp.arange(6.0), "b": jnp.arange(12).reshape(6, 2)}
    seen = set()
    for one in jax.random.split(key, 10):
        out = bell.shuffled(one, tasks)
        order = np.asarray(out["a"]).astype(int)
        assert sorted(order) == list(range(6))
        np.testing.assert_array_equal(out["b"][:, 0], 2 * order)
        seen.add(tuple(order))
    assert len(seen) > 5
