"""Losses against NumPy in float64 and against the formulas of their gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from free_jax import objectives

RNG = np.random.default_rng(0)
STUDENT = 2 * RNG.normal(size=(12, 5))
TEACHER = 2 * RNG.normal(size=(12, 5))
TEACHER[:6] = STUDENT[:6] + 0.3 * RNG.normal(size=(6, 5))  # Some rows agree.
S, T = jnp.asarray(STUDENT, jnp.float32), jnp.asarray(TEACHER, jnp.float32)
N, C = STUDENT.shape


def log_softmax(x):
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


LOG_S, LOG_T = log_softmax(STUDENT), log_softmax(TEACHER)
P_S, P_T = np.exp(LOG_S), np.exp(LOG_T)


def close(a, b):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_cross_entropy_and_accuracy():
    labels = np.arange(N) % C
    jlabels = jnp.asarray(labels, jnp.int32)
    close(objectives.cross_entropy(S, jlabels), -LOG_S[np.arange(N), labels].mean())
    close(objectives.accuracy(S, jlabels), (STUDENT.argmax(1) == labels).mean())
    onehot = np.eye(C)[labels]
    close(jax.grad(objectives.cross_entropy)(S, jlabels), (P_S - onehot) / N)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_kl_and_its_gradient(temperature):
    log_s, log_t = (
        log_softmax(STUDENT / temperature),
        log_softmax(TEACHER / temperature),
    )
    p_s, p_t = np.exp(log_s), np.exp(log_t)
    close(objectives.kl(S, T, temperature), (p_t * (log_t - log_s)).sum(1).mean())
    close(jax.grad(objectives.kl)(S, T, temperature), (p_s - p_t) / (N * temperature))
    close(objectives.kl(S, S), 0.0)


def test_prob_dot_and_its_gradient():
    close(objectives.prob_dot(S, T), (P_T * (LOG_T - P_S)).mean())
    inner = (P_T * P_S).sum(1, keepdims=True)
    gradient = -P_S * (P_T - inner) / (N * C)
    np.testing.assert_allclose(
        jax.grad(objectives.prob_dot)(S, T), gradient, rtol=1e-4, atol=1e-8
    )


def test_prob_dot_is_blind_where_the_student_is_confidently_wrong():
    student = jnp.asarray([[20.0, 0.0, 0.0]])
    teacher = jnp.asarray([[0.0, 20.0, 0.0]])
    assert jnp.abs(jax.grad(objectives.prob_dot)(student, teacher)).max() < 1e-6
    assert jnp.abs(jax.grad(objectives.kl)(student, teacher)).max() > 0.9


def test_distillation_by_name():
    assert objectives.distillation("kl") is objectives.kl
    assert objectives.distillation("prob_dot") is objectives.prob_dot


def test_agreement_forms_and_masks():
    same = (STUDENT.argmax(1) == TEACHER.argmax(1)).astype(float)
    assert 0 < same.sum() < N
    kl_rows = (P_T * (LOG_T - LOG_S)).sum(1)
    dot_rows = (P_S * (LOG_S - P_T)).sum(1)
    close(objectives.agreement(S, T, "kl"), -(same * kl_rows).mean())
    close(objectives.agreement(S, T, "prob_dot"), -(same * dot_rows).mean())
    # Rows on which the two disagree send no gradient to either.
    for form in ("kl", "prob_dot"):
        grads = jax.grad(objectives.agreement, argnums=(0, 1))(S, T, form)
        for grad in grads:
            np.testing.assert_array_equal(np.asarray(grad)[same == 0], 0)
            assert (np.abs(np.asarray(grad)[same == 1]).max(1) > 0).all()


def test_lower_agreement_is_more_disagreement():
    near = S + 0.01 * T
    far = jnp.where(jnp.arange(C) == S.argmax(-1)[:, None], S + 5.0, S)
    assert objectives.agreement(S, far, "kl") < objectives.agreement(S, near, "kl")


def test_moment_matching():
    def tree(seed):
        rng = np.random.default_rng(seed)
        return {
            f"bn{i}": {name: rng.normal(size=4 + i) for name in ("mean", "var")}
            for i in range(3)
        }

    a, b = tree(0), tree(1)
    expected = sum(
        np.linalg.norm(a[layer][name] - b[layer][name])
        for layer in a
        for name in ("mean", "var")
    )
    to_jax = lambda t: jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), t)  # noqa: E731
    a, b = to_jax(a), to_jax(b)
    close(objectives.moment_matching(a, b), expected)
    grads = jax.grad(objectives.moment_matching)(a, b)
    gap = np.asarray(a["bn1"]["mean"] - b["bn1"]["mean"])
    close(grads["bn1"]["mean"], gap / np.linalg.norm(gap))
    # At a perfect match the norm has no derivative; ours is finite there.
    for leaf in jax.tree.leaves(jax.grad(objectives.moment_matching)(a, a)):
        assert jnp.isfinite(leaf).all()


def test_total_variation():
    images = RNG.uniform(size=(2, 5, 4, 3))
    expected = np.abs(np.diff(images, axis=1)).mean()
    expected += np.abs(np.diff(images, axis=2)).mean()
    close(objectives.total_variation(jnp.asarray(images, jnp.float32)), expected)
    assert objectives.total_variation(jnp.ones((1, 3, 3, 1))) == 0
