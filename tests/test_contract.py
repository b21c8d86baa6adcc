"""The contract of `free_jax.algorithm`, for every algorithm of the library.

A new method adds one row: a function decorated with `case` that returns a `Case`, the
algorithm on the smallest problem it runs on, with stand-ins for parts that other tests
cover (every row is compiled twice).  What a method does beyond the contract, such as a
step equal to a plain loop, belongs in its own test file.

ICFIL has no row: it is no algorithm but an adaptation for evaluation, see
`test_calibration.py`.
"""

import dataclasses
import functools
import inspect
import json
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy
from flax import traverse_util

from free_jax import algorithms, baselines, inversion, load_model, save_model
from free_jax.algorithm import Algorithm
from free_jax.algorithms import bidf_bilevel
from free_jax.algorithms.bell import AlignOptions
from free_jax.algorithms.bidf import BidfOptions
from free_jax.algorithms.free import FreeOptions
from free_jax.algorithms.purer import PurerOptions
from free_jax.algorithms.purer_curriculum import CurriculumOptions
from free_jax.algorithms.recovered_tasks import RecoveredTasks, bank_of
from free_jax.algorithms.tgr import TgrData, TgrOptions
from free_jax.algorithms.trustworthy import StepOptions, TrustworthyData
from free_jax.fewshot import replay
from free_jax.fewshot.banks import CapacityOptions, MemoryOptions
from free_jax.fewshot.episodes import sample_episode
from free_jax.fewshot.learners import protonet
from free_jax.panel.described import Described
from free_jax.panel.distillation import panel_distillation
from free_jax.zoo.network import make_network

LEARNER = protonet(toy.LINEAR)
SGD = optax.sgd(0.05, momentum=0.9)
EPISODES = {"way": toy.WAY, "shots": 1, "queries": 1}
UPDATE = replay.episodic_update(LEARNER, SGD, episodes_per_update=2, **EPISODES)


class Case(NamedTuple):
    """One algorithm on a small problem.

    Attributes:
      algorithm: init, step, model.
      data: of its steps.
      spoil: ``data -> data`` with a NaN in it, or None where data are bytes.
      init_data: whether ``init`` takes the data too.
    """

    algorithm: Algorithm
    data: Any
    spoil: Callable[[Any], Any] | None
    init_data: bool = False


CASES: dict[str, Callable[[], Case]] = {}


def case(build):
    """Registers a row; built once."""
    CASES[build.__name__] = functools.cache(build)
    return build


def nan_in_first_leaf(tree):
    """The tree with one NaN."""
    leaves, structure = jax.tree.flatten(tree)
    number = next(
        i for i, x in enumerate(leaves) if jnp.issubdtype(x.dtype, jnp.floating)
    )
    leaf = leaves[number]
    leaves[number] = leaf.at[(0,) * leaf.ndim].set(jnp.nan)
    return jax.tree.unflatten(structure, leaves)


def nan_in_all_teachers(data):
    return tuple(
        stack._replace(variables=jax.tree.map(lambda x: x * jnp.nan, stack.variables))
        for stack in data
    )


@case
def free():
    algorithm = algorithms.free(
        (toy.quick_inverter(),),
        (toy.LINEAR,),
        LEARNER,
        toy.LINEAR,
        toy.no_replay,
        SGD,
        num_classes=toy.CLASSES,
        options=FreeOptions(teachers_per_step=2, images_per_class=2, warmup_steps=1),
        memory=MemoryOptions(4),
        align=AlignOptions(optimizer=optax.sgd(0.1)),
    )
    return Case(algorithm, (toy.random_teachers(toy.LINEAR, 3),), nan_in_all_teachers)


@case
def bidf():
    algorithm = algorithms.bidf(
        (toy.quick_inverter(),),
        (toy.LINEAR,),
        LEARNER,
        toy.LINEAR,
        bidf_bilevel.bilevel(toy.LINEAR, num_steps=1),
        lambda key, params, bank: (jax.tree.map(jnp.zeros_like, params), ()),
        toy.no_replay,
        SGD,
        num_teachers=(3,),
        num_classes=toy.CLASSES,
        options=BidfOptions(images_per_class=2, outer_optimizer=optax.sgd(0.5)),
        memory=CapacityOptions(4),
    )
    return Case(algorithm, (toy.random_teachers(toy.LINEAR, 3),), nan_in_all_teachers)


def recovered_tasks():
    """Images of three teachers and their answers, two versions of each."""
    rng = np.random.default_rng(3)
    shape = (3, 2, toy.WAY, 3)
    teachers = toy.random_teachers(toy.LINEAR, 3)
    return RecoveredTasks(
        jnp.asarray(rng.integers(0, 255, (*shape, *toy.SHAPE)), jnp.uint8),
        jnp.asarray(rng.normal(size=(*shape, toy.WAY)), jnp.float32),
        teachers.class_ids,
        jnp.full(3, toy.WAY, jnp.int32),
    )


