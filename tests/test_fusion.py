"""Fusion of weights against permuted copies, merged copies and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from free_jax import baselines
from free_jax.errors import InputError

pytest.importorskip("ot")

IMAGES = jnp.asarray(np.random.default_rng(0).uniform(size=(4, *toy.SHAPE)), "float32")
FORWARD = jax.jit(lambda p: toy.ARCH.apply({"params": p}, IMAGES, norm="batch"))


def network():
    stack = toy.random_teachers(count=1)
    return jax.tree.map(lambda x: np.asarray(x[0]), stack.variables["params"])


def logits(params):
    params = jax.tree.map(lambda x: jnp.asarray(x, "float32"), params)
    return FORWARD(params)


def reindexed(params, rng, index_of):
    """The same function with channels in another order or repeated."""
    out, before = {}, np.arange(3)
    counts = np.ones(3)
    for i in range(4):
        width = params[f"conv{i}"]["kernel"].shape[-1]
        index = index_of(rng, width)
        kernel = params[f"conv{i}"]["kernel"] / 1.0
        kernel = (kernel[:, :, before] / counts[:, None])[..., index]
        bias = params[f"conv{i}"]["bias"][index]
        out[f"conv{i}"] = {"kernel": kernel, "bias": bias}
        out[f"bn{i}"] = {k: v[index] for k, v in params[f"bn{i}"].items()}
        before, counts = index, np.bincount(index)[index]
    head = params["head"]["kernel"]
    head = head.reshape(-1, width, head.shape[-1])
    head = (head[:, before] / counts[:, None]).reshape(-1, head.shape[-1])
    return out | {"head": {**params["head"], "kernel": head}}


def permutation(rng, width):
    return rng.permutation(width)


def doubled(rng, width):
    return rng.permutation(np.concatenate([np.arange(width)] * 2))


def test_permuted_copies_of_one_network_recover_it():
    params = network()
    rng = np.random.default_rng(1)
    copies = [reindexed(params, rng, permutation) for _ in range(3)]
    for copy in copies:
        np.testing.assert_allclose(logits(copy), logits(params), atol=1e-4)
        assert np.abs(copy["conv1"]["kernel"] - params["conv1"]["kernel"]).max() > 0.1
    fused = baselines.fuse(copies, params)
    toy.assert_close(fused, params, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(logits(fused), logits(params), atol=1e-4)
    # What alignment is for: the plain average is another function.
    plain = jax.tree.map(lambda *x: np.mean(x, axis=0), *copies)
    assert np.abs(logits(plain) - logits(params)).max() > 0.1


def test_a_network_of_twice_the_width_made_of_copies_merges_into_the_original():
    params = network()
    wide = reindexed(params, np.random.default_rng(2), doubled)
    assert wide["conv2"]["kernel"].shape == (3, 3, 8, 8)
    toy.assert_close(baselines.align(wide, params), params, rtol=1e-5, atol=1e-6)


def test_networks_that_cannot_be_aligned_are_refused():
    params = network()
    with pytest.raises(InputError, match="chain of convolutions"):
        baselines.align({**params, "block0": {}}, params)
    with pytest.raises(InputError, match="head: kernels"):
        # Images of twice the size: four times the features.
        kernel = np.tile(params["head"]["kernel"], (4, 1))
        baselines.align(
            params, {**params, "head": {**params["head"], "kernel": kernel}}
        )
    with pytest.raises(InputError, match="no networks"):
        baselines.fuse([], params)


def test_worst_embedding_is_that_of_the_closed_form():
    """(gamma - W W') (e' - e) = W (W' e + b - theta) for a linear network."""
    rng = np.random.default_rng(3)
    weight, bias = 0.3 * rng.normal(size=(4, 6)), rng.normal(size=6)
    embedding, target = rng.normal(size=4), rng.normal(size=6)
    gamma = 4.0
    slack = gamma * np.eye(4) - weight @ weight.T
    assert np.linalg.eigvalsh(slack).min() > 0  # else there is no infimum
    gap = embedding @ weight + bias - target
    wanted = embedding + np.linalg.solve(slack, weight @ gap)
    with jax.enable_x64(True):
        found = baselines.perturbed(
            *map(jnp.asarray, (weight, bias, embedding, target)),
            gamma=gamma,
            num_steps=400,
            learning_rate=0.1,
        )
    np.testing.assert_allclose(found, wanted, rtol=1e-9)


def fit(data, num_steps, **options):
    algorithm = baselines.robust_hypernetwork(embedding_dim=8, **options)

    def body(state, key):
        return algorithm.step(key, state, data)

    state = algorithm.init(jax.random.key(0), data)
    keys = jax.random.split(jax.random.key(1), num_steps)
    state, info = jax.jit(lambda s: jax.lax.scan(body, s, keys))(state)
    return state, info, algorithm.model(state)["params"]


def test_a_finished_fit_predicts_every_teacher_and_their_mean():
    data = jnp.asarray(np.random.default_rng(4).normal(size=(5, 12)), jnp.float32) + 2
    state, info, start = fit(data, 1500, robust_steps=0, held_out=0.4)
    assert float(info.loss[-1]) < 1e-6 < float(info.loss[0])
    predicted = baselines.predict(state, state.embeddings)
    np.testing.assert_allclose(predicted, data, atol=1e-2)
    np.testing.assert_allclose(start, data.mean(0), atol=1e-3)


def test_robust_fit_of_identical_teachers_is_that_teacher():
    row = jnp.asarray(np.random.default_rng(5).normal(size=12), jnp.float32)
    state, info, start = fit(jnp.tile(row, (4, 1)), 800)
    assert bool(info.is_finite.all()) and float(state.scale) == 1.0
    np.testing.assert_allclose(start, row, atol=0.05)


def test_flatten_is_undone():
    stack = toy.random_teachers(count=3).variables["params"]
    rows, unravel = baselines.flatten(stack)
    for i in range(3):
        toy.assert_equal(unravel(rows[i]), jax.tree.map(lambda x, i=i: x[i], stack))


@pytest.mark.parametrize(
    "options", [{"held_out": 1.0}, {"gamma": -1.0}, {"learning_rate": 0.0}]
)
def test_options_that_cannot_be_meant(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        baselines.robust_hypernetwork(**options)
