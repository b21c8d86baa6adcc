"""A step that is given its own teachers alone is the step that is given all."""

import dataclasses
import functools

import harness_toy
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import test_tasks as tasks_toy
import test_turns as turns_toy
import toy

from experiments.harness.method import Meters, Method
from experiments.methods import base
from free_jax import algorithms, rows, zoo
from free_jax.algorithms.drawn import Drawn
from free_jax.parallel import make_mesh, map_tasks


def free_of_one(**change):
    return algorithms.free(
        (toy.quick_inverter(),),
        (toy.LINEAR,),
        turns_toy.LEARNER,
        toy.LINEAR,
        toy.no_replay,
        optax.sgd(0.5),
        num_classes=turns_toy.CLASSES,
        options=turns_toy.OPTIONS._replace(teachers_per_step=3, warmup_steps=1),
        align=turns_toy.ALIGN,
        **change,
    )


def nine():
    """Teachers of one network."""
    return (toy.random_teachers(toy.LINEAR, 9, classes=turns_toy.CLASSES),)


# Networks of 3, 5 and 8 classes, of which tasks have three; five of equal width; one.
CASES = {
    "free, unequal": (lambda: tasks_toy.free(4), tasks_toy.data),
    "free, one network": (free_of_one, nine),
    "bidf, unequal": (tasks_toy.bidf, tasks_toy.data),
    "purer, unequal": (tasks_toy.purer, tasks_toy.data),
    "purer, shares and turns": (lambda: turns_toy.purer(8), turns_toy.five_groups),
    "purer, everyone": (lambda: turns_toy.purer(100), turns_toy.five_groups),
}


@pytest.mark.parametrize("name", CASES)
def test_a_fed_step_has_the_same_bits_and_reads_whom_it_draws(
    name, tmp_path, monkeypatch
):
    algorithm, data = (make() for make in CASES[name])
    lazy, read = toy.in_files(tmp_path, data), []
    pick = rows.FileRows.__getitem__

    def noted(self, index):
        read.append((self.file, np.asarray(index).tolist()))
        return pick(self, index)

    monkeypatch.setattr(rows.FileRows, "__getitem__", noted)
    whole_step, fed_step = toy.compiled_once(algorithm), toy.compiled_once(algorithm)
    whole = fed = turns_toy.start(algorithm)
    for number in range(3):
        key = jax.random.key(number)
        read.clear()
        few = algorithm.feed(key, number, lazy)
        assert isinstance(few, Drawn)
        for leaf in jax.tree.leaves([stack.variables for stack in few.stacks]):
            assert isinstance(leaf, np.ndarray)
        counts = algorithm.draws(key, jnp.int32(number), data)
        for group, expected in enumerate(counts):
            files = {file for file, _ in read if file.startswith(f"{tmp_path}/{group}")}
            for file in files:
                drawn = [i for where, index in read if where == file for i in index]
                found = np.bincount(drawn, minlength=len(expected))
                np.testing.assert_array_equal(found, expected)
            assert bool(files) == bool(np.asarray(expected).any())
        whole, info = whole_step(key, whole, data)
        fed, also = fed_step(key, fed, few)
        toy.assert_equal(fed, whole)
        toy.assert_equal(also, info)


def test_on_a_mesh_a_step_is_fed_alike(tmp_path):
    devices = jax.devices()[:2]
    if len(devices) < 2:
        pytest.skip("needs two devices")
    mesh = make_mesh({"task": 2}, devices)
    everywhere = jax.sharding.NamedSharding(mesh, jax.P())
    algorithm = free_of_one(map_tasks=functools.partial(map_tasks, mesh=mesh))
    data = nine()
    lazy, step = toy.in_files(tmp_path, data), algorithm.compiled()
    state = turns_toy.start(algorithm)._replace(step=jnp.int32(2))
    key, state = jax.device_put((jax.random.key(0), state), everywhere)
    whole, _ = step(key, state, jax.device_put(data, everywhere))
    few = algorithm.feed(key, 2, lazy)
    fed, _ = step(key, state, jax.device_put(few, everywhere))
    toy.assert_equal(fed, whole)


def as_method(algorithm, group_zoo):
    return Method(
        title="toy",
        **base.taught_by(algorithm, group_zoo),
        network=harness_toy.Network(),
        meters=Meters({}),
    )


@pytest.mark.parametrize("stops", [(), (2,)])
def test_a_run_from_files_is_the_run_from_memory(stops, tmp_path):
    """Interrupted or not; each step's teachers are those that its number draws."""
    stack = nine()[0]
    group = zoo.ZooGroup(toy.LINEAR, stack, np.full(9, np.nan))
    names = tuple(f"class {i}" for i in range(turns_toy.CLASSES))
    whole = zoo.Zoo((group,), names)
    (few,) = toy.in_files(tmp_path / "zoo", (stack,))
    lazy = zoo.Zoo((dataclasses.replace(group, teachers=few),), names)
    algorithm = free_of_one()
    fed, held = as_method(algorithm, lazy), as_method(algorithm, whole)
    assert fed.algorithm.feed is not None and held.algorithm.feed is None
    train = functools.partial(harness_toy.train, judge=harness_toy.Judge())
    for stop in stops:
        assert train(tmp_path / "fed", stop, made=fed) == stop
    found = train(tmp_path / "fed", made=fed)
    expected = train(tmp_path / "held", made=held)
    toy.assert_equal(found.state, expected.state)


def test_beside_teachers_in_files_others_are_read_on_the_host(tmp_path):
    data = turns_toy.five_groups()
    lazy = (data[0], *toy.in_files(tmp_path, data)[1:])
    algorithm, key = turns_toy.free(7), jax.random.key(0)
    few = algorithm.feed(key, 1, lazy)
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(few.stacks))
    toy.assert_equal(few, algorithm.feed(key, 1, data))


def test_an_undone_step_s_data_are_drawn_anew(tmp_path):
    """Of the number of its key, and of the steps that were made before it."""
    asked = []

    def feed(key, step, data):
        asked.append((np.asarray(jax.random.key_data(key)).tolist(), step))
        return data

    run = harness_toy.open_run(tmp_path)
    made = harness_toy.method(run.map_tasks)
    algorithm = made.algorithm._replace(feed=feed)
    harness_toy.train(
        tmp_path,
        made=made._replace(algorithm=algorithm),
        service=harness_toy.Service(lost={2, 4}),
        judge=harness_toy.Judge(),
    )
    keys = [jax.random.key_data(run.key("step", number)) for number in range(8)]
    found = [
        [step for words, step in asked if words == np.asarray(key).tolist()]
        for key in keys
    ]
    # The second and the fourth key's steps were undone; the last of each counts.
    assert [steps[-1] for steps in found] == [0, 1, 1, 2, 2, 3, 4, 5]
