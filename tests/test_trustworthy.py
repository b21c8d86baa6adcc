"""Trustworthy-DFML: its policy against closed forms, its memory, its schedule."""

import functools
import importlib
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import test_contract
import toy

from free_jax import InputError, algorithms
from free_jax.algorithms import selection, task_memory
from free_jax.algorithms.recovered_tasks import Task
from free_jax.algorithms.selection import SelectionOptions
from free_jax.algorithms.task_memory import InterpolationOptions
from free_jax.algorithms.trustworthy import (
    ScheduleOptions,
    StepOptions,
    TrustworthyData,
)
from free_jax.objectives import kl

trustworthy = importlib.import_module("free_jax.algorithms.trustworthy")
INDEPENDENT = SelectionOptions(log_prob="independent")
ORDERED = SelectionOptions(log_prob="ordered")
WEIGHTS = jnp.asarray([0.5, -1.0, 2.0, 0.0])


def policy(options=ORDERED, count=2, **fields):
    return selection.init(options, 4, count)._replace(weights=WEIGHTS, **fields)


def test_the_gradient_of_independent_draws_is_counts_minus_chances():
    """d/dw sum_j log softmax(w)_j = counts - B p, over the candidates."""
    candidates = jnp.asarray([True, False, True, True])
    chosen = jnp.asarray([2, 0])
    at = policy(INDEPENDENT, chosen=chosen, candidates=candidates)
    found = selection.gradient(INDEPENDENT, at, 55.0)
    p = np.exp(np.asarray(WEIGHTS)) * np.asarray(candidates)
    p /= p.sum()
    wanted = -(55.0 - 40.0) * (np.asarray([1.0, 0, 1, 0]) - 2 * p)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


def test_ordered_draws_have_the_probabilities_of_drawing_them_so():
    everyone = jnp.ones(4, bool)
    total, mean = 0.0, np.zeros(4)
    slope = jax.grad(functools.partial(selection.log_prob, ORDERED))
    for pair in itertools.permutations(range(4), 2):
        chosen = jnp.asarray(pair)
        value = math.exp(selection.log_prob(ORDERED, WEIGHTS, chosen, everyone))
        p = np.exp(np.asarray(WEIGHTS))
        wanted = p[pair[0]] / p.sum() * p[pair[1]] / (p.sum() - p[pair[0]])
        assert value == pytest.approx(wanted, rel=1e-4)
        total += value
        mean += value * np.asarray(slope(WEIGHTS, chosen, everyone))
    assert total == pytest.approx(1.0, rel=1e-4)
    # So that a constant reward moves nothing, on average.
    np.testing.assert_allclose(mean, 0.0, atol=1e-5)


def test_teachers_are_drawn_without_replacement_by_their_chances():
    each = jax.random.split(jax.random.key(0), 4000)
    choose = jax.jit(
        jax.vmap(lambda k: selection.choose(ORDERED, k, policy(), 2).chosen)
    )
    pairs = np.asarray(choose(each))
    assert (pairs[:, 0] != pairs[:, 1]).all()
    everyone = jnp.ones(4, bool)
    for pair in itertools.permutations(range(4), 2):
        found = (pairs == pair).all(1).mean()
        wanted = math.exp(
            selection.log_prob(ORDERED, WEIGHTS, jnp.asarray(pair), everyone)
        )
        assert found == pytest.approx(wanted, abs=0.025)
    few = SelectionOptions(candidates=2, by="chance")
    choose = jax.jit(jax.vmap(lambda k: selection.choose(few, k, policy(few), 2)))
    drawn = choose(each[:500])
    rows = np.arange(500)[:, None]
    assert np.asarray(drawn.candidates)[rows, np.asarray(drawn.chosen)].all()
    assert (np.asarray(drawn.candidates).sum(1) == 2).all()
    counts = np.bincount(np.asarray(drawn.chosen).ravel()) / 1000
    np.testing.assert_allclose(counts, 0.25, atol=0.06)


