"""Meta-learners against loops, closed forms and finite differences."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from free_jax import objectives
from free_jax.fewshot import initialization
from free_jax.fewshot.learners import batch_apply, maml, protonet
from free_jax.zoo.network import Network, make_network

EPISODE = toy.random_episode()
SUPPORT = EPISODE.support_images, EPISODE.support_labels
LR, STEPS = 0.1, 3


def random_params(arch):
    shapes = jax.eval_shape(arch.init, jax.random.key(0))["params"]
    return toy.random_like(shapes, scale=0.4)


PARAMS = random_params(toy.TINY)


def make(student=toy.TINY, **kwargs):
    return maml(student, inner_lr=LR, num_steps=STEPS, **kwargs)


@jax.jit
def support_grad(params):
    images, labels = SUPPORT

    def loss(params):
        return objectives.cross_entropy(batch_apply(toy.TINY, params, images), labels)

    return jax.grad(loss)(params)


def test_adaptation_is_a_python_loop():
    def stepped(fast):
        return toy.host((fast, support_grad(fast)))

    fast = PARAMS
    for _ in range(STEPS):
        fast = jax.tree.map(lambda p, g: p - LR * g, *stepped(fast))
    learner = make()
    adapted = jax.jit(learner.adapt)(PARAMS, *SUPPORT)
    toy.assert_close(adapted.params, fast)
    _, moments = jax.jit(
        lambda p: toy.TINY.apply_with_moments({"params": p}, SUPPORT[0], norm="batch")
    )(fast)
    toy.assert_close(adapted.stats, moments)
    assert adapted.prototypes is None


def test_head_only_moves_only_the_head():
    head = PARAMS["head"]
    for _ in range(STEPS):
        grads = support_grad({**PARAMS, "head": head})["head"]
        head = jax.tree.map(lambda p, g: p - LR * g, *toy.host((head, grads)))
    adapted = jax.jit(make(head_only=True).adapt)(PARAMS, *SUPPORT).params
    toy.assert_close(adapted["head"], head)
    rest = {k: v for k, v in adapted.items() if k != "head"}
    toy.assert_equal(rest, {k: v for k, v in PARAMS.items() if k != "head"})


@pytest.mark.parametrize(
    ("learner", "arch"),
    [
        (make, toy.TINY),
        (protonet, toy.TINY),
        pytest.param(
            functools.partial(maml, inner_lr=LR), toy.ARCH, marks=pytest.mark.slow
        ),
    ],
    ids=["maml", "protonet", "maml-conv4"],
)
def test_meta_gradient_is_the_finite_difference(learner, arch):
    params = random_params(arch)
    with jax.enable_x64(True):
        params, episode = toy.double((params, EPISODE))
        learner = learner(arch)
        value = jax.jit(lambda p: learner.loss(p, episode)[0])
        grads = jax.jit(jax.grad(lambda p: learner.loss(p, episode)[0]))(params)
        for seed in range(3):
            direction = toy.random_like(params, seed)
            expected = toy.central_difference(value, params, direction, 1e-7)
            np.testing.assert_allclose(toy.dot(grads, direction), expected, rtol=1e-5)


def test_first_order_is_the_gradient_at_the_adapted_parameters():
    learner = make(first_order=True)

    @jax.jit
    def run(params):
        (loss, info), grads = jax.value_and_grad(learner.loss, has_aux=True)(
            params, EPISODE
        )
        return loss, info, grads, learner.adapt(params, *SUPPORT).params

    loss, info, grads, fast = run(PARAMS)

    def query_loss(params):
        logits = batch_apply(toy.TINY, params, EPISODE.query_images)
        accuracy = objectives.accuracy(logits, EPISODE.query_labels)
        return objectives.cross_entropy(logits, EPISODE.query_labels), accuracy

    (value, accuracy), expected = jax.jit(jax.value_and_grad(query_loss, has_aux=True))(
        fast
    )
    toy.assert_close(grads, expected)
    np.testing.assert_allclose([loss, info.loss], value, rtol=1e-5)
    np.testing.assert_allclose(info.accuracy, accuracy)


# ---- a linear model, where everything has a closed form --------------------------


class Flat(nn.Module):
    way: int

    @nn.compact
    def __call__(self, images, *, norm, features=False):
        self.sow("moments", "none", jnp.zeros(()))
        return nn.Dense(self.way, name="head")(images.reshape(images.shape[0], -1))


@dataclasses.dataclass(frozen=True)
class Linear(Network):
    @property
    def module(self):
        return Flat(self.way)


def with_ones(images):
    flat = 2 * np.float64(images).reshape(len(images), -1) - 1  # As normalised.
    return np.concatenate([flat, np.ones((len(flat), 1))], axis=1)


def softmax(x):
    x = np.exp(x - x.max(1, keepdims=True))
    return x / x.sum(1, keepdims=True)


@pytest.mark.parametrize(
    ("first_order", "remat"), [(False, False), (False, True), (True, False)]
)
def test_softmax_regression_has_the_closed_form_meta_gradient(first_order, remat):
    """Chain rule with exact Hessians: (I - lr H_0) ... (I - lr H_K) g_query."""
    way, lr, steps = 3, 0.3, 4
    episode = toy.random_episode(1, shape=(2, 2, 1))
    weights = 0.3 * np.random.default_rng(5).normal(size=(5, way))
    arch = Linear("linear", way, (2, 2, 1), (0.5,), (0.5,))
    support, query = with_ones(episode.support_images), with_ones(episode.query_images)

    def residual(x, labels, w):
        return softmax(x @ w) - np.eye(way)[np.asarray(labels)]

    path = [weights]
    for _ in range(steps):
        r = residual(support, episode.support_labels, path[-1])
        path.append(path[-1] - lr * support.T @ r / len(support))
    r = residual(query, episode.query_labels, path[-1])
    expected = query.T @ r / len(query)
    if not first_order:
        for w in reversed(path[:-1]):
            p, z = softmax(support @ w), support @ expected
            pushed = p * (z - (p * z).sum(1, keepdims=True))
            expected = expected - lr * support.T @ pushed / len(support)

    learner = maml(
        arch, inner_lr=lr, num_steps=steps, first_order=first_order, remat=remat
    )
    with jax.enable_x64(True):
        params = {
            "head": {
                "kernel": jnp.asarray(weights[:-1]),
                "bias": jnp.asarray(weights[-1]),
            }
        }
        data = toy.double(episode)
        grads = jax.jit(jax.grad(lambda p: learner.loss(p, data)[0]))(params)
    found = np.concatenate([grads["head"]["kernel"], grads["head"]["bias"][None]])
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


# ---- prediction ------------------------------------------------------------------


@pytest.mark.parametrize("learner", ["maml", "protonet"])
def test_inductive_queries_do_not_see_each_other(learner):
    learner = make() if learner == "maml" else protonet(toy.TINY)
    others = toy.random_episode(9).query_images * 0.3
    mixed = EPISODE.query_images.at[1:].set(others[1:])

    @functools.partial(jax.jit, static_argnums=0)
    def both(norm):
        adapted = learner.adapt(PARAMS, *SUPPORT)
        return [
            learner.predict(adapted, x, norm=norm)
            for x in (EPISODE.query_images, mixed)
        ]

    a, b = both("running")
    np.testing.assert_allclose(a[0], b[0], rtol=1e-5, atol=1e-6)
    a, b = both("batch")
    assert jnp.abs(a[0] - b[0]).max() > 1e-3


def test_inductive_on_the_support_set_is_transductive():
    learner = make()

    @jax.jit
    def run():
        adapted = learner.adapt(PARAMS, *SUPPORT)
        return [
            learner.predict(adapted, SUPPORT[0], norm=n) for n in ("batch", "running")
        ]

    a, b = run()
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_protonet_is_numpy():
    learner = protonet(toy.TINY)

    @jax.jit
    def run():
        variables = {"params": PARAMS}
        features = [
            toy.TINY.apply(variables, x, norm="batch", features=True)
            for x in (EPISODE.support_images, EPISODE.query_images)
        ]
        adapted = learner.adapt(PARAMS, *SUPPORT)
        logits = learner.predict(adapted, EPISODE.query_images)
        return features, adapted, logits

    (support, query), adapted, logits = run()
    support, query = np.float64(support), np.float64(query)
    labels = np.asarray(EPISODE.support_labels)
    centers = np.stack([support[labels == c].mean(0) for c in range(toy.WAY)])
    np.testing.assert_allclose(adapted.prototypes, centers, rtol=1e-5, atol=1e-6)
    expected = -((query[:, None] - centers) ** 2).sum(-1)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)
    toy.assert_equal(adapted.params, PARAMS)


def test_no_steps_leave_the_parameters(key):
    learner = maml(toy.TINY, num_steps=0)
    adapted = jax.jit(learner.adapt)(PARAMS, *SUPPORT)
    toy.assert_equal(adapted.params, PARAMS)
    shapes = jax.eval_shape(learner.init, key)
    assert jax.tree.structure(shapes) == jax.tree.structure(PARAMS)


@pytest.mark.parametrize("kwargs", [{"inner_lr": 0.0}, {"num_steps": -1}])
def test_meaningless_settings_are_refused(kwargs):
    with pytest.raises(ValueError, match=next(iter(kwargs))):
        maml(toy.TINY, **kwargs)


def test_a_meta_model_goes_on_from_a_distilled_trunk():
    student = make_network("conv4", num_classes=5, image_shape=(16, 16, 3), width=4)
    distilled = make_network("conv4", num_classes=15, image_shape=(16, 16, 3), width=4)
    stack = toy.random_teachers(distilled, 1, classes=15).variables
    variables = jax.tree.map(lambda x: x[0], toy.host(stack))
    images = jnp.asarray(np.random.default_rng(0).uniform(size=(3, 16, 16, 3)))
    features = jax.jit(functools.partial(distilled.apply, norm="batch", features=True))
    wanted = features(variables, images)

    @jax.jit
    def both(params):
        how = {"params": params}, images
        return [student.apply(*how, norm="batch", features=x) for x in (True, False)]

    for given in (variables, variables["params"]):
        found, logits = both(initialization.from_model(distilled, given, student))
        np.testing.assert_array_equal(found, wanted)
        np.testing.assert_array_equal(logits, np.zeros((3, 5)))
    wider = make_network("conv4", num_classes=5, image_shape=(16, 16, 3), width=8)
    with pytest.raises(ValueError, match="differ in more than outputs"):
        initialization.from_model(distilled, variables, wider)