def nan_in_all_answers(data):
    return data._replace(tasks=data.tasks._replace(logits=data.tasks.logits * jnp.nan))


@case
def tgr():
    tasks = recovered_tasks()
    algorithm = algorithms.tgr(
        LEARNER,
        toy.LINEAR,
        toy.no_replay,
        SGD,
        num_classes=toy.CLASSES,
        num_groups=2,
        images_per_class=2,
        options=TgrOptions(teachers_per_step=2, replay_from="drawn"),
    )
    data = TgrData(tasks, np.asarray([0, 1, 1]), bank_of(tasks, toy.CLASSES))
    return Case(algorithm, data, nan_in_all_answers)


@case
def trustworthy():
    algorithm = algorithms.trustworthy(
        LEARNER,
        toy.LINEAR,
        SGD,
        num_classes=toy.CLASSES,
        num_teachers=3,
        options=StepOptions(
            teachers_per_step=2, tasks_per_step=2, queries=1, memory_per_class=4
        ),
    )
    data = TrustworthyData(recovered_tasks(), toy.bank(4))
    return Case(algorithm, data, nan_in_all_answers)


@case
def purer():
    algorithm = algorithms.purer(
        inversion.normalized_source(toy.SHAPE, (0.5,) * 3, (0.2,) * 3),
        (toy.quick_gradient(),),
        LEARNER,
        UPDATE,
        functools.partial(sample_episode, **EPISODES),
        pixels_optimizer=optax.sgd(1.0),
        optimizer=SGD,
        num_classes=toy.CLASSES,
        options=PurerOptions(images_per_class=2, teachers_per_step=2),
        curriculum=CurriculumOptions(after_steps=1),
    )
    return Case(algorithm, (toy.random_teachers(toy.LINEAR, 3),), nan_in_all_teachers)


@case
def episodic():
    algorithm = algorithms.episodic(LEARNER, UPDATE, SGD)
    return Case(algorithm, toy.bank(per_class=3), None)


@case
def distillation():
    teachers, images = 2, 6
    student = dataclasses.replace(toy.LINEAR, num_classes=teachers * toy.WAY)
    columns = np.arange(teachers + 1, dtype=np.int32) * toy.WAY
    algorithm = panel_distillation(
        student, columns=columns, optimizer=SGD, batch_size=4, crop_padding=1
    )
    rng = np.random.default_rng(0)
    yes = jnp.ones(images, bool)
    data = Described(
        jnp.asarray(rng.integers(0, 256, (images, *toy.SHAPE)), jnp.uint8),
        jnp.asarray(rng.normal(size=(images, teachers * toy.WAY)), jnp.float32),
        columns,
        jnp.ones(teachers),
        recovered=yes,
        natural=yes,
    )

    def spoil(data):
        return data._replace(logits=data.logits * jnp.nan)

    return Case(algorithm, data, spoil)


@case
def robust_hypernetwork():
    algorithm = baselines.robust_hypernetwork(embedding_dim=3)
    data = jnp.asarray(np.random.default_rng(0).normal(size=(5, 4)), jnp.float32)
    return Case(algorithm, data, nan_in_first_leaf, init_data=True)


class Ran(NamedTuple):
    """What the tests of one row share; `step` may be traced once."""

    case: Case
    step: Callable
    starts: list[Any]
    ends: list[Any]
    infos: list[Any]


def keys_of(seed):
    return jax.random.split(jax.random.fold_in(jax.random.key(7), seed), 2)


def begin(case):
    """``key -> state``, whatever `init` takes."""
    if case.init_data:
        return lambda key: case.algorithm.init(key, case.data)
    return case.algorithm.init


@functools.cache
def ran(name):
    """Two steps of two seeds, one after the other."""
    case = CASES[name]()
    step = toy.compiled_once(case.algorithm)
    starts = list(map(jax.jit(begin(case)), jax.random.split(jax.random.key(0), 2)))
    ends, infos = [], []
    for seed, state in enumerate(starts):
        for key in keys_of(seed):
            state, info = step(key, state, case.data)
            infos.append(info)
        ends.append(state)
    return Ran(case, step, starts, ends, infos)


def shapes(tree):
    return jax.tree.map(lambda x: (x.shape, x.dtype), tree)


def close(found, wanted):
    """Equal up to rounding, which may move a byte of an image by one."""
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        if x.dtype == jnp.uint8:
            assert np.abs(np.asarray(x, int) - np.asarray(y, int)).max() <= 1
        else:
            np.testing.assert_allclose(x, y, rtol=2e-3, atol=1e-4)


rows = pytest.mark.parametrize("name", CASES)


@rows
def test_arguments_are_called_alike(name):
    case = CASES[name]()
    parts = (case.algorithm.init, case.algorithm.step, case.algorithm.model)
    init, step, model = map(inspect.signature, parts)
    assert list(init.parameters) == ["key", "data"][: 1 + case.init_data]
    assert list(step.parameters) == ["key", "state", "data"]
    assert list(model.parameters) == ["state"]


