"""Mapping over tasks on meshes of fake devices against a Python loop."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy

from free_jax import make_mesh, map_tasks
from free_jax.episodes import balanced_labels
from free_jax.inversion import meta_generator
from free_jax.metalearning import maml

EIGHT = len(jax.devices()) >= 8
needs_eight = pytest.mark.skipif(not EIGHT, reason="needs 8 (fake) devices")


def mesh_of(count):
    return make_mesh({"task": count}, jax.devices()[:count])


def adapted(shared, task):
    """Two inner steps from shared parameters; the trap is the inner gradient."""

    def loss(w, part):
        return jnp.square(jnp.tanh(task[part] @ w["a"]) @ w["b"] - task["y"]).mean()

    fast = shared["w"]
    for _ in range(2):
        grads = jax.grad(loss)(fast, "x")
        fast = jax.tree.map(lambda p, g: p - 0.3 * g, fast, grads)
    noise = jax.random.uniform(task["key"])
    return {"loss": loss(fast, "q") + shared["scale"] * noise, "fast": fast}


def problem(count, seed=0):
    rng = np.random.default_rng(seed)

    def normal(*shape):
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    shared = {
        "w": {"a": normal(4, 3), "b": normal(3, 1)},
        "scale": jnp.float32(0.5),
        "step": jnp.int32(3),  # Not everything shared has a gradient.
    }
    tasks = {
        "x": normal(count, 5, 4),
        "q": normal(count, 5, 4),
        "y": normal(count, 5, 1),
        "key": jax.random.split(jax.random.key(seed), count),
    }
    return shared, tasks


def total(mapped):
    def run(w, shared, tasks):
        out = mapped({**shared, "w": w}, tasks)
        weights = 1.0 + jnp.arange(out["loss"].shape[0])
        return (weights * out["loss"]).sum(), out

    return jax.jit(jax.value_and_grad(run, has_aux=True))


def loop(shared, tasks):
    count = tasks["y"].shape[0]
    rows = [
        adapted(shared, jax.tree.map(lambda x, i=i: x[i], tasks)) for i in range(count)
    ]
    return jax.tree.map(lambda *x: jnp.stack(x), *rows)


@functools.cache
def expected(count):
    shared, tasks = problem(count)
    return total(loop)(shared["w"], shared, tasks)


@needs_eight
@pytest.mark.parametrize("local", ["vmap", "map"])
@pytest.mark.parametrize("devices", [1, 2, 4, 8])
def test_values_and_gradients_are_those_of_a_loop(devices, local):
    mapped = total(map_tasks(adapted, mesh=mesh_of(devices), local=local))
    for count in (8, 3):
        shared, tasks = problem(count)
        found = mapped(shared["w"], shared, tasks)
        toy.assert_close(found, expected(count), rtol=1e-4, atol=1e-5)


@needs_eight
def test_nothing_shared_and_a_second_mesh_axis():
    mesh = make_mesh({"task": 4, "model": -1})
    assert dict(mesh.shape) == {"task": 4, "model": 2}

    def double(shared, x):
        del shared
        return 2 * x

    x = jnp.arange(6.0)
    out = jax.jit(map_tasks(double, mesh=mesh))((), x)
    np.testing.assert_array_equal(out, 2 * x)
    shared, tasks = problem(3)
    out = jax.jit(map_tasks(adapted, mesh=mesh, local="vmap"))(shared, tasks)
    toy.assert_close(out, expected(3)[0][1], rtol=1e-5, atol=1e-6)


def inversion_problem():
    generator = meta_generator(
        toy.GENERATOR,
        toy.TINY,
        inner_optimizer=optax.sgd(0.01),
        num_steps=2,
        latent_dim=toy.LATENT,
    )
    labels = balanced_labels(toy.WAY, 1)

    def one(params, task):
        return generator.invert(*task[:1], params, task[1], labels)

    params = jax.tree.map(
        lambda x: 0.5 * x,
        toy.random_like(jax.eval_shape(generator.init, jax.random.key(0))),
    )
    tasks = jax.random.split(jax.random.key(1), 4), toy.random_teachers(toy.TINY, 4)
    return one, params, tasks


def maml_problem():
    learner = maml(toy.TINY, num_steps=2, inner_lr=0.1)
    params = jax.tree.map(
        lambda x: 0.4 * x,
        toy.random_like(jax.eval_shape(learner.init, jax.random.key(0))),
    )
    stack = [toy.random_episode(i, shots=1, queries=1) for i in range(4)]
    tasks = jax.tree.map(lambda *x: jnp.stack(x), *stack)

    def one(params, episode):
        return jax.grad(lambda p: learner.loss(p, episode)[0])(params)

    return one, params, tasks


@needs_eight
@pytest.mark.parametrize("build", [inversion_problem, maml_problem])
def test_networks_are_split_over_devices_without_gathering(build):
    one, params, tasks = build()
    mapped = jax.jit(map_tasks(one, mesh=mesh_of(4), local="vmap"))
    compiled = mapped.lower(params, tasks).compile()
    text = compiled.as_text()
    assert not re.findall(r"all-gather|all-to-all|collective-permute|all-reduce", text)
    out = compiled(params, tasks)
    assert all(
        len(leaf.sharding.device_set) == 4 and leaf.shape[0] == 4
        for leaf in jax.tree.leaves(out)
    )
    run = jax.jit(one)
    for i in range(4):
        single = run(params, jax.tree.map(lambda x, i=i: x[i], tasks))
        mine = jax.tree.map(lambda x, i=i: x[i], jax.device_get(out))
        toy.assert_close(mine, jax.device_get(single), rtol=1e-3, atol=1e-5)


@needs_eight
def test_meshes_that_do_not_fit_are_refused():
    assert make_mesh({"task": -1}).shape["task"] == len(jax.devices())
    for axes in ({"task": 3}, {"task": 3, "data": -1}, {"task": -1, "data": -1}):
        with pytest.raises(ValueError, match="does not fit"):
            make_mesh(axes)
    with pytest.raises(ValueError, match="does not fit"):
        make_mesh({"task": 0, "data": -1})