@pytest.mark.parametrize("when", ["step", "generation"])
def test_weights_and_baseline_move_when_they_should(when):
    """As a loop in Python over rewards says, Adam included."""
    options = SelectionOptions(when=when)
    at = policy(options, chosen=jnp.asarray([0, 3]))
    adam, weights = optax.adam(0.1), WEIGHTS
    opt, baseline, n = adam.init(weights), 40.0, 0
    since, long = [], []
    update = jax.jit(functools.partial(selection.update, options))
    for number in range(1, 12):
        reward, renews = 30.0 + 3 * number, number in (6, 11)
        at = update(at, jnp.float32(reward), jnp.asarray(renews), jnp.int32(number))
        since.append(reward)
        long.append(reward)
        if when == "step" or renews or len(long) % 4 == 0:
            slope = jax.grad(functools.partial(selection.log_prob, options))(
                weights, jnp.asarray([0, 3]), jnp.ones(4, bool)
            )
            grads = -(np.mean(since) - baseline) * slope
            moved, opt = adam.update(grads, opt, weights)
            weights, since = optax.apply_updates(weights, moved), []
        if when == "step" or renews:
            # The first replaces the start.
            baseline += (np.mean(long) - baseline) / (n + 1)
            n, long = n + 1, []
        np.testing.assert_allclose(at.weights, weights, rtol=1e-4, atol=1e-5)
        assert float(at.baseline) == pytest.approx(baseline, rel=1e-5)
    by_chance = selection.update(
        SelectionOptions(by="chance"), at, jnp.float32(9.0), jnp.asarray(True), 12
    )
    toy.assert_equal(by_chance, at)


def test_a_policy_learns_whom_to_choose():
    """Two of ten teachers spoil what they are chosen for."""
    options = SelectionOptions(when="step")
    bad = jnp.zeros(10, bool).at[jnp.asarray([2, 7])].set(True)

    def step(at, key):
        at = selection.choose(options, key, at, 3)
        reward = 60.0 - 20.0 * bad[at.chosen].sum()
        return selection.update(options, at, reward, jnp.asarray(True), 1), ()

    start = selection.init(options, 10, 3)
    keys = jax.random.split(jax.random.key(0), 400)
    at, _ = jax.jit(lambda s: jax.lax.scan(step, s, keys))(start)
    chance = np.asarray(jax.nn.softmax(at.weights))
    # It drifts among equals, but never to these.
    assert 10 * chance[[2, 7]].max() < np.delete(chance, [2, 7]).min()


def episode(seed, ids):
    return toy.random_episode(seed, shots=1, queries=2)._replace(
        class_ids=jnp.asarray(ids)
    )


def test_a_task_between_two_is_protonet_on_mixed_features():
    params = toy.LINEAR.init(jax.random.key(0))["params"]
    first, second = episode(0, [1, 2, 3]), episode(1, [4, 5, 6])
    found = task_memory.interpolated_loss(toy.LINEAR, params, first, second, 0.3)

    def features(images):
        return toy.LINEAR.apply({"params": params}, images, norm="batch", features=True)

    support, query = (
        0.7 * features(a) + 0.3 * features(b)
        for a, b in (
            (first.support_images, second.support_images),
            (first.query_images, second.query_images),
        )
    )
    gaps = ((query[:, None] - support[None]) ** 2).sum(-1)  # One shot a class.
    log_p = jax.nn.log_softmax(-gaps)
    wanted = -log_p[np.arange(6), first.query_labels].mean()
    assert float(found) == pytest.approx(float(wanted), rel=1e-5)
    # Nothing of the second: the plain loss.
    alone = task_memory.interpolated_loss(toy.LINEAR, params, first, second, 0.0)
    plain = test_contract.LEARNER.loss(params, first)[0]
    assert float(alone) == pytest.approx(float(plain), rel=1e-5)


def stacked(values, shots, queries):
    """Support and query tasks of one teacher: images of one grey each."""

    def part(count, add):
        images = np.zeros((1, 2, count, *toy.SHAPE), np.float32)
        for way in range(2):
            images[0, way] = (values[way] + add) / 255
        return Task(
            jnp.asarray(images), jnp.zeros((1, 2, count, 2)), jnp.asarray([[3, 5]])
        )

    return part(shots, 0), part(queries, 1)


@pytest.mark.parametrize("kind", ["together", "apart"])
def test_the_memory_is_a_ring_a_class(kind):
    memory = task_memory.init(9, toy.SHAPE, shots=1, queries=2, per_class=12, kind=kind)
    # Four places; apart, two each.
    capacities = [bank.images.shape[1] for bank in memory]
    assert capacities == ([12] if kind == "together" else [2, 4])
    add = jax.jit(task_memory.add)
    for number in range(3):
        memory = add(memory, *stacked((10 * number, 100 + 10 * number), 1, 2))
    held = [bank.counts[jnp.asarray([3, 5])].tolist() for bank in memory]
    assert held == ([[9, 9]] if kind == "together" else [[2, 2], [4, 4]])
    draw = functools.partial(task_memory.draw, way=2, shots=1, queries=2)
    for seed in range(8):
        one = draw(jax.random.key(seed), memory)
        assert sorted(one.class_ids.tolist()) == [3, 5]
        greys = np.round(255 * np.asarray(one.query_images[:, 0, 0, 0])).astype(int)
        of_five = one.query_labels == one.class_ids.tolist().index(5)
        assert ((greys >= 100) == np.asarray(of_five)).all()
        if kind == "apart":
            support = np.round(255 * np.asarray(one.support_images[:, 0, 0, 0]))
            assert (support % 10 == 0).all() and (greys % 10 == 1).all()