@rows
def test_records_are_documented_and_keep_their_types(name):
    case = CASES[name]()
    state = jax.eval_shape(begin(case), jax.random.key(0))
    after, info = jax.eval_shape(
        case.algorithm.step, jax.random.key(0), state, case.data
    )
    assert jax.tree.structure(after) == jax.tree.structure(state)
    assert shapes(after) == shapes(state)
    assert state.step.dtype == jnp.int32 and state.step.shape == ()
    assert all(leaf.shape == () for leaf in jax.tree.leaves(info))
    assert info.is_finite.dtype == bool
    for record in (state, info):
        _, _, described = type(record).__doc__.partition("Attributes:\n")
        lines = [line.strip().partition(":")[0] for line in described.splitlines()]
        named = {name for line in lines for name in line.split(", ")}
        assert set(record._fields) <= named, type(record)


@rows
def test_init_is_its_shape_and_depends_on_the_key(name):
    case, _, starts, _, _ = ran(name)
    expected = jax.eval_shape(begin(case), jax.random.key(0))
    for state in starts:
        assert shapes(state) == shapes(expected)
        assert int(state.step) == 0
    models = [jax.tree.leaves(case.algorithm.model(state)) for state in starts]
    if name != "robust_hypernetwork":  # Its network starts from zero.
        assert any((a != b).any() for a, b in zip(*models, strict=True))


@rows
def test_model_is_linen_variables(name):
    case, _, _, ends, _ = ran(name)
    variables = case.algorithm.model(ends[0])
    assert isinstance(variables, dict) and "params" in variables
    assert set(variables) <= {"params", "batch_stats"}
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(variables))


@rows
def test_one_program_counts_steps_and_repeats_its_bits(name):
    case, step, starts, ends, infos = ran(name)
    assert all(bool(info.is_finite) for info in infos)
    state = starts[0]
    for number, key in enumerate(keys_of(0), 1):
        state, info = step(key, state, case.data)  # A second trace would raise.
        assert int(state.step) == number
    toy.assert_equal(state, ends[0])
    toy.assert_equal(info, infos[1])
    # Another key of the step is another result.
    other = starts[0]
    for key in keys_of(1):
        other, _ = step(key, other, case.data)
    pairs = zip(jax.tree.leaves(other), jax.tree.leaves(state), strict=True)
    assert any((a != b).any() for a, b in pairs)


@rows
def test_a_scan_of_two_seeds_by_vmap_is_two_loops(name):
    case, _, starts, ends, infos = ran(name)

    def run(state, keys):
        def body(state, key):
            return case.algorithm.step(key, state, case.data)

        return jax.lax.scan(body, state, keys)

    stacked = jax.tree.map(lambda *x: jnp.stack(x), *starts)
    keys = jnp.stack([keys_of(0), keys_of(1)])
    found, found_infos = jax.jit(jax.vmap(run))(stacked, keys)
    for seed in range(2):
        close(jax.tree.map(lambda x, i=seed: x[i], found), ends[seed])
        for number in range(2):
            info = jax.tree.map(lambda x, i=seed, j=number: x[i, j], found_infos)
            close(info, infos[2 * seed + number])


@rows
def test_a_nan_is_reported(name):
    case, step, starts, ends, _ = ran(name)
    key = jax.random.key(0)
    if case.spoil is not None:
        _, info = step(key, starts[0], case.spoil(case.data))
        assert not bool(info.is_finite)
    (field,) = {"params", "variables", "weight"} & set(starts[0]._fields)
    trained = getattr(ends[0], field)
    if field == "variables":
        trained = {**trained, "params": nan_in_first_leaf(trained["params"])}
    else:
        trained = nan_in_first_leaf(trained)
    _, info = step(key, ends[0]._replace(**{field: trained}), case.data)
    assert not bool(info.is_finite)


def test_a_model_of_an_earlier_version_loads_as_variables(tmp_path):
    """Meta-learners stored bare parameters; whatever was stored, variables come out."""
    arch = make_network("conv4", num_classes=3, image_shape=(16, 16, 3), width=4)
    shapes = jax.eval_shape(arch.init, jax.random.key(0))["params"]
    params = jax.tree.map(lambda x: np.ones(x.shape, x.dtype), shapes)
    flat = traverse_util.flatten_dict(params, sep="/")
    header = json.dumps({"architecture": arch.as_dict(), "notes": {"steps": 3}})
    arrays = {f"params/{name}": value for name, value in flat.items()}
    np.savez(tmp_path / "old.npz", header=np.asarray(header), **arrays)
    save_model(tmp_path / "new.npz", arch, {"params": params}, steps=3)
    save_model(tmp_path / "bare.npz", arch, params, steps=3)
    for name in ("old", "new", "bare"):
        found, variables, notes = load_model(tmp_path / f"{name}.npz")
        assert found == arch and notes == {"steps": 3}
        toy.assert_equal(variables, {"params": params})
