"""Mapping over tasks on meshes of fake devices against a Python loop."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy

from free_jax import make_mesh, map_tasks, panel
from free_jax.algorithms import free
from free_jax.algorithms.bell import AlignOptions
from free_jax.algorithms.free import FreeOptions
from free_jax.fewshot import replay
from free_jax.fewshot.banks import MemoryOptions
from free_jax.fewshot.episodes import balanced_labels
from free_jax.fewshot.learners import maml, protonet
from free_jax.inversion import meta_generator
from free_jax.panel.described import Described
from free_jax.panel.distillation import panel_distillation
from free_jax.parallel import map_seeds

EIGHT = len(jax.devices()) >= 8
# Devices and tasks: fewer, more, and as many, three tasks dividing over no mesh.
MESHES = [(1, 3), (4, 3), (8, 8)] + [
    pytest.param(devices, count, marks=pytest.mark.slow)
    for devices, count in ((1, 8), (2, 3), (2, 8), (4, 8), (8, 3))
]
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
@pytest.mark.parametrize(("devices", "count"), MESHES)
def test_values_and_gradients_are_those_of_a_loop(devices, count, local):
    mapped = total(map_tasks(adapted, mesh=mesh_of(devices), local=local))
    shared, tasks = problem(count)
    found = mapped(shared["w"], shared, tasks)
    toy.assert_close(found, expected(count), rtol=1e-4, atol=1e-5)


def told(shared, task):
    """The same with something to add up, a flag and whole numbers."""
    out = adapted(shared, task)
    result = out | {"good": out["loss"] < 1.0, "count": task["y"].astype(jnp.int32)}
    return result, {"fast": out["fast"], "one": jnp.ones((), jnp.int32)}


def told_total(mapped):
    def run(w, shared, tasks):
        out, sums = mapped({**shared, "w": w}, tasks)
        weights = 1.0 + jnp.arange(out["loss"].shape[0])
        scalar = (weights * out["loss"]).sum() + jnp.sin(sums["fast"]["a"]).sum()
        return scalar, (out, sums)

    return jax.jit(jax.value_and_grad(run, has_aux=True))


@functools.cache
def told_expected(count):
    def loop(shared, tasks):
        rows = [
            told(shared, jax.tree.map(lambda x, i=i: x[i], tasks)) for i in range(count)
        ]
        out = jax.tree.map(lambda *x: jnp.stack(x), *(row[0] for row in rows))
        return out, jax.tree.map(lambda *x: sum(x), *(row[1] for row in rows))

    shared, tasks = problem(count)
    return told_total(loop)(shared["w"], shared, tasks)


@needs_eight
@pytest.mark.parametrize(("devices", "count"), MESHES)
def test_sums_and_results_everywhere(devices, count):
    local = "vmap" if devices == 4 else "map"
    mapped = told_total(
        map_tasks(
            told, mesh=mesh_of(devices), local=local, everywhere=True, summed=True
        )
    )
    shared, tasks = problem(count)
    found = mapped(shared["w"], shared, tasks)
    toy.assert_close(found, told_expected(count), rtol=1e-4, atol=1e-5)
    out, sums = found[0][1]
    assert out["good"].dtype == bool and out["count"].dtype == jnp.int32
    assert int(sums["one"]) == count  # Padding is not counted.
    leaves = jax.tree.leaves((out, sums))
    assert all(leaf.sharding.is_fully_replicated for leaf in leaves)


@needs_eight
def test_padding_that_is_not_finite_does_not_leak():
    def one(shared, task):
        del shared
        return 1 / task, 1 / task

    # On 4 devices, three copies of the first task are added.
    for everywhere in (False, True):
        run = map_tasks(one, mesh=mesh_of(4), everywhere=everywhere, summed=True)
        out, total = jax.jit(run)((), jnp.asarray([0.0, 1, 2, 4, 4]))
        np.testing.assert_array_equal(out, [np.inf, 1, 0.5, 0.25, 0.25])
        assert np.isinf(total)
        out, total = jax.jit(run)((), jnp.asarray([2.0, 1, 2, 4, 4]))
        assert total == 2.5


COLLECTIVE = r" (all-gather|all-to-all|collective-permute|reduce-scatter|all-reduce)\("
# What is read here is there before the machine code is optimised.
FAST = {
    "xla_backend_optimization_level": "0",
    "xla_llvm_disable_expensive_passes": True,
}


def small_free(mapped):
    """FREE with three teachers a step, which no mesh here divides."""
    learner = protonet(toy.TINY)
    sgd = optax.sgd(1e-3)
    update = replay.episodic_update(
        learner, sgd, way=3, shots=1, queries=1, episodes_per_update=6, map_tasks=mapped
    )
    inverter = meta_generator(
        toy.GENERATOR,
        toy.TINY,
        inner_optimizer=sgd,
        num_steps=1,
        latent_dim=toy.LATENT,
    )
    return free(
        (inverter,),
        (toy.TINY,),
        learner,
        toy.TINY,
        replay.replay(update, patience=2, max_updates=2),
        sgd,
        num_classes=toy.CLASSES,
        options=FreeOptions(
            teachers_per_step=3,
            images_per_class=2,
            warmup_steps=0,
            outer_optimizer=sgd,
        ),
        memory=MemoryOptions(4),
        align=AlignOptions(optimizer=sgd),
        map_tasks=mapped,
    )


@needs_eight
def test_free_step_on_a_mesh_sends_three_sums_and_is_that_of_one_device():
    """Meta-gradient, images and views; the gradient of replay, in two."""
    mesh = mesh_of(4)
    spread = functools.partial(map_tasks, mesh=mesh, local="vmap")
    algorithm, alone = small_free(spread), small_free(map_tasks)
    state = toy.random_like(jax.eval_shape(algorithm.init, jax.random.key(0)))
    arguments = state, (toy.random_teachers(toy.TINY, 5),)
    expected = alone.compiled()(jax.random.key(1), *arguments)

    arguments = jax.device_put(arguments, jax.NamedSharding(mesh, jax.P()))
    lowered = jax.jit(algorithm.step).lower(jax.random.key(1), *arguments)
    compiled = lowered.compile(compiler_options=FAST)
    assert re.findall(COLLECTIVE, compiled.as_text()) == ["all-reduce"] * 3
    found = compiled(jax.random.key(1), *arguments)
    leaves = jax.tree.leaves(found[0])
    assert all(leaf.sharding.is_fully_replicated for leaf in leaves)

    (state, info), (wanted, wanted_info) = jax.device_get((found, expected))
    pixels = [s.memory.images.astype(int) for s in (state, wanted)]
    assert np.abs(pixels[0] - pixels[1]).max() <= 1  # rounding to 8 bits
    state, wanted = (s._replace(memory=None) for s in (state, wanted))
    toy.assert_close((state, info), (wanted, wanted_info), rtol=1e-3, atol=1e-5)


@needs_eight
def test_panel_distillation_and_description_are_those_of_one_device():
    mesh = mesh_of(4)
    spread = functools.partial(map_tasks, mesh=mesh)
    student = dataclasses.replace(toy.TINY, num_classes=6)
    data = Described(
        toy.bank(per_class=2).images.reshape(-1, *toy.SHAPE),
        jnp.asarray(np.random.default_rng(0).normal(size=(18, 6)), jnp.float32),
        panel.equal_columns(2, 3),
        jnp.ones(2),
        recovered=jnp.ones(18, bool),
        natural=jnp.ones(18, bool),
    )
    stack = toy.random_teachers(toy.TINY, 3)
    found = []
    for mapping in (map_tasks, spread):
        algorithm = panel_distillation(
            student,
            columns=data.columns,
            optimizer=optax.sgd(0.1),
            batch_size=8,
            ghost_batches=4,
            map_tasks=mapping,
        )
        state = jax.tree.map(
            jnp.abs, toy.random_like(jax.eval_shape(algorithm.init, jax.random.key(0)))
        )
        embed = panel.embedder((toy.TINY,), map_tasks=mapping)
        found.append(
            (
                algorithm.compiled()(jax.random.key(1), state, data),
                jax.jit(embed)((stack,), data.images),
            )
        )
    toy.assert_close(*jax.device_get(found), rtol=1e-3, atol=1e-5)
    with pytest.raises(ValueError, match="ghost_batches=3 must divide batch_size=8"):
        panel_distillation(
            student,
            columns=data.columns,
            optimizer=optax.sgd(0.1),
            batch_size=8,
            ghost_batches=3,
        )


@needs_eight
def test_seeds_on_a_second_axis_are_separate_runs():
    mesh = make_mesh({"seed": 2, "task": 4})

    def step_with(mapping):
        mapped = mapping(
            lambda shared, task: ((), jax.grad(lambda w: loss_of(w, task))(shared)),
            everywhere=True,
            summed=True,
        )

        def loss_of(w, task):
            return adapted({"w": w, "scale": 0.5}, task)["loss"]

        def step(key, state, data):
            noisy = data | {"key": jax.random.split(key, 3)}
            _, grads = mapped(state, noisy)
            # A branch that only some runs take stays a branch.
            rate = jax.lax.cond(state["b"].sum() > 0, lambda: 0.1, lambda: 0.2)
            return jax.tree.map(lambda p, g: p - rate * g, state, grads), rate

        return step

    shared, tasks = problem(3)
    states = jax.tree.map(lambda x: jnp.stack([x, -x, 2 * x, -2 * x]), shared["w"])
    keys = jax.random.split(jax.random.key(5), 4)
    inside = step_with(functools.partial(map_tasks, mesh=mesh))
    compiled = jax.jit(map_seeds(inside, mesh)).lower(keys, states, tasks).compile()
    assert set(re.findall(COLLECTIVE, compiled.as_text())) == {"all-reduce"}
    alone = jax.jit(step_with(map_tasks))
    wanted = [
        alone(keys[i], jax.tree.map(lambda x, i=i: x[i], states), tasks)
        for i in range(4)
    ]
    wanted = jax.tree.map(lambda *x: jnp.stack(x), *wanted)
    assert set(np.asarray(wanted[1]).tolist()) == set(np.float32([0.1, 0.2]).tolist())
    found = jax.device_get(compiled(keys, states, tasks))
    toy.assert_close(found, jax.device_get(wanted), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="3 seeds do not divide over the 2 devices"):
        map_seeds(inside, mesh)(keys[:3], states, tasks)

    def through(key, state, data):
        def total(state):
            mapped = map_tasks(adapted, mesh=mesh)
            return mapped({**shared, "w": state}, data)["loss"].sum()

        return jax.grad(total)(state), key

    with pytest.raises(NotImplementedError, match="take it within one task"):
        jax.eval_shape(map_seeds(through, mesh), keys, states, tasks)


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

    params = toy.random_like(
        jax.eval_shape(generator.init, jax.random.key(0)), scale=0.5
    )
    tasks = jax.random.split(jax.random.key(1), 4), toy.random_teachers(toy.TINY, 4)
    return one, params, tasks


def maml_problem():
    learner = maml(toy.TINY, num_steps=2, inner_lr=0.1)
    params = toy.random_like(jax.eval_shape(learner.init, jax.random.key(0)), scale=0.4)
    stack = [toy.random_episode(i, shots=1, queries=1) for i in range(4)]
    tasks = jax.tree.map(lambda *x: jnp.stack(x), *stack)

    def one(params, episode):
        return jax.grad(lambda p: learner.loss(p, episode)[0])(params)

    return one, params, tasks


PROBLEMS = [inversion_problem, pytest.param(maml_problem, marks=pytest.mark.slow)]


@needs_eight
@pytest.mark.parametrize("build", PROBLEMS)
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
@pytest.mark.parametrize("build", PROBLEMS)
@pytest.mark.slow
def test_a_device_does_its_share_of_the_flops(build):
    one, params, tasks = build()
    tasks = jax.tree.map(lambda x: jnp.concatenate([x, x]), tasks)

    def flops(devices, tasks):
        run = map_tasks(one, mesh=mesh_of(devices), local="vmap")
        lowered = jax.jit(run).lower(params, tasks)
        return lowered.compile(compiler_options=FAST).cost_analysis()["flops"]

    # Not an eighth of one device's count: batching more tasks lowers convolutions to
    # forms that are counted differently.
    share = jax.tree.map(lambda x: x[: len(x) // 8], tasks)
    assert flops(8, tasks) == pytest.approx(flops(1, share), rel=0.05)


@needs_eight
def test_meshes_that_do_not_fit_are_refused():
    assert make_mesh({"task": -1}).shape["task"] == len(jax.devices())
    for axes in ({"task": 3}, {"task": 3, "data": -1}, {"task": -1, "data": -1}):
        with pytest.raises(ValueError, match="does not fit"):
            make_mesh(axes)
    with pytest.raises(ValueError, match="does not fit"):
        make_mesh({"task": 0, "data": -1})
