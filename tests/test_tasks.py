"""A task is a teacher and N of its classes: teachers of any number take part."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy

from free_jax import algorithms, inversion
from free_jax.algorithm import total_draws
from free_jax.algorithms import bidf_bilevel, turns
from free_jax.algorithms.bell import AlignOptions
from free_jax.algorithms.bidf import BidfOptions
from free_jax.algorithms.free import FreeOptions
from free_jax.algorithms.purer import PurerOptions
from free_jax.errors import InputError
from free_jax.fewshot.banks import CapacityOptions, MemoryOptions
from free_jax.fewshot.episodes import sample_episode
from free_jax.fewshot.learners import EpisodeInfo, protonet
from free_jax.inversion import answers
from free_jax.types import Teachers
from free_jax.zoo import Zoo, ZooGroup, tasks

CLASSES = 20
FIVE = dataclasses.replace(toy.LINEAR, num_classes=5)
EIGHT = dataclasses.replace(toy.LINEAR, num_classes=8, mean=(0.4,) * 3)
NETWORKS = (toy.LINEAR, FIVE, EIGHT)
SIZES = (2, 1, 3)
LEARNER = protonet(toy.LINEAR)
SGD = optax.sgd(0.1)


@functools.cache
def data():
    """Groups know classes 0 to 2, 3 to 7 and 8 to 15, in orders of their own."""
    found, first = [], 0
    for seed, (network, size) in enumerate(zip(NETWORKS, SIZES, strict=True)):
        held = network.num_classes
        teachers = toy.random_teachers(network, size, seed=seed, classes=held)
        found.append(teachers._replace(class_ids=teachers.class_ids + first))
        first += held
    return tuple(found)


def zoo():
    groups = [
        ZooGroup(
            network,
            teachers,
            np.full(size, np.nan),
            sources=tuple(f"{network.num_classes}/{i}" for i in range(size)),
        )
        for network, teachers, size in zip(NETWORKS, data(), SIZES, strict=True)
    ]
    return Zoo(tuple(groups), tuple(map(str, range(CLASSES))))


def narrow(way=toy.WAY):
    return tuple(tasks.narrowed(network, way) for network in NETWORKS)


# ---- networks --------------------------------------------------------------------


def test_a_narrowed_network_answers_about_the_chosen_classes():
    teacher = jax.tree.map(lambda x: x[1], data()[2])
    images = jnp.asarray(np.random.default_rng(0).uniform(size=(4, *toy.SHAPE)))
    chosen = jnp.asarray([6, 0, 3])
    network = tasks.narrowed(EIGHT, 3)
    task = tasks.take_task(data()[2], 1, chosen)
    whole = np.asarray(toy.apply(EIGHT, teacher.variables, images))
    said = toy.apply(network, task.variables, images)
    np.testing.assert_array_equal(said, whole[:, [6, 0, 3]])
    np.testing.assert_array_equal(task.class_ids, teacher.class_ids[chosen])
    said, moments = jax.jit(network.apply_with_moments)(task.variables, images)
    _, wanted = jax.jit(EIGHT.apply_with_moments)(teacher.variables, images)
    np.testing.assert_array_equal(said, whole[:, [6, 0, 3]])
    toy.assert_equal(moments, wanted)
    # Equal networks are equal programs, whatever they are asked about.
    assert network == tasks.narrowed(EIGHT, 3)
    assert hash(network) == hash(tasks.narrowed(EIGHT, 3))
    assert tasks.narrowed(EIGHT, 8) is EIGHT
    with pytest.raises(ValueError, match="tells 3 classes apart, a task has 5"):
        tasks.narrowed(toy.LINEAR, 5)


def test_a_service_answers_before_classes_are_picked():
    """Its likeliest label may be none of those that the task is about."""
    task = tasks.take_task(data()[2], 0, jnp.asarray([1, 2, 5]))
    images = jnp.asarray(np.random.default_rng(1).uniform(size=(32, *toy.SHAPE)))
    labels = answers.answers("labels")
    said = tasks.narrowed(EIGHT, 3, labels).apply(task.variables, images)
    teacher = jax.tree.map(lambda x: x[0], data()[2])
    whole = labels(EIGHT.apply(teacher.variables, images))
    np.testing.assert_array_equal(said, whole[:, jnp.asarray([1, 2, 5])])
    elsewhere = ~np.isin(np.asarray(whole.argmax(1)), [1, 2, 5])
    assert elsewhere.any() and (np.ptp(np.asarray(said)[elsewhere], axis=1) == 0).all()


def test_classes_are_distinct_and_drawn_alike():
    chosen = np.asarray(tasks.draw_classes(jax.random.key(0), 3000, 8, 3))
    assert chosen.shape == (3000, 3)
    assert all(len(set(row)) == 3 for row in chosen.tolist())
    share = np.bincount(chosen.ravel(), minlength=8) / 3000
    np.testing.assert_allclose(share, 3 / 8, atol=0.04)
    assert tasks.draw_classes(jax.random.key(0), 4, 3, 3) is None


# ---- who takes part --------------------------------------------------------------


def test_those_that_cannot_take_part_are_named():
    able = tasks.able(zoo(), 5)
    assert able.rows.tolist() == [2, 3, 4, 5]
    assert able.zoo.sources == ("5/0", "8/0", "8/1", "8/2")
    assert able.left_out == ("linear (3/0, 3/1): 3 classes, a task has 5",)
    many = tasks.able(zoo(), 8).left_out  # A line for each reason.
    assert len(many) == 2 and "5 classes" in many[1]
    twice = Zoo((zoo().groups[0],) * 2 + zoo().groups[2:], zoo().class_names)
    (line,) = tasks.able(twice, 5).left_out
    assert line.startswith("linear (") and line.count("3 classes") == 1
    assert "(4 teachers)" in line
    everyone = tasks.able(zoo(), 3)
    assert everyone.rows.tolist() == list(range(6)) and not everyone.left_out
    silent = dataclasses.replace(
        zoo().groups[2],
        network=dataclasses.replace(EIGHT, gives=frozenset({"features"})),
    )
    mixed = Zoo((*zoo().groups[:2], silent), zoo().class_names)
    able = tasks.able(mixed, 3, needs=("gradients",))
    assert able.rows.tolist() == [0, 1, 2]
    assert "no gradients" in able.left_out[0]
    with pytest.raises(InputError, match=r"no teacher can take part.*8 classes"):
        tasks.able(zoo(), 9)


# ---- the methods -----------------------------------------------------------------


def free(per_step):
    return algorithms.free(
        tuple(toy.quick_inverter(group + 1) for group in range(3)),
        narrow(),
        LEARNER,
        toy.LINEAR,
        toy.no_replay,
        SGD,
        num_classes=CLASSES,
        options=FreeOptions(
            teachers_per_step=per_step,
            images_per_class=2,
            warmup_steps=0,
            outer_optimizer=SGD,
        ),
        memory=MemoryOptions(50),
        align=AlignOptions(optimizer=SGD),
    )


def bidf():
    return algorithms.bidf(
        tuple(toy.quick_inverter(group + 1) for group in range(3)),
        narrow(),
        LEARNER,
        toy.LINEAR,
        bidf_bilevel.bilevel(toy.LINEAR, num_steps=1),
        lambda key, params, bank: (jax.tree.map(jnp.zeros_like, params), ()),
        toy.no_replay,
        SGD,
        num_teachers=SIZES,
        num_classes=CLASSES,
        options=BidfOptions(images_per_class=2, boundary_after=0, outer_optimizer=SGD),
        memory=CapacityOptions(100),
    )


def purer():
    zero = EpisodeInfo(jnp.zeros(()), jnp.zeros(()))
    return algorithms.purer(
        inversion.normalized_source(toy.SHAPE, (0.5,) * 3, (1.0,) * 3),
        tuple(toy.quick_gradient(group + 1) for group in range(3)),
        LEARNER._replace(loss=lambda params, episode: (zero.loss, zero)),
        lambda key, params, opt, bank: (params, opt, zero),
        functools.partial(sample_episode, way=3, shots=1, queries=1),
        pixels_optimizer=optax.sgd(1.0),
        optimizer=SGD,
        num_classes=CLASSES,
        way=toy.WAY,
        options=PurerOptions(images_per_class=2, teachers_per_step=4),
    )


def start(algorithm):
    state = jax.eval_shape(algorithm.init, jax.random.key(0))
    zeros = toy.zeros_like(state)
    return zeros._replace(params=toy.random_like(state.params))


def run(algorithm, num_steps):
    """States after each step; nothing is compiled twice."""
    step, state, states = toy.compiled_once(algorithm), start(algorithm), []
    for number in range(num_steps):
        state, info = step(jax.random.key(number), state, data())
        assert bool(info.is_finite)
        states.append(state)
    return states


def test_free_remembers_the_drawn_classes_alone():
    states = run(free(4), 3)
    seen = np.zeros(CLASSES, int)
    for number in range(3):
        key = jax.random.split(jax.random.key(number), 3)[0]
        for place in turns.places(turns.batches(4, 3), number):
            teachers = data()[place.group]
            rows = place.of(
                turns.draw(
                    jax.random.fold_in(key, place.batch.number),
                    place.batch,
                    number,
                    data(),
                )
            )
            chosen = turns.draw_tasks(key, place, teachers, 3)
            for i, row in enumerate(np.asarray(rows)):
                ids = np.asarray(teachers.class_ids[row])
                mine = ids if chosen is None else ids[np.asarray(chosen[i])]
                assert len(set(mine)) == 3
                seen[mine] += 2
        np.testing.assert_array_equal(states[number].memory.counts, seen)
    # Other classes of one teacher in other steps.
    assert (seen[8:16] > 0).sum() > 3


@pytest.mark.parametrize(("make", "per_step"), [(lambda: free(2), 2), (bidf, 1)])
def test_draws_are_counted_afterwards(make, per_step):
    """As often as the memory grew: by 2 or 4 images of 3 classes a teacher."""
    algorithm, num_steps = make(), 6
    states = run(algorithm, num_steps)
    counts = total_draws(algorithm, jax.random.key, np.arange(num_steps), data())
    assert counts.shape == (6,) and counts.sum() == num_steps * per_step
    of_groups = [counts[:2].sum(), counts[2:3].sum(), counts[3:].sum()]
    grown = np.asarray(states[-1].memory.counts)
    images = [grown[:3].sum(), grown[3:8].sum(), grown[8:].sum()]
    each = 3 * (4 if per_step == 1 else 2)
    assert [count // each for count in images] == of_groups
    if per_step == 2:  # Groups take turns.
        assert of_groups == [4, 4, 4]
    else:
        asked = np.concatenate([np.asarray(q) for q in states[-1].queries])
        np.testing.assert_array_equal(asked > 0, counts > 0)


def test_purer_moves_the_images_of_drawn_classes():
    algorithm = purer()
    states = run(algorithm, 3)
    before = start(algorithm).pixels
    for number, state in enumerate(states):
        moved = np.asarray(jnp.abs(state.pixels - before).reshape(CLASSES, -1).max(1))
        # The one teacher of five classes judges three of them, those that were drawn.
        key = jax.random.split(jax.random.key(number), 3)[0]
        place = turns.Place(turns.Batch(1, (1,), 1), 1, 0, 1)
        chosen = turns.draw_tasks(key, place, data()[1], 3)
        ids = np.asarray(data()[1].class_ids[0])[np.asarray(chosen[0])]
        assert set(3 + np.flatnonzero(moved[3:8])) == set(ids.tolist())
        assert 3 <= (moved[8:16] > 0).sum() <= 6
        before = state.pixels
    counts = total_draws(algorithm, jax.random.key, np.arange(3), data())
    assert counts.sum() == 12 and counts[2] == 3


def test_purer_asks_no_teacher_twice_where_one_group_holds_what_is_left():
    """Groups of one, one and three: the fourth of a step is another of the third's."""
    sizes = (1, 1, 3)
    stacks = tuple(Teachers((), jnp.zeros((size, 3), jnp.int32)) for size in sizes)
    for number in range(8):
        counts = purer().draws(jax.random.key(number), jnp.int32(number), stacks)
        assert [int(c.sum()) for c in counts] == [1, 1, 2]
        assert int(counts[2].max()) == 1


@pytest.mark.parametrize(
    "make", [lambda: free(4), pytest.param(bidf, marks=pytest.mark.slow), purer]
)
def test_a_state_that_is_given_away_ends_the_same(make):
    algorithm = make()
    ends = []
    for donate in (False, True):
        step = algorithm.compiled(donate=donate)
        state = start(algorithm)
        for number in range(2):
            state, _ = step(jax.random.key(number), state, data())
        ends.append(state)
    toy.assert_equal(*ends)