def built(**options):
    return algorithms.trustworthy(
        test_contract.LEARNER,
        toy.LINEAR,
        optax.sgd(0.05),
        num_classes=toy.CLASSES,
        num_teachers=3,
        options=StepOptions(
            teachers_per_step=2, tasks_per_step=2, queries=1, memory_per_class=4
        ),
        **options,
    )


DATA = TrustworthyData(test_contract.recovered_tasks(), toy.bank(4))


def test_teachers_are_chosen_at_an_interval():
    algorithm = built(schedule=ScheduleOptions("interval", every=3))
    step = jax.jit(algorithm.step)
    state, renewed = algorithm.init(jax.random.key(0)), []
    for number in range(7):
        before = state
        state, info = step(jax.random.key(number), state, DATA)
        renewed.append(bool(info.renewed))
        if not renewed[-1]:
            toy.assert_equal(state.memory, before.memory)
            toy.assert_equal(state.drawn, before.drawn)
            assert float(info.distill_loss) == 0 < float(info.memory_loss)
        else:
            assert float(info.memory_loss) == 0 < float(info.distill_loss)
    assert renewed == [True, False, False, True, False, False, True]
    assert int(state.drawn.sum()) == 6


def test_patience_counts_steps_without_a_new_best():
    algorithm = built(schedule=ScheduleOptions("patience", every=2))
    step = jax.jit(algorithm.step)
    state, best, waited, wanted = algorithm.init(jax.random.key(1)), -1.0, 0, True
    for number in range(9):
        state, info = step(jax.random.key(number), state, DATA)
        assert bool(info.renewed) == wanted
        reward = float(info.reward)
        if wanted or reward > best:
            best, waited = reward, 0
        else:
            waited += 1
        wanted = waited >= 2
        assert bool(state.renews) == wanted and int(state.waited) == waited


def test_distillation_is_that_of_each_teacher_about_its_own():
    """A ProtoNet's answers for the query images, against the teacher's."""
    parts = trustworthy.Parts(
        test_contract.LEARNER,
        toy.LINEAR,
        optax.sgd(0.05),
        toy.CLASSES,
        3,
        False,
        StepOptions(queries=1),
        ScheduleOptions(),
        task_memory.InterpolationOptions(),
        SelectionOptions(),
        None,
    )
    params = toy.LINEAR.init(jax.random.key(0))["params"]
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.uniform(size=(3, 2, *toy.SHAPE)), jnp.float32)
    logits = jnp.asarray(rng.normal(size=(3, 2, 3)), jnp.float32)
    task = Task(images, logits, jnp.arange(3))
    found = trustworthy.distill_loss(parts, params, task.part(0, 1), task.part(1, 2))

    def features(x):
        return toy.LINEAR.apply({"params": params}, x, norm="batch", features=True)

    gaps = features(images[:, 1])[:, None] - features(images[:, 0])[None]
    wanted = kl(-jnp.square(gaps).sum(-1), logits[:, 1])
    assert float(found) == pytest.approx(float(wanted), rel=1e-5)


@pytest.mark.parametrize(
    ("record", "change", "match"),
    [
        ("options", StepOptions(shots=0), "shots=0 must be at least 1"),
        ("schedule", ScheduleOptions(loss="l1"), "loss='l1': choose one of kl"),
        ("interpolation", InterpolationOptions(2.0), "probability=2.0: must be"),
        ("select", SelectionOptions(rate=0.0), "rate=0.0 must be positive"),
    ],
)
def test_a_bad_option_is_refused_in_one_line(record, change, match):
    with pytest.raises(InputError, match=match) as error:
        algorithms.trustworthy(
            test_contract.LEARNER,
            toy.LINEAR,
            optax.sgd(0.05),
            num_classes=9,
            num_teachers=9,
            **{record: change},
        )
    assert "\n" not in str(error.value)


def test_too_few_teachers_or_places_are_refused():
    with pytest.raises(ValueError, match="5 are chosen among 3"):
        selection.check(SelectionOptions(), 3, 5)
    with pytest.raises(ValueError, match="holds no task of 1 \\+ 15"):
        algorithms.trustworthy(
            test_contract.LEARNER,
            toy.LINEAR,
            optax.sgd(0.05),
            num_classes=9,
            num_teachers=9,
            options=StepOptions(memory_per_class=8),
        )
