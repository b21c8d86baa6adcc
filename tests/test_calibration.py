"""The contrastive loss against a loop, and calibration against its definition."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from free_jax import objectives
from free_jax.algorithms import icfil
from free_jax.fewshot.learners import Adapted, maml
from free_jax.inversion import Inverter
from free_jax.types import Recovered, Teachers

RATE, STEPS, PER_CLASS = 0.05, 2, 2


def invert(key, shared, teacher, labels, adversary=None):
    """Stands for an inversion: images that depend on all it is given."""
    params, stats = teacher.variables["params"], teacher.variables["batch_stats"]
    level = jax.nn.sigmoid(params["head"]["bias"].sum() + stats["bn0"]["mean"].sum())
    noise = jax.random.uniform(key, (labels.shape[0], *toy.SHAPE))
    images = level * noise + 0.1 * labels[:, None, None, None]
    return Recovered(images, labels, teacher.class_ids), None, shared


INVERTER = Inverter(lambda key: (), invert)


def loop(features, labels, temperature):
    rows = features / np.linalg.norm(features, axis=1, keepdims=True)
    losses = []
    for i in range(len(rows)):
        scores = {
            a: np.exp(rows[i] @ rows[a] / temperature)
            for a in range(len(rows))
            if a != i
        }
        positives = [p for p in scores if labels[p] == labels[i]]
        terms = [np.log(scores[p] / sum(scores.values())) for p in positives]
        losses.append(-np.mean(terms) if terms else 0.0)
    return np.mean(losses)


def test_supervised_contrastive_is_a_loop():
    rng = np.random.default_rng(0)
    features, labels = rng.normal(size=(7, 4)), np.array([0, 1, 0, 2, 1, 0, 3])
    found = objectives.supervised_contrastive(
        jnp.asarray(features, jnp.float32), jnp.asarray(labels), 0.3
    )
    np.testing.assert_allclose(found, loop(features, labels, 0.3), rtol=1e-5)


def test_supervised_contrastive_on_a_closed_form():
    # Two orthogonal classes of two equal rows each.
    rows = jnp.array([[1.0, 0], [3.0, 0], [0, 1.0], [0, 2.0]])
    labels, sharp = jnp.array([0, 0, 1, 1]), np.exp(2.0)
    found = objectives.supervised_contrastive(rows, labels, 0.5)
    np.testing.assert_allclose(found, -np.log(sharp / (sharp + 2)), rtol=1e-5)
    # A dead feature vector (all zero after a ReLU) has a gradient.
    zero = jax.grad(objectives.supervised_contrastive)(rows.at[0].set(0.0), labels)
    assert np.isfinite(zero).all()


def build(**change):
    options = {"images_per_class": PER_CLASS, "num_steps": STEPS, "seed": 3}
    options |= {"learning_rate": RATE, "temperature": 0.2, "cross_entropy": 0.5}
    return icfil.calibrator(toy.TINY, INVERTER, **options | change)


def test_calibration_is_its_definition():
    stack = toy.host(toy.random_teachers(toy.TINY, 1).variables)
    variables = jax.tree.map(lambda x: jnp.asarray(x[0]), stack)
    before = Adapted(variables["params"], variables["batch_stats"])
    episode = toy.random_episode(shots=2)
    images, labels = episode.support_images, episode.support_labels
    # Its inner loop stands still: what follows it stands alone.
    learner = maml(toy.TINY)._replace(adapt=lambda params, *support: before)
    learner = icfil.calibrated(learner, build())
    found = jax.jit(learner.adapt)(None, images, labels)

    # Invert the adapted model, with the support set's statistics as its own.
    teacher = Teachers(
        {"params": before.params, "batch_stats": before.stats}, jnp.arange(3)
    )
    pseudo_labels = jnp.repeat(jnp.arange(3), PER_CLASS)
    pseudo, _, _ = invert(jax.random.key(3), (), teacher, pseudo_labels)

    @jax.jit
    def gradient(params):
        def loss(params):
            rows = [
                toy.TINY.apply({"params": params}, x, norm="batch", features=True)
                for x in (images, pseudo.images)
            ]
            both = jnp.concatenate([labels, pseudo_labels])
            agree = objectives.supervised_contrastive(jnp.concatenate(rows), both, 0.2)
            logits = toy.TINY.apply({"params": params}, images, norm="batch")
            return agree + 0.5 * objectives.cross_entropy(logits, labels)

        return jax.grad(loss)(params)

    expected = before.params
    for _ in range(STEPS):
        grads = gradient(expected)
        expected = jax.tree.map(lambda p, g: p - RATE * g, *toy.host((expected, grads)))
    toy.assert_close(found.params, expected, rtol=1e-3, atol=1e-4)
    moments = jax.jit(functools.partial(toy.TINY.apply_with_moments, norm="batch"))
    _, stats = moments({"params": expected}, images)
    toy.assert_close(found.stats, stats, rtol=1e-2, atol=1e-3)
    gap = jax.tree.map(
        lambda a, b: np.abs(a - b).max(), *toy.host((found.params, before.params))
    )
    assert float(gap["conv0"]["kernel"]) > 0
    assert float(gap["head"]["kernel"]) > 0


@pytest.mark.parametrize(
    "change",
    [{"num_steps": 0}, {"images_per_class": 0}, {"temperature": 0.0}],
)
def test_numbers_that_cannot_be_meant_are_refused(change):
    with pytest.raises(ValueError, match="must be positive"):
        build(**change)
