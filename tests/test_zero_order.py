"""Estimated gradients against closed forms and against the white box."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy

from free_jax import zoo
from free_jax.fewshot.episodes import balanced_labels
from free_jax.inversion import (
    Adversary,
    Estimator,
    Objective,
    answers,
    estimate,
    meta_generator,
    white_box,
    zero_order,
)
from free_jax.inversion.zero_order import cosines

SHAPE = (8, 8, 3)
D = 192
LABELS = balanced_labels(toy.WAY, 2)
PLAIN = Objective(moments=0.0, adversarial=0.8, total_variation=0.3, crop_padding=2)


def linear(slopes, images):
    """Loss a . x of each image, slopes [n, h, w, c]."""
    return (slopes * images).sum((-3, -2, -1)), ()


def quadratic(images):
    return 0.5 * jnp.square(images).sum((-3, -2, -1)), ()


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"frequencies": 8},  # All of them: an orthonormal basis of all images.
        {"antithetic": True, "smoothing": 3.0},
    ],
)
def test_unbiased_on_linear_losses(options):
    slopes, images = normal(0, 2, *SHAPE), normal(1, 2, *SHAPE)
    count = 4000
    loss = functools.partial(linear, slopes)
    _, found = jax.jit(
        lambda key: estimate(
            key, loss, images, Estimator(count, at_once=200, **options)
        )
    )(jax.random.key(2))
    # d E[u u'] = I, and an entry's variance over one direction is at most about
    # |a|^2 = d: five standard errors.
    assert float(jnp.abs(found - slopes).max()) < 5 * (D / count) ** 0.5
    cosine = jnp.vdot(found, slopes)
    cosine /= jnp.linalg.norm(found) * jnp.linalg.norm(slopes)
    np.testing.assert_allclose(cosine, (count / (count + D)) ** 0.5, atol=1e-2)


def test_low_frequencies_see_the_projection_only():
    slopes = normal(0, 1, *SHAPE)
    basis = cosines(8, 3)
    np.testing.assert_allclose(basis.T @ basis, np.eye(3), atol=1e-6)
    both = basis @ basis.T
    wanted = jnp.einsum("ij,njkc,kl->nilc", both, slopes, both)
    _, found = jax.jit(
        lambda key: estimate(
            key,
            functools.partial(linear, slopes),
            jnp.zeros_like(slopes),
            Estimator(5000, frequencies=3, at_once=500),
        )
    )(jax.random.key(2))
    assert float(jnp.abs(found - wanted).max()) < 5 * (27 / 5000) ** 0.5


@pytest.mark.parametrize(("count", "frequencies"), [(10, 0), (100, 0), (100, 4)])
def test_cosine_on_quadratics_is_the_predicted_one(count, frequencies):
    images = normal(3, 64, *SHAPE)
    basis = cosines(8, frequencies or 8)
    both = basis @ basis.T
    images = jnp.einsum("ij,njkc,kl->nilc", both, images, both)  # Within the span.
    estimator = Estimator(count, 1e-2, frequencies)
    _, found = jax.jit(lambda k: estimate(k, quadratic, images, estimator))(
        jax.random.key(4)
    )
    dots = (found * images).sum((1, 2, 3))
    norms = jnp.linalg.norm(found.reshape(64, -1), axis=1)
    norms *= jnp.linalg.norm(images.reshape(64, -1), axis=1)
    d = 3 * (frequencies or 8) ** 2
    predicted = (count / (count + d)) ** 0.5
    np.testing.assert_allclose((dots / norms).mean(), predicted, atol=0.03)


def test_antithetic_differences_are_exact_on_quadratics():
    """A long step biases the forward difference along u, not the antithetic one."""
    images = jnp.zeros((1, *SHAPE))
    for antithetic, expected in ((True, 0.0), (False, 0.5 * 2.0 * D / 10)):
        estimator = Estimator(10, 2.0, antithetic=antithetic)
        _, found = estimate(jax.random.key(0), quadratic, images, estimator)
        # Each of the q nearly orthogonal directions adds (d / q) * mu / 2.
        norm = float(jnp.linalg.norm(found))
        np.testing.assert_allclose(norm, expected * 10**0.5, rtol=0.2, atol=1e-5)


def test_chunks_do_not_change_the_estimate():
    slopes, images = normal(0, 3, *SHAPE), normal(1, 3, *SHAPE)
    loss = functools.partial(linear, slopes)
    found = [
        estimate(jax.random.key(5), loss, images, Estimator(12, 1.0, at_once=at_once))[
            1
        ]
        for at_once in (1, 5, 100)
    ]
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], rtol=1e-4, atol=1e-3)


def test_queries_are_what_the_loss_sees():
    for estimator, expected in [
        (Estimator(7, at_once=3), 8),
        (Estimator(6, at_once=4, antithetic=True), 13),
    ]:
        seen = []

        def count(images, seen=seen):
            jax.debug.callback(lambda n: seen.append(int(n)), images.shape[0])
            return quadratic(images)

        jax.block_until_ready(
            estimate(jax.random.key(0), count, normal(0, 2, *SHAPE), estimator)
        )
        assert sum(seen) == expected == estimator.queries


# ---- the gradient of the objective -----------------------------------------------


def gradient_inputs():
    teacher = zoo.take(toy.random_teachers(toy.TINY), 1)
    images = jax.random.uniform(jax.random.key(8), (len(LABELS), *toy.SHAPE))
    shapes = jax.eval_shape(toy.TINY.init, jax.random.key(0))["params"]
    params = toy.random_like(shapes, 5, scale=0.4)
    return images, LABELS, teacher, Adversary(params, 0.7)


@pytest.mark.parametrize(
    ("agreement", "student_gradient"), [("kl", True), ("l1", False)]
)
def test_parity_with_the_white_box_at_many_directions(agreement, student_gradient):
    objective = PLAIN._replace(agreement=agreement, student_gradient=student_gradient)
    key = jax.random.key(6)
    exact = white_box(objective, toy.TINY, toy.TINY)
    loss, ce, wanted = jax.jit(exact)(jax.random.split(key)[0], *gradient_inputs())
    count = 1000
    objective_gradient = zero_order(
        objective, toy.TINY, toy.TINY, estimator=Estimator(count, 1e-2, at_once=50)
    )
    found_loss, found_ce, found = jax.jit(objective_gradient)(key, *gradient_inputs())
    np.testing.assert_allclose((found_loss, found_ce), (loss, ce), rtol=1e-5)
    dot = jnp.vdot(found, wanted)
    cosine = dot / jnp.linalg.norm(found) / jnp.linalg.norm(wanted)
    # 768 pixels; the exact terms, and directions that the gradient lies in, help.
    assert cosine > (count / (count + 768)) ** 0.5 - 0.03
    # Unbiased: the estimate's part along the gradient has its length.
    np.testing.assert_allclose(dot / jnp.vdot(wanted, wanted), 1.0, atol=0.1)


def test_a_black_box_has_no_statistics_and_options_are_checked():
    with pytest.raises(ValueError, match="no batch-norm statistics"):
        zero_order(Objective(), toy.TINY)
    for prior in ({"l2": 0.1}, {"variation": "frobenius"}):
        with pytest.raises(ValueError, match="priors"):
            zero_order(PLAIN._replace(**prior), toy.TINY)
    for estimator in (Estimator(0), Estimator(smoothing=0.0), Estimator(at_once=0)):
        with pytest.raises(ValueError, match="must be"):
            zero_order(PLAIN, toy.TINY, estimator=estimator)
    with pytest.raises(ValueError, match="choose one of kl, prob_dot, l1"):
        zero_order(PLAIN._replace(agreement="l2"), toy.TINY)


# ---- what is told ----------------------------------------------------------------


def test_answers_by_hand():
    logits = jnp.log(jnp.asarray([[0.7004, 0.2996 - 1e-4, 1e-4], [0.2, 0.3, 0.5]])) + 3
    told = {
        gives: np.asarray(jnp.exp(answers.answers(gives)(logits)))
        for gives in answers.GIVES
    }
    p = np.exp(np.asarray(logits) - 3)
    np.testing.assert_allclose(told["probabilities"], p, rtol=1e-5)
    np.testing.assert_allclose(told["logits"], p * np.exp(3), rtol=1e-5)
    np.testing.assert_allclose(told["rounded"][0], [0.7, 0.3, 0.00025], rtol=1e-4)
    np.testing.assert_allclose(told["top_k"][1], p[1], rtol=1e-5)
    np.testing.assert_allclose(told["labels"][0], [0.9, 0.05, 0.05], rtol=1e-5)
    # Two of five are told; the others share the rest.
    five = jnp.log(jnp.asarray([[0.5, 0.2, 0.15, 0.1, 0.05]]))
    top = jnp.exp(answers.answers("top_k")(five))
    np.testing.assert_allclose(top, [[0.5, 0.2, 0.1, 0.1, 0.1]], rtol=1e-5)
    with pytest.raises(ValueError, match="at least 1"):
        answers.answers("top_k", top_k=0)


@pytest.mark.parametrize(
    "gives",
    [
        pytest.param("rounded", marks=pytest.mark.slow),
        pytest.param("labels", marks=pytest.mark.slow),
    ],
)
def test_recovers_what_a_trained_teacher_wants_to_see(gives):
    """From queries alone, whatever is told; a label costs a longer perturbation."""
    labels = balanced_labels(toy.WAY, 6)
    coarse = gives == "labels"
    inverter = meta_generator(
        toy.GENERATOR,
        toy.TINY,
        inner_optimizer=optax.adam(3e-2, b1=0.5),
        objective=Objective(moments=0.0, crop_padding=1),
        num_steps=60,
        latent_dim=toy.LATENT,
        estimator=Estimator(10, 5.0 if coarse else 0.5, 4, antithetic=coarse),
        respond=answers.answers(gives),
    )
    shared = jax.jit(inverter.init)(jax.random.key(0))
    teacher = zoo.take(toy.trained_teachers(), 0)
    _, info, _ = jax.jit(inverter.invert)(jax.random.key(1), shared, teacher, labels)
    assert info.teacher_accuracy > (0.6 if coarse else 0.9)
    assert int(info.queries) == 18 * (60 * (21 if coarse else 11) + 1)
